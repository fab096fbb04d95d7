"""Group and layer normalization in the form that TFLite files hold well: few operations."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.layers.convert import rebuild

Tensor = Any

ISLAND = "image_statistics"
"""Name of the scope of these operations in a file: int8 files compute them in floats."""


class ImageNormalization(keras.layers.Layer):
    """Group normalization of images in operations that an int8 kernel exists for.

    Keras makes tensors of five axes and a dozen operations of it. Here it is two means, two
    products, a difference, a sum and a reciprocal root, all of four axes: a mean over the channels
    of a group is a 1x1 convolution with a constant matrix.

    In int8, one step serves all channels of a tensor, and a channel whose variance is a hundredth
    of the largest would vanish. Group normalization does not care about the scale of its input, so
    that `gains`, which the converter folds into the convolution before, bring every channel to the
    same variance; epsilon is scaled along:

        (x - m) / sqrt(v + e) = (k x - k m) / sqrt(k^2 v + k^2 e)

    Args:
        groups: number of groups.
        gamma: scale of each channel.
        beta: shift of each channel.
        epsilon: added to the variance.
        gains: `k` of each channel, equal within a group; ones for files of floats.
        name: name of the layer.
    """

    def __init__(
        self,
        groups: int,
        gamma: np.ndarray,
        beta: np.ndarray,
        epsilon: float,
        gains: np.ndarray,
        name: str,
    ):
        super().__init__(name=name)
        channels = gamma.size
        size = channels // groups
        self._pooling = None
        if size > 1:
            blocks = np.kron(np.eye(groups), np.full((size, size), 1 / size))
            self._pooling = blocks.astype(np.float32)[None, None]
        self._gamma, self._beta, self._gains = gamma, beta, gains
        self._epsilon = (epsilon * gains.astype(np.float64) ** 2).astype(np.float32)

    def call(self, inputs: Tensor) -> Tensor:
        """Returns the normalized images."""
        x = inputs * self._gains
        with keras.name_scope(ISLAND):
            centered = x - self._pooled(ops.mean(x, axis=(1, 2), keepdims=True))
            variance = self._pooled(ops.mean(ops.square(centered), axis=(1, 2), keepdims=True))
            return centered * (ops.rsqrt(variance + self._epsilon) * self._gamma) + self._beta

    def _pooled(self, values: Tensor) -> Tensor:
        if self._pooling is None:
            return values
        return ops.conv(values, self._pooling, padding="valid", data_format="channels_last")


class ChannelNormalization(keras.layers.Layer):
    """Layer normalization over the channels, which an int8 file computes in floats.

    Args:
        layer: the `LayerNormalization` whose place it takes.
    """

    def __init__(self, layer: keras.layers.LayerNormalization):
        super().__init__(name=layer.name)
        self.supports_masking = True
        self._epsilon = layer.epsilon
        self._gamma, self._beta = (
            np.float32(default) if weight is None else np.array(weight)
            for weight, default in ((layer.gamma, 1.0), (layer.beta, 0.0))
        )

    def call(self, inputs: Tensor) -> Tensor:
        """Returns the normalized inputs."""
        with keras.name_scope(ISLAND):
            mean = ops.mean(inputs, axis=-1, keepdims=True)
            variance = ops.mean(ops.square(inputs - mean), axis=-1, keepdims=True)
            scale = ops.rsqrt(variance + self._epsilon) * self._gamma
            # Not `(inputs - mean) * scale + beta`: the converter would fold beta into the bias of
            # the layer behind, which would then depend on all its weights, and on their faults.
            return inputs * scale + (self._beta - mean * scale)


def image_statistics(model: keras.Model, images: np.ndarray | None = None) -> keras.Model:
    """Returns a plain model whose group and layer normalizations are in a form for TFLite.

    Args:
        model: plain functional or Sequential model.
        images: images from which the gains come, see `ImageNormalization`; None for gains of 1.

    Returns:
        A new model of the same function, or `model` itself where it has no group normalization of
        images, and no layer normalization, with the channels last.
    """
    layers = {layer.name: layer for layer in model._flatten_layers() if _is_ours(layer)}
    if not layers and not any(map(_is_of_channels, model._flatten_layers())):
        return model
    gains = _gains(model, layers, images)

    def clone(layer: keras.Layer) -> keras.Layer:
        if _is_of_channels(layer):
            return ChannelNormalization(layer)
        if not _is_ours(layer):
            return type(layer).from_config(layer.get_config())
        channels = gains[layer.name].size
        gamma, beta = (
            np.full(channels, default, np.float32) if weight is None else np.array(weight)
            for weight, default in ((layer.gamma, 1.0), (layer.beta, 0.0))
        )
        groups = _groups(layer, channels)
        return ImageNormalization(
            groups, gamma, beta, layer.epsilon, gains[layer.name], name=layer.name
        )

    return rebuild(model, clone)


def has_image_statistics(model: keras.Model) -> bool:
    """Returns whether `image_statistics` made this model."""
    kinds = (ImageNormalization, ChannelNormalization)
    return any(isinstance(layer, kinds) for layer in model._flatten_layers())


def _is_of_channels(layer: Any) -> bool:
    is_ours = type(layer) is keras.layers.LayerNormalization and not layer.rms_scaling
    return is_ours and layer.axis == [-1] and layer.compute_dtype == "float32"


def _is_ours(layer: Any) -> bool:
    if not isinstance(layer, keras.layers.GroupNormalization) or layer.axis not in (-1, 3):
        return False
    try:
        return len(layer.input.shape) == 4
    except (AttributeError, ValueError):  # called several times: left as Keras computes it
        return False


def _groups(layer: Any, channels: int) -> int:
    return channels if layer.groups == -1 else layer.groups


def _gains(model: Any, layers: dict[str, Any], images: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns one over the root of each channel's mean variance, by layer."""
    found = {name: np.ones(layer.input.shape[-1], np.float32) for name, layer in layers.items()}
    if images is None or not layers:
        return found
    probe = keras.Model(model.inputs, [layer.input for layer in layers.values()])
    inputs = probe.predict(images, verbose=0)
    inputs = inputs if isinstance(inputs, list) else [inputs]
    for (name, layer), values in zip(layers.items(), inputs, strict=True):
        variance = values.astype(np.float64).var(axis=(1, 2)).mean(0)
        groups = _groups(layer, variance.size)
        pooled = np.repeat(variance.reshape(groups, -1).mean(1), variance.size // groups)
        # A dead channel has no scale to bring anywhere.
        least = 1e-6 * pooled.max() if pooled.any() else 1.0
        found[name] = (1 / np.sqrt(np.maximum(pooled, least))).astype(np.float32)
    return found
