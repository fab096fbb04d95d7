"""TFLite export: one conversion, then the file of any chip by patching its weight bytes."""

from keras_rram.export.convert import QUANTIZATIONS, convert
from keras_rram.export.errors import ExportError, UnmappableError
from keras_rram.export.folder import PopulationExport, export_population
from keras_rram.export.patch import StuckValues, TFLitePatcher
from keras_rram.export.reading import FileSummary, faults_from_files, summarize
from keras_rram.export.report import ExportReport, read_sidecar
from keras_rram.export.runner import LiteRTModel
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
    "ExportError",
    "ExportReport",
    "Exporter",
    "FileSummary",
    "LiteRTModel",
    "PopulationExport",
    "StuckValues",
    "TFLitePatcher",
    "Thresholds",
    "UnmappableError",
    "Verification",
    "check_weights",
    "compare",
    "convert",
    "export_population",
    "export_tflite",
    "faults_from_files",
    "read_sidecar",
    "summarize",
    "verify_patcher",
]
