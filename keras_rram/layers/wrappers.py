"""`TimeDistributed` with one Drop-Connect mask for a whole sequence."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_rram.layers.mixin import DropConnectMixin
from keras_rram.layers.parts import side_by_side

Tensor = Any


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectTimeDistributed(keras.layers.TimeDistributed):
    """`keras.layers.TimeDistributed` that draws one Drop-Connect mask for a whole sequence.

    The Keras class calls its layer once for each time step, and a Drop-Connect layer in it would
    draw a mask for each. Here all steps of a batch find the same kernels, as they do on a chip.
    `to_drop_connect` puts it where the model has a `TimeDistributed`.

    Args:
        layer: a Drop-Connect layer, or a model with such layers.
        **kwargs: further arguments of `keras.layers.TimeDistributed`.

    Example:

    ```python
    dense = keras_rram.layers.DropConnectDense(4, drop_connect=0.2)
    layer = keras_rram.layers.DropConnectTimeDistributed(dense)
    ```
    """

    @property
    def masks(self) -> int:
        """How many masks a batch gets in training: as many as the layer that needs the most."""
        return max((part.masks for part in holders(self.layer)), default=1)

    @side_by_side
    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        """Returns the layer's outputs in all time steps, with the same effective kernels."""
        with _held_kernels(self.layer, training):
            return super().call(inputs, training=training, mask=mask)


def holders(layer: Any) -> list[Any]:
    """Returns the Drop-Connect layers in a layer or model, itself included."""
    return [
        part
        for part in layer._flatten_layers()
        if isinstance(part, DropConnectMixin) and part.drop_connect is not None
    ]


@contextlib.contextmanager
def holding(layer: Any, kernels: dict[str, Tensor]) -> Iterator[None]:
    """Has a Drop-Connect layer compute with given effective kernels in a `with` block."""
    vars(layer)["_held_kernels"] = kernels  # not tracked: tensors of one call
    try:
        yield
    finally:
        vars(layer)["_held_kernels"] = None


@contextlib.contextmanager
def _held_kernels(layer: Any, training: bool | None) -> Iterator[None]:
    """Draws the effective kernels of all Drop-Connect layers once for a `with` block."""
    with contextlib.ExitStack() as stack:
        for part in holders(layer):
            drawn = {slot: part.effective_kernel(slot, training) for slot in part.kernel_slots}
            stack.enter_context(holding(part, drawn))
        yield
