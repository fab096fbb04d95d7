"""Fault models: what a chip does to the weights of one kernel (NumPy only)."""

from keras_rram.faults.base import Fault, FaultModel, deserialize, serialize
from keras_rram.faults.stuck_at import StuckAtZero

__all__ = ["Fault", "FaultModel", "StuckAtZero", "deserialize", "serialize"]
