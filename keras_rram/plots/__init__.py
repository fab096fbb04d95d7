"""Figures of training, populations, faults, tiles and placements."""

from keras_rram.plots.faults import fault_model_curves
from keras_rram.plots.placement import placement_front, sensitivity_bars
from keras_rram.plots.populations import (
    accuracy_against_rate,
    chip_distribution,
    comparison,
    convergence,
    yield_curve,
)
from keras_rram.plots.tiles import tile_maps
from keras_rram.plots.training import training_curves

__all__ = [
    "accuracy_against_rate",
    "chip_distribution",
    "comparison",
    "convergence",
    "fault_model_curves",
    "placement_front",
    "sensitivity_bars",
    "tile_maps",
    "training_curves",
    "yield_curve",
]
