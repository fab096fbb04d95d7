"""Dense layers with Drop-Connect and chip faults."""

from typing import Any

import keras
from keras import ops

from keras_rram.layers.mixin import DropConnectMixin
from keras_rram.layers.parts import side_by_side

Tensor = Any


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectDense(DropConnectMixin, keras.layers.Dense):
    """`keras.layers.Dense` with Drop-Connect and chip faults on its kernel.

    Args:
        *args: arguments of `keras.layers.Dense`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `kernel_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectDense(10, drop_connect=0.2)
    outputs = layer(keras.ops.ones((2, 4)), training=True)
    ```
    """

    is_product = True

    @side_by_side
    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns `activation(inputs @ effective_kernel + bias)`."""
        return self._bias_and_activation(
            ops.matmul(inputs, self.effective_kernel(training=training))
        )


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectEinsumDense(DropConnectMixin, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` with Drop-Connect and chip faults on its kernel.

    Args:
        *args: arguments of `keras.layers.EinsumDense`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `kernel_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectEinsumDense(
        "abc,cd->abd", output_shape=(None, 64), bias_axes="d", drop_connect=0.2
    )
    ```
    """

    @side_by_side
    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns `activation(einsum(equation, inputs, effective_kernel) + bias)`."""
        kernel = self.effective_kernel(training=training)
        return self._bias_and_activation(ops.einsum(self.equation, inputs, kernel))
