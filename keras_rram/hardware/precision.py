"""Models whose weights are those that the cells of a chip can hold."""

from typing import Any

import keras
import numpy as np

from keras_rram.chips.unrolling import kernel_shape
from keras_rram.faults import CellMapping
from keras_rram.layers import faulty_layers
from keras_rram.layers.cloning import copied


def quantize_to_cells(model: keras.Model, mapping: CellMapping) -> keras.Model:
    """Returns a model with each kernel on faulty hardware as the cells of a mapping hold it.

    Use it before faults of cells are sampled with a mapping that quantizes, as `BitSlices`: a
    fault-free chip then is the model exactly, and only faults count as faults.

    Args:
        model: functional or Sequential model with Drop-Connect layers.
        mapping: how weights become conductances.

    Returns:
        A new model of the same layers, not compiled, programmed with the same chip. `model` is left
        as it is.

    Raises:
        TypeError: if `mapping` is none.
        ValueError: if the model has no Drop-Connect layer.

    Example:

    ```python
    slices = BitSlices(bits=2)
    quantized = quantize_to_cells(model, slices)
    chip = Chip(StuckCells(stuck_on=0.01, mapping=slices), seed=1)
    ```
    """
    given: Any = mapping
    if not isinstance(given, CellMapping):
        raise TypeError(
            f"`mapping` must be a `CellMapping`, as `BitSlices(2)`. Received: {given!r}"
        )
    if not faulty_layers(model):
        raise ValueError(
            f"Model '{model.name}' has no Drop-Connect layer, so no kernel on a chip. Convert it "
            "with `to_drop_connect(model, rate)`; rate 0 is enough."
        )
    twin = copied(model)
    for layer in faulty_layers(twin).values():
        for slot, kernel in layer.kernels.items():
            values = np.asarray(keras.ops.convert_to_numpy(kernel), np.float32)
            kernel.assign(mapping.quantize(values, kernel_shape(layer, slot)))
    return twin
