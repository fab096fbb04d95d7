"""TFLite export: one conversion, then the file of any chip by patching its weight bytes."""

from keras_rram.export.c_source import CArray, c_array
from keras_rram.export.calibration import RangeChange, range_change
from keras_rram.export.convert import QUANTIZATIONS, convert
from keras_rram.export.converters import CONVERTERS, Converter
from keras_rram.export.cross_check import CrossCheck, against_conversion
from keras_rram.export.errors import ExportError, UnmappableError
from keras_rram.export.exporter import Exporter, export_tflite
from keras_rram.export.folder import PopulationExport, export_population
from keras_rram.export.kernel_levels import quantize_levels, quantize_values
from keras_rram.export.litert_model import LiteRTModel
from keras_rram.export.micro import MicroModel, MicroReport, run_micro
from keras_rram.export.patchable import PatchableModel, StuckValues
from keras_rram.export.quantization_aware import QATResult, quantization_aware_train
from keras_rram.export.reading import FileSummary, changed_weights, summarize
from keras_rram.export.sidecar import ExportReport, read_sidecar
from keras_rram.export.tf_keras_twin import tf_keras_twin
from keras_rram.export.verify import Thresholds, Verification, compare

__all__ = [
    "CONVERTERS",
    "QUANTIZATIONS",
    "CArray",
    "Converter",
    "CrossCheck",
    "ExportError",
    "ExportReport",
    "Exporter",
    "FileSummary",
    "LiteRTModel",
    "MicroModel",
    "MicroReport",
    "PatchableModel",
    "PopulationExport",
    "QATResult",
    "RangeChange",
    "StuckValues",
    "Thresholds",
    "UnmappableError",
    "Verification",
    "against_conversion",
    "c_array",
    "changed_weights",
    "compare",
    "convert",
    "export_population",
    "export_tflite",
    "quantization_aware_train",
    "quantize_levels",
    "quantize_values",
    "range_change",
    "read_sidecar",
    "run_micro",
    "summarize",
    "tf_keras_twin",
]
