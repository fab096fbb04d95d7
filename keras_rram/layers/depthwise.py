"""Depthwise and separable convolutions with Drop-Connect and chip faults."""

from typing import Any

import keras
from keras import ops

from keras_rram.layers.mixin import DropConnectMixin
from keras_rram.layers.parts import side_by_side

Tensor = Any


class _DepthwiseConvolution(DropConnectMixin):
    _constraint_arguments = ("depthwise_constraint",)

    @side_by_side
    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns `activation(depthwise_convolution(inputs, effective_kernel) + bias)`."""
        outputs = ops.depthwise_conv(
            inputs,
            self.effective_kernel(training=training),
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self._bias_and_activation(outputs)


class _SeparableConvolution(DropConnectMixin):
    kernel_slots = ("depthwise_kernel", "pointwise_kernel")
    _constraint_arguments = ("depthwise_constraint", "pointwise_constraint")

    @side_by_side
    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns `activation(separable_convolution(inputs, effective kernels) + bias)`."""
        outputs = ops.separable_conv(
            inputs,
            self.effective_kernel("depthwise_kernel", training=training),
            self.effective_kernel("pointwise_kernel", training=training),
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self._bias_and_activation(outputs)


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectDepthwiseConv1D(_DepthwiseConvolution, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` with Drop-Connect and chip faults on its kernel.

    Args:
        *args: arguments of `keras.layers.DepthwiseConv1D`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `depthwise_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectDepthwiseConv1D(3, strides=2, drop_connect=0.2)
    ```
    """


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectDepthwiseConv2D(_DepthwiseConvolution, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with Drop-Connect and chip faults on its kernel.

    Args:
        *args: arguments of `keras.layers.DepthwiseConv2D`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `depthwise_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectDepthwiseConv2D(3, strides=2, drop_connect=0.2)
    ```
    """


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectSeparableConv1D(_SeparableConvolution, keras.layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` with Drop-Connect and chip faults on both kernels.

    Args:
        *args: arguments of `keras.layers.SeparableConv1D`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `DropConnect` as `depthwise_constraint` or `pointwise_constraint`
            means `drop_connect=`, for both kernels.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectSeparableConv1D(32, 3, drop_connect=0.2)
    ```
    """


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectSeparableConv2D(_SeparableConvolution, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` with Drop-Connect and chip faults on both kernels.

    Args:
        *args: arguments of `keras.layers.SeparableConv2D`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `DropConnect` as `depthwise_constraint` or `pointwise_constraint`
            means `drop_connect=`, for both kernels.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectSeparableConv2D(32, 3, drop_connect=0.2)
    ```
    """
