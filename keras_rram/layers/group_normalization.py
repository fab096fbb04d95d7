"""Group and instance normalization: statistics of each image, which no chip can break."""

import math
from typing import Any

import keras

Tensor = Any

# Kind of normalization -> what its layers' names end with.
NORMALIZATIONS = {"batch": "bn", "instance": "in", "group": "gn"}
GROUP_CHANNELS = 4
"""Channels of a group, where their number is a multiple of it."""


@keras.saving.register_keras_serializable(package="keras_rram")
class FusedGroupNormalization(keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization`, faster on the TensorFlow backend.

    It normalizes each image by the mean and the variance of the image itself, within groups of
    channels, so there are no statistics of training that a chip's faults could make wrong: what a
    fault does to a channel's mean and scale is undone on the spot. `groups=-1` normalizes every
    channel alone (instance normalization). Same arguments, weights and results as the Keras layer,
    whose dozen operations it makes few; `keras_rram.bake` gives that layer back.

    It needs maps of more than a few pixels, and what comes behind must not read just what it sets
    constant: right behind instance normalization, global average pooling reads the same for every
    image.

    On the TensorFlow backend, images `(batch, height, width, channels)` are reduced by matrix
    products, and the gradient is written out:

        dx = (gamma dy - mean(gamma dy) - x^ mean(gamma dy x^)) / sigma

    with `x^` the normalized input and means over a group. Any other backend or input is left to
    the Keras layer.

    Reference: [Wu and He, 2018](https://arxiv.org/abs/1803.08494); instance normalization:
    [Ulyanov et al., 2016](https://arxiv.org/abs/1607.08022).

    Args:
        *args: arguments of `keras.layers.GroupNormalization`, likewise `**kwargs`.
        **kwargs: see `*args`.

    Example:

    ```python
    layer = keras_rram.layers.FusedGroupNormalization(groups=-1)
    outputs = layer(keras.random.normal((8, 28, 28, 16)))
    ```
    """

    def call(self, inputs: Tensor) -> Tensor:
        """Returns the normalized inputs."""
        if not _can_fuse(self, inputs):
            return super().call(inputs)
        import tensorflow as tf

        # As in Keras, 16-bit inputs are normalized in float32.
        x = tf.cast(inputs, tf.float32)
        channels = x.shape[-1]
        gamma = tf.ones([channels]) if self.gamma is None else tf.cast(self.gamma, tf.float32)
        beta = tf.zeros([channels]) if self.beta is None else tf.cast(self.beta, tf.float32)
        groups = channels if self.groups == -1 else self.groups
        return tf.cast(_normalize(x, gamma, beta, groups, self.epsilon), self.compute_dtype)


def groups_of(normalization: str, channels: int) -> int:
    """Returns the argument `groups` of "instance" or "group" normalization."""
    return -1 if normalization == "instance" else channels // math.gcd(channels, GROUP_CHANNELS)


def _can_fuse(layer: Any, inputs: Tensor) -> bool:
    return (
        keras.backend.backend() == "tensorflow"
        and len(inputs.shape) == 4
        and layer.axis in (-1, 3)
        and inputs.shape[-1] is not None
        and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float16", "bfloat16")
    )


def _normalize(x: Tensor, gamma: Tensor, beta: Tensor, groups: int, epsilon: float) -> Tensor:
    import tensorflow as tf

    channels = x.shape[-1]

    def pooled(values: Tensor) -> Tensor:
        """Means of each group, at each of its channels."""
        if groups == channels:
            return values
        parts = tf.reshape(values, [-1, 1, 1, groups, channels // groups])
        parts = tf.broadcast_to(tf.reduce_mean(parts, -1, keepdims=True), tf.shape(parts))
        return tf.reshape(parts, [-1, 1, 1, channels])

    @tf.custom_gradient
    def normalize(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Any]:
        pixels = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], x.dtype)
        centered = x - pooled(_sum_of_pixels(x) / pixels)
        variance = pooled(_sum_of_pixels(centered * centered) / pixels)
        inverse = tf.math.rsqrt(variance + epsilon)
        scale = inverse * gamma

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            sums = _sum_of_pixels(dy)
            products = _sum_of_pixels(dy * centered) * inverse
            shift = inverse * pooled(gamma * sums / pixels)
            slope = inverse * inverse * pooled(gamma * products / pixels)
            dx = dy * scale - (centered * slope + shift)
            return dx, tf.reduce_sum(products, [0, 1, 2]), tf.reduce_sum(sums, [0, 1, 2])

        return centered * scale + beta, gradient

    return normalize(x, gamma, beta)


def _sum_of_pixels(x: Tensor) -> Tensor:
    """Sums over height and width, `(batch, 1, 1, channels)`.

    As a matrix product: TensorFlow's own reduction over middle axes is slower on a CPU.
    """
    import tensorflow as tf

    shape = tf.shape(x)
    flat = tf.reshape(x, [shape[0], shape[1] * shape[2], x.shape[-1]])
    sums = tf.matmul(tf.ones([shape[0], 1, shape[1] * shape[2]], x.dtype), flat)
    return tf.reshape(sums, [shape[0], 1, 1, x.shape[-1]])
