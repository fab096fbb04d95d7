"""Batch normalization in one operation on the TensorFlow backend, which Keras does not use."""

from typing import Any

import keras
from keras import ops

from keras_rram.layers.fused_statistics import normalize, normalize_by

Tensor = Any


@keras.saving.register_keras_serializable(package="keras_rram")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, faster on the TensorFlow backend.

    Use it in place of the Keras layer: it has the same arguments and weights, and the same results
    up to rounding, gradients and moving statistics included. Move weights between the two with
    `get_weights` and `set_weights`: Keras names the groups of a `.weights.h5` file after classes.
    `keras_rram.bake` gives the Keras layer back.

    On the TensorFlow backend, images `(batch, height, width, channels)` go through the operation
    `FusedBatchNormV3`, where Keras composes a dozen. Any other backend or input (another rank or
    axis, a mask, float64, `renorm`, `synchronized`) is left to the Keras layer. On x86 processors
    channels that are no multiple of 16 go through it by a detour in training
    (`keras_rram.layers.fused_statistics`), up to four times as fast.

    Reference: the fused operation applies Bessel's correction to the variance that it returns,
    and Keras keeps the uncorrected one, as [Ioffe and Szegedy, 2015](
    https://arxiv.org/abs/1502.03167) normalize with; it is converted back by `(n - 1) / n` for
    `n` values in a channel.

    Args:
        *args: arguments of `keras.layers.BatchNormalization`, likewise `**kwargs`.
        **kwargs: see `*args`.

    Example:

    ```python
    layer = keras_rram.layers.normalization.FusedBatchNormalization(momentum=0.9, epsilon=1e-5)
    outputs = layer(keras.random.normal((8, 28, 28, 16)), training=True)
    ```
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        """Returns the normalized inputs; in training by the batch's statistics."""
        if mask is not None or not can_fuse(self, inputs):
            return super().call(inputs, training=training, mask=mask)
        if not training or not self.trainable:
            outputs, _, _ = _fused(self, inputs, self.moving_mean, self.moving_variance)
            return ops.cast(outputs, self.compute_dtype)
        outputs, mean, variance = _fused(self, inputs)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)


def normalize_by_batch(
    layer: keras.layers.BatchNormalization, inputs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Does what a batch normalization does in training, and changes no variable.

    Args:
        layer: a built layer, `FusedBatchNormalization` or not.
        inputs: what the layer takes.

    Returns:
        The layer's outputs, and the mean and the (uncorrected) variance of the batch by channel,
        shape `(channels,)`, float32 or float64.
    """
    if can_fuse(layer, inputs):
        outputs, mean, variance = _fused(layer, inputs)
    else:
        inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        axes = [axis for axis in range(len(inputs.shape)) if axis != layer.axis % len(inputs.shape)]
        mean, variance = ops.moments(inputs, axes=axes)
        outputs = ops.batch_normalization(
            inputs,
            mean,
            variance,
            axis=layer.axis,
            offset=None if layer.beta is None else ops.cast(layer.beta, inputs.dtype),
            scale=None if layer.gamma is None else ops.cast(layer.gamma, inputs.dtype),
            epsilon=layer.epsilon,
        )
    return ops.cast(outputs, layer.compute_dtype), mean, variance


def can_fuse(layer: keras.layers.BatchNormalization, inputs: Tensor) -> bool:
    """Returns whether TensorFlow's fused operation does what a layer does with its inputs."""
    return (
        keras.backend.backend() == "tensorflow"
        and len(inputs.shape) == 4
        and layer.axis in (-1, 3)
        and not layer.synchronized
        and not getattr(layer, "renorm", False)
        and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float16", "bfloat16")
        and keras.backend.standardize_dtype(layer.moving_mean.dtype) == "float32"
    )


def _fused(
    layer: keras.layers.BatchNormalization,
    inputs: Tensor,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizes by the given statistics, or else the batch's; returns outputs and statistics."""
    import tensorflow as tf

    # As in Keras, 16-bit inputs are normalized in float32.
    x = tf.cast(inputs, tf.float32)
    channels = x.shape[-1]
    scale = tf.ones([channels]) if layer.gamma is None else tf.convert_to_tensor(layer.gamma)
    offset = tf.zeros([channels]) if layer.beta is None else tf.convert_to_tensor(layer.beta)
    if mean is None:
        return normalize(x, scale, offset, layer.epsilon)
    return normalize_by(x, scale, offset, mean, variance, layer.epsilon), mean, variance
