"""Repair of a chip after it was programmed: one module for each repair."""

from keras_rram.repair.batch_norm import BatchNormRecalibration, recalibrate_batch_norm
from keras_rram.repair.least_squares import LeastSquares
from keras_rram.repair.steps import Repair

__all__ = ["BatchNormRecalibration", "LeastSquares", "Repair", "recalibrate_batch_norm"]
