"""Convolutions and transposed convolutions with Drop-Connect and chip faults."""

from typing import Any

import keras
from keras import ops

from keras_rram.layers.mixin import DropConnectMixin
from keras_rram.layers.parts import side_by_side

Tensor = Any


class _Convolution(DropConnectMixin):
    @property
    def is_product(self) -> bool:
        """Whether it is a convolution of single pixels, of all channels."""
        ones = (1,) * self.rank
        is_pointwise = self.kernel_size == ones and self.strides == ones and self.groups == 1
        return is_pointwise and self.data_format == "channels_last"

    @side_by_side
    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns `activation(convolution(inputs, effective_kernel) + bias)`."""
        kernel = self.effective_kernel(training=training)
        return self._bias_and_activation(self.convolution_op(inputs, kernel))


class _TransposedConvolution(DropConnectMixin):
    @side_by_side
    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns `activation(transposed_convolution(inputs, effective_kernel) + bias)`."""
        outputs = ops.conv_transpose(
            inputs,
            self.effective_kernel(training=training),
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self._bias_and_activation(outputs)


def is_depthwise_convolution(layer: keras.layers.Conv2D) -> bool:
    """Whether each filter of a grouped convolution takes one channel alone, as in ConvNeXt.

    Convolutions of two strides are none here: TensorFlow has no depthwise ones.
    """
    return layer.groups > 1 and layer.kernel.shape[2] == 1 and len(set(layer.strides)) == 1


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectConv1D(_Convolution, keras.layers.Conv1D):
    """`keras.layers.Conv1D` with Drop-Connect and chip faults on its kernel.

    Args:
        *args: arguments of `keras.layers.Conv1D`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `kernel_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectConv1D(32, 3, padding="causal", drop_connect=0.2)
    ```
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Returns the convolution, causal padding included."""
        padding = self.padding
        if padding == "causal":
            inputs = ops.pad(inputs, self._compute_causal_padding())
            padding = "valid"
        return ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectConv2D(_Convolution, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with Drop-Connect and chip faults on its kernel.

    Args:
        *args: arguments of `keras.layers.Conv2D`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `kernel_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectConv2D(32, 3, padding="same", drop_connect=0.2)
    ```
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Returns the convolution; one filter for each channel is a depthwise convolution."""
        if not is_depthwise_convolution(self):
            return super().convolution_op(inputs, kernel)
        # Keras hands grouped convolutions on TensorFlow to XLA, which on a CPU takes 25 times as
        # long as the depthwise convolution that this is.
        return ops.depthwise_conv(
            inputs,
            ops.reshape(kernel, (*self.kernel_size, self.groups, -1)),
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectConv3D(_Convolution, keras.layers.Conv3D):
    """`keras.layers.Conv3D` with Drop-Connect and chip faults on its kernel.

    Args:
        *args: arguments of `keras.layers.Conv3D`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `kernel_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectConv3D(32, 3, padding="same", drop_connect=0.2)
    ```
    """


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectConv1DTranspose(_TransposedConvolution, keras.layers.Conv1DTranspose):
    """`keras.layers.Conv1DTranspose` with Drop-Connect and chip faults on its kernel.

    Args:
        *args: arguments of `keras.layers.Conv1DTranspose`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `kernel_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectConv1DTranspose(32, 3, strides=2, drop_connect=0.2)
    ```
    """


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectConv2DTranspose(_TransposedConvolution, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with Drop-Connect and chip faults on its kernel.

    Args:
        *args: arguments of `keras.layers.Conv2DTranspose`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `kernel_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectConv2DTranspose(32, 3, strides=2, drop_connect=0.2)
    ```
    """


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectConv3DTranspose(_TransposedConvolution, keras.layers.Conv3DTranspose):
    """`keras.layers.Conv3DTranspose` with Drop-Connect and chip faults on its kernel.

    Args:
        *args: arguments of `keras.layers.Conv3DTranspose`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `kernel_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectConv3DTranspose(32, 3, strides=2, drop_connect=0.2)
    ```
    """
