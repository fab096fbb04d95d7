"""TFLite export: one conversion, then the file of any chip by patching its weight bytes."""

from keras_rram.export.calibration import RangeChange, range_change
from keras_rram.export.convert import QUANTIZATIONS, convert
from keras_rram.export.cross_check import against_conversion, against_quantization
from keras_rram.export.errors import ExportError, UnmappableError
from keras_rram.export.folder import PopulationExport, export_population
from keras_rram.export.levels import quantize_levels, quantize_values
from keras_rram.export.litert_model import LiteRTModel
from keras_rram.export.micro import CArray, MicroModel, MicroReport, c_array, run_micro
from keras_rram.export.patchable import StuckValues, TFLitePatcher, convert_fault_free
from keras_rram.export.quantization_aware import QATResult, quantization_aware_train
from keras_rram.export.reading import FileSummary, changed_weights, faults_from_files, summarize
from keras_rram.export.report import ExportReport, read_sidecar
from keras_rram.export.tf_keras_twin import tf_keras_twin
from keras_rram.export.tflite import Exporter, export_tflite
from keras_rram.export.verify import (
    Thresholds,
    Verification,
    check_weights,
    compare,
    verify_patcher,
)

__all__ = [
    "QUANTIZATIONS",
    "CArray",
    "ExportError",
    "ExportReport",
    "Exporter",
    "FileSummary",
    "LiteRTModel",
    "MicroModel",
    "MicroReport",
    "PopulationExport",
    "QATResult",
    "RangeChange",
    "StuckValues",
    "TFLitePatcher",
    "Thresholds",
    "UnmappableError",
    "Verification",
    "against_conversion",
    "against_quantization",
    "c_array",
    "changed_weights",
    "check_weights",
    "compare",
    "convert",
    "convert_fault_free",
    "export_population",
    "export_tflite",
    "faults_from_files",
    "quantization_aware_train",
    "quantize_levels",
    "quantize_values",
    "range_change",
    "read_sidecar",
    "run_micro",
    "summarize",
    "tf_keras_twin",
    "verify_patcher",
]
