"""Recurrent layers with Drop-Connect and chip faults, one mask for a whole sequence."""

import dataclasses
from typing import Any

import keras

from keras_rram.layers.composite import CompositeMixin
from keras_rram.layers.parts import side_by_side

Tensor = Any


class _Recurrent(CompositeMixin):
    _places = {"kernel": ("cell", "kernel"), "recurrent_kernel": ("cell", "recurrent_kernel")}
    _constraint_arguments = ("kernel_constraint", "recurrent_constraint")

    def _constraint_owner(self) -> Any:
        return self.cell

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        """Creates the cell's weights, then the drop rate and the masks of its two kernels."""
        self._plain.build(self, sequences_shape, initial_state_shape)
        self._build_fault_weights()

    @side_by_side
    def call(
        self,
        sequences: Tensor,
        initial_state: Any = None,
        mask: Tensor = None,
        training: bool | None = False,
    ) -> Any:
        """Returns what the Keras layer returns, with the effective kernels in each time step."""
        layer = self._stand_in(training)
        return self._plain.call(
            layer, sequences, initial_state=initial_state, mask=mask, training=training
        )


@dataclasses.dataclass(frozen=True)
class _Alone:
    """A layer's `use_cudnn` for itself alone; equal to no setting of Keras."""

    setting: Any


class _Gated(_Recurrent):
    """A recurrent layer for which Keras has a fused kernel, such as that of cuDNN."""

    @property
    def use_cudnn(self) -> Any:
        """What Keras may use, hidden from the fused path of `Bidirectional`.

        That path reads the stored kernels of both its layers, and would miss their faults.
        """
        is_plain = getattr(self, "drop_connect", None) is None
        return self._use_cudnn if is_plain else _Alone(self._use_cudnn)

    @use_cudnn.setter
    def use_cudnn(self, value: Any) -> None:
        # `Bidirectional` assigns what it reads to its copies of the layer.
        self._use_cudnn = value.setting if isinstance(value, _Alone) else value

    def _stand_in(self, training: bool | None, **attributes: Any) -> Any:
        return super()._stand_in(training, use_cudnn=self._use_cudnn, **attributes)


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectSimpleRNN(_Recurrent, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` with Drop-Connect and chip faults on both its kernels.

    Args:
        *args: arguments of `keras.layers.SimpleRNN`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `DropConnect` as `kernel_constraint` or `recurrent_constraint` means
            `drop_connect=`, for both kernels.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectSimpleRNN(32, return_sequences=True, drop_connect=0.2)
    ```
    """

    _plain = keras.layers.SimpleRNN


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectLSTM(_Gated, keras.layers.LSTM):
    """`keras.layers.LSTM` with Drop-Connect and chip faults on both its kernels.

    Args:
        *args: arguments of `keras.layers.LSTM`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `DropConnect` as `kernel_constraint` or `recurrent_constraint` means
            `drop_connect=`, for both kernels.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectLSTM(32, return_sequences=True, drop_connect=0.2)
    ```
    """

    _plain = keras.layers.LSTM


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectGRU(_Gated, keras.layers.GRU):
    """`keras.layers.GRU` with Drop-Connect and chip faults on both its kernels.

    Args:
        *args: arguments of `keras.layers.GRU`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `DropConnect` as `kernel_constraint` or `recurrent_constraint` means
            `drop_connect=`, for both kernels.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectGRU(32, return_sequences=True, drop_connect=0.2)
    ```
    """

    _plain = keras.layers.GRU


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectConvLSTM1D(_Recurrent, keras.layers.ConvLSTM1D):
    """`keras.layers.ConvLSTM1D` with Drop-Connect and chip faults on both its kernels.

    Args:
        *args: arguments of `keras.layers.ConvLSTM1D`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `DropConnect` as `kernel_constraint` or `recurrent_constraint` means
            `drop_connect=`, for both kernels.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectConvLSTM1D(32, 3, drop_connect=0.2)
    ```
    """

    _plain = keras.layers.ConvLSTM1D


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectConvLSTM2D(_Recurrent, keras.layers.ConvLSTM2D):
    """`keras.layers.ConvLSTM2D` with Drop-Connect and chip faults on both its kernels.

    Args:
        *args: arguments of `keras.layers.ConvLSTM2D`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `DropConnect` as `kernel_constraint` or `recurrent_constraint` means
            `drop_connect=`, for both kernels.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectConvLSTM2D(32, 3, drop_connect=0.2)
    ```
    """

    _plain = keras.layers.ConvLSTM2D


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectConvLSTM3D(_Recurrent, keras.layers.ConvLSTM3D):
    """`keras.layers.ConvLSTM3D` with Drop-Connect and chip faults on both its kernels.

    Args:
        *args: arguments of `keras.layers.ConvLSTM3D`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `DropConnect` as `kernel_constraint` or `recurrent_constraint` means
            `drop_connect=`, for both kernels.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectConvLSTM3D(32, 3, drop_connect=0.2)
    ```
    """

    _plain = keras.layers.ConvLSTM3D
