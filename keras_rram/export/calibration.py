"""Activation ranges for int8 files from several chips, rather than from the fault-free model."""

from collections.abc import Iterable

import numpy as np

from keras_rram.export.errors import ExportError
from keras_rram.export.quiet import quiet


def quantize_int8(float_files: Iterable[bytes | bytearray], images: np.ndarray) -> bytes:
    """Quantizes a float32 TFLite file with the activation ranges of several.

    The converter itself calibrates on one model. This calibrates each file and joins the ranges, so
    that no chip's activations saturate that one of these would not saturate. With one file the
    result is what `convert` makes.

    Args:
        float_files: float32 files of one conversion, patched: the first is the one to quantize
            (fault-free), the others are chips.
        images: calibration images, float32.

    Returns:
        The bytes of a full integer file, int8 in and out.

    Raises:
        ExportError: if TensorFlow fails to quantize, or has no longer the functions for it.
    """
    try:
        # Not public, but what `TFLiteConverter` calls: there is no public way to give ranges.
        import tensorflow as tf
        from tensorflow.lite.python import schema_py_generated as schema
        from tensorflow.lite.python.convert import mlir_quantize
        from tensorflow.lite.python.optimize import calibrator
        from tensorflow.lite.tools import flatbuffer_utils
    except ImportError as error:
        raise ExportError(
            f"This TensorFlow cannot calibrate on several chips ({error}). Calibrate on the "
            "fault-free model: leave out `calibration_chips`."
        ) from error
    joined = None
    with quiet() as messages:
        try:
            for file in float_files:
                prepared = calibrator.add_intermediate_tensors(bytes(file))
                ranged = calibrator.Calibrator(prepared).calibrate(
                    lambda: ([image[None]] for image in images)
                )
                tensors = schema.ModelT.InitFromPackedBuf(ranged, 0)
                if joined is None:
                    joined = tensors
                else:
                    _widen(joined, tensors)
            if joined is None:
                raise ValueError("Expected at least one file. Received none.")
            packed = bytes(flatbuffer_utils.convert_object_to_bytearray(joined))
            return bytes(mlir_quantize(packed, input_data_type=tf.int8, output_data_type=tf.int8))
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ExportError(f"int8 quantization failed: {error} {messages()[:300]}") from error


def _widen(target: object, other: object) -> None:
    """Extends the calibrated ranges of one model by those of another."""
    for graph, other_graph in zip(target.subgraphs, other.subgraphs, strict=True):  # type: ignore
        for tensor, other_tensor in zip(graph.tensors, other_graph.tensors, strict=True):
            ranges, others = tensor.quantization, other_tensor.quantization
            if ranges is not None and ranges.min is not None and others.min is not None:
                ranges.min = np.minimum(ranges.min, others.min)
                ranges.max = np.maximum(ranges.max, others.max)
