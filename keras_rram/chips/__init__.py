"""Chips: replayable sets of faults, one for each kernel of a model."""

from keras_rram.chips.audit import Audit, audit
from keras_rram.chips.chip import STREAMS, Chip, Programmed, erase, population, program
from keras_rram.chips.unrolling import kernel_shape

__all__ = [
    "STREAMS",
    "Audit",
    "Chip",
    "Programmed",
    "audit",
    "erase",
    "kernel_shape",
    "population",
    "program",
]
