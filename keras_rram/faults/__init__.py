"""Fault models: what a chip does to the weights of one kernel (NumPy only)."""

from keras_rram.faults.base import Fault, FaultModel
from keras_rram.faults.cells import CellFault, SameCells, StuckAtValues, StuckCells
from keras_rram.faults.clusters import ClusteredFaults
from keras_rram.faults.composed import Composed
from keras_rram.faults.crossbar import Crossbar, KernelShape
from keras_rram.faults.mapping import CellMapping, CentredPair, DifferentialPair, ReferenceColumn
from keras_rram.faults.rates import at_rate
from keras_rram.faults.slices import BitSlices
from keras_rram.faults.structure import ColumnFaults, RowFaults, SpreadFaults
from keras_rram.faults.stuck_at import StuckAtZero
from keras_rram.faults.text import NAMES, parse, spec
from keras_rram.faults.variation import Drift, FiniteOnOff, LognormalVariation

__all__ = [
    "BitSlices",
    "CellFault",
    "CentredPair",
    "ClusteredFaults",
    "ColumnFaults",
    "Composed",
    "Crossbar",
    "DifferentialPair",
    "Drift",
    "Fault",
    "FaultModel",
    "FiniteOnOff",
    "KernelShape",
    "NAMES",
    "LognormalVariation",
    "CellMapping",
    "ReferenceColumn",
    "RowFaults",
    "SameCells",
    "SpreadFaults",
    "StuckAtValues",
    "StuckAtZero",
    "StuckCells",
    "at_rate",
    "parse",
    "spec",
]
