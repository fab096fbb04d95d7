"""How the kernels of a layer are unrolled on a crossbar."""

from typing import Any

import keras

from keras_rram.faults.crossbar import Crossbar, KernelShape

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def kernel_shape(layer: Any, slot: str = "kernel") -> KernelShape:
    """Returns the shape of a layer's kernel, which knows its crossbar.

    Depthwise kernels, those of separable convolutions included, have one block for each channel;
    grouped convolutions one for each group; transposed convolutions one row for each input channel
    and a column for each weight of a window; einsum kernels what their equation says. Of all other
    kernels, recurrent ones included, the last axis is the columns (see `Crossbar`).

    Args:
        layer: a built layer of `keras_rram.layers`.
        slot: kernel name, one of `layer.kernel_slots`.

    Example:

    ```python
    shape = kernel_shape(model.get_layer("block1_depthwise"))
    shape.crossbar.rows, shape.crossbar.columns
    RowFaults(0.1).sample(shape, np.random.default_rng(0))
    ```
    """
    shape = tuple(layer.kernels[slot].shape)
    holder, name = layer.kernel_holder(slot)
    return KernelShape(crossbar_of(holder, name, shape))


def crossbar_of(layer: Any, slot: str, shape: tuple[int, ...]) -> Crossbar:
    """Returns the crossbar of a kernel of a layer, a Keras layer too."""
    is_separable = isinstance(layer, _SEPARABLE)
    if isinstance(layer, _DEPTHWISE) or (is_separable and slot == "depthwise_kernel"):
        return Crossbar.depthwise(shape)
    if isinstance(layer, _TRANSPOSED):
        axes = tuple(range(len(shape)))
        return Crossbar(shape, shape, axes[-1:], axes[:-1])
    if isinstance(layer, _CONVOLUTIONS):
        return Crossbar.grouped(shape, layer.groups)
    if isinstance(layer, keras.layers.EinsumDense):
        return Crossbar.einsum(shape, layer.equation)
    return Crossbar.dense(shape)
