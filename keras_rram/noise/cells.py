"""Cells that are drawn anew inside a training step: `keras_rram.faults` of cells, in tensors.

The NumPy classes draw the cells of one chip, which stay; here each step has cells of its own. What
cells make of a weight is the same code for both, and the gradient of a weight is its mask: one
whose cells are all stuck gets none.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_rram.faults import (
    CellFault,
    CentredPair,
    DifferentialPair,
    Drift,
    Fault,
    FiniteOnOff,
    LognormalVariation,
    ReferenceColumn,
    SameCells,
    StuckAtValues,
    StuckCells,
)

Tensor = Any
Draw = Callable[[Any, Tensor, Any], CellFault]

ANALOG = (DifferentialPair, CentredPair, ReferenceColumn)
"""Mappings whose formulas are those of tensors too."""


def _stuck(model: StuckCells, cells: Tensor, seed: Any) -> CellFault:
    low, high = model.off_conductance, model.on_conductance
    draws = keras.random.uniform(ops.shape(cells), seed=seed)
    off = ops.cast(draws < model.stuck_off, "float32")
    healthy = ops.cast(draws >= model.stuck_off + model.stuck_on, "float32")
    off_level = model.mapping.g_min if low is None else low
    on_level = model.mapping.g_max if high is None else high
    return CellFault(healthy, off * off_level + (1 - off - healthy) * on_level)


def _stuck_at_values(model: StuckAtValues, cells: Tensor, seed: Any) -> CellFault:
    stuck = ops.cast(keras.random.uniform(ops.shape(cells), seed=seed) < model.rate, "float32")
    chosen = keras.random.randint(ops.shape(cells), 0, len(model.values), seed=seed)
    values = ops.convert_to_tensor(list(model.values), "float32")
    return CellFault(1 - stuck, stuck * ops.take(values, chosen))


def _varied(model: LognormalVariation, cells: Tensor, seed: Any) -> CellFault:
    return CellFault(ops.exp(model.sigma * keras.random.normal(ops.shape(cells), seed=seed)))


def _drifted(model: Drift, cells: Tensor, seed: Any) -> CellFault:
    mean = 0.0 if model.compensated else model.nu
    exponents = mean + model.nu_sd * keras.random.normal(ops.shape(cells), seed=seed)
    return CellFault(ops.exp(-math.log(model.seconds / model.start) * exponents))


def _floored(model: FiniteOnOff, cells: Tensor, seed: Any) -> CellFault:
    del seed
    floor = model.mapping.g_max / model.ratio
    held = ops.cast(cells < floor, "float32")
    return CellFault(1 - held, held * floor)


def _all_in_turn(model: SameCells, cells: Tensor, seed: Any) -> CellFault:
    drawn = (DRAWS[type(one)](one, cells, seed) for one in model.models)
    return functools.reduce(CellFault.then, drawn)


DRAWS: dict[type, Draw] = {
    StuckCells: _stuck,
    StuckAtValues: _stuck_at_values,
    LognormalVariation: _varied,
    Drift: _drifted,
    FiniteOnOff: _floored,
    SameCells: _all_in_turn,
}
"""Class of a fault model of cells -> its cells on a fresh chip: (model, programmed, seed)."""


def has_tensors(model: Any) -> bool:
    """Returns whether a fault model of cells can be drawn inside a step.

    Its mapping must have analog cells and one scale for a kernel.
    """
    if type(model) not in DRAWS:
        return False
    return type(model.mapping) in ANALOG and model.mapping.scaling == "tensor"


def on_cells(model: Any, kernel: Tensor, seed: Any, reference: Tensor) -> Fault:
    """Returns what fresh cells make of a kernel.

    Args:
        model: a fault model of cells, one that `has_tensors`.
        kernel: tensor of any shape.
        seed: `keras.random.SeedGenerator`.
        reference: the stored kernel, whose largest magnitude is the scale.
    """
    weights = ops.stop_gradient(ops.cast(kernel, "float32"))
    scale = ops.stop_gradient(ops.max(ops.abs(ops.cast(reference, "float32"))))
    cells = DRAWS[type(model)](model, model.mapping.programmed(weights, scale, ops), seed)
    return model.mapping.held(weights, cells.gain, cells.offset, scale, ops)
