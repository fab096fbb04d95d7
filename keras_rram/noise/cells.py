"""Cells that are drawn anew inside a training step: `keras_rram.faults` of cells, in tensors.

The numpy classes draw the cells of one chip, which stay; here each step has cells of its own, and
the gradient goes through them: a weight whose cells are all stuck gets none.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_rram.faults import (
    CentredPair,
    DifferentialPair,
    Drift,
    FiniteOnOff,
    LognormalVariation,
    ReferenceColumn,
    SameCells,
    StuckAtValues,
    StuckCells,
)

Tensor = Any
Read = Callable[[Any, Tensor, Any], Tensor]

# Mapping -> the levels of its cells for x = weight / scale, and what each adds to x for one level.
_LEVELS: dict[type, tuple[Callable[[Tensor], tuple[Tensor, ...]], tuple[float, ...]]] = {
    DifferentialPair: (lambda x: (ops.relu(x), ops.relu(-x)), (1.0, -1.0)),
    CentredPair: (lambda x: ((1 + x) / 2, (1 - x) / 2), (1.0, -1.0)),
    ReferenceColumn: (lambda x: ((1 + x) / 2,), (2.0,)),
}


def _stuck(model: StuckCells, cells: Tensor, seed: Any) -> Tensor:
    off, on = model.off_conductance, model.on_conductance
    draws = keras.random.uniform(ops.shape(cells), seed=seed)
    found = ops.where(
        draws < model.stuck_off + model.stuck_on,
        model.mapping.g_max if on is None else on,
        cells,
    )
    return ops.where(draws < model.stuck_off, model.mapping.g_min if off is None else off, found)


def _stuck_at_values(model: StuckAtValues, cells: Tensor, seed: Any) -> Tensor:
    stuck = keras.random.uniform(ops.shape(cells), seed=seed) < model.rate
    chosen = keras.random.randint(ops.shape(cells), 0, len(model.values), seed=seed)
    values = ops.convert_to_tensor(list(model.values), "float32")
    return ops.where(stuck, ops.take(values, chosen), cells)


def _varied(model: LognormalVariation, cells: Tensor, seed: Any) -> Tensor:
    return cells * ops.exp(model.sigma * keras.random.normal(ops.shape(cells), seed=seed))


def _drifted(model: Drift, cells: Tensor, seed: Any) -> Tensor:
    mean = 0.0 if model.compensated else model.nu
    exponents = mean + model.nu_sd * keras.random.normal(ops.shape(cells), seed=seed)
    return cells * ops.exp(-math.log(model.seconds / model.start) * exponents)


def _floored(model: FiniteOnOff, cells: Tensor, seed: Any) -> Tensor:
    del seed
    return ops.maximum(cells, model.mapping.g_max / model.ratio)


def _all_in_turn(model: SameCells, cells: Tensor, seed: Any) -> Tensor:
    for one in model.models:
        cells = READS[type(one)](one, cells, seed)
    return cells


READS: dict[type, Read] = {
    StuckCells: _stuck,
    StuckAtValues: _stuck_at_values,
    LognormalVariation: _varied,
    Drift: _drifted,
    FiniteOnOff: _floored,
    SameCells: _all_in_turn,
}
"""Class of a fault model of cells -> conductances in siemens as a fresh chip has them."""


def has_tensors(model: Any) -> bool:
    """Returns whether a fault model of cells can be drawn inside a step.

    Its mapping must have analog cells and one scale for a kernel.
    """
    if type(model) not in READS:
        return False
    return type(model.mapping) in _LEVELS and model.mapping.scaling == "tensor"


def on_cells(model: Any, kernel: Tensor, seed: Any, reference: Tensor) -> Tensor:
    """Returns a kernel as fresh cells hold it.

    `w + s * sum(a_i * (G'_i - G_i)) / (g_max - g_min)`, where `a_i` is what a level of cell `i`
    adds to the weight; it is `w` exactly where cells are as programmed.

    Args:
        model: a fault model of cells, one that `has_tensors`.
        kernel: tensor of any shape.
        seed: `keras.random.SeedGenerator`.
        reference: the stored kernel, whose largest magnitude is the scale `s`.
    """
    mapping = model.mapping
    levels_of, shares = _LEVELS[type(mapping)]
    weights = ops.cast(kernel, "float32")
    scale = ops.stop_gradient(ops.max(ops.abs(ops.cast(reference, "float32"))))
    scale = ops.where(scale > 0, scale, 1.0)
    levels = ops.stack(levels_of(ops.clip(weights / scale, -1.0, 1.0)))
    programmed = mapping.g_min + levels * mapping.span
    changes = (READS[type(model)](model, programmed, seed) - programmed) / mapping.span
    total = sum(share * changes[place] for place, share in enumerate(shares))
    return ops.cast(weights + scale * total, kernel.dtype)
