"""Repair of a chip after it was programmed."""

from keras_rram.repair.batch_norm import (
    BatchNormRecalibration,
    Recalibrated,
    recalibrate_batch_norm,
)
from keras_rram.repair.protocol import Repair, Tier, access_tier, describe_repair

__all__ = [
    "BatchNormRecalibration",
    "Recalibrated",
    "Repair",
    "Tier",
    "access_tier",
    "describe_repair",
    "recalibrate_batch_norm",
]
