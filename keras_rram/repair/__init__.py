"""Repair of a chip after it was programmed."""

from keras_rram.repair.batch_norm import (
    BatchNormRecalibration,
    Recalibrated,
    recalibrate_batch_norm,
)

__all__ = ["BatchNormRecalibration", "Recalibrated", "recalibrate_batch_norm"]
