"""Repair of a chip after it was programmed: one module for each repair."""

from keras_rram.repair.batch_norm import BatchNormRecalibration, recalibrate_batch_norm
from keras_rram.repair.hand import Repaired
from keras_rram.repair.learned_correction import LearnedCorrection
from keras_rram.repair.least_squares import LeastSquares
from keras_rram.repair.map_correction import MapCorrection, MeanRead
from keras_rram.repair.protocol import Repair, Tier, access_tier, describe_repair
from keras_rram.repair.remapping import Remapping
from keras_rram.repair.retraining import Retraining
from keras_rram.repair.spare_columns import SpareColumns
from keras_rram.repair.steps import RepairStep
from keras_rram.repair.text import RepairPlan, parse

__all__ = [
    "BatchNormRecalibration",
    "LearnedCorrection",
    "LeastSquares",
    "MapCorrection",
    "MeanRead",
    "Remapping",
    "Repair",
    "RepairPlan",
    "RepairStep",
    "Repaired",
    "Retraining",
    "SpareColumns",
    "Tier",
    "access_tier",
    "describe_repair",
    "parse",
    "recalibrate_batch_norm",
]
