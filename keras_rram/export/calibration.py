"""Activation ranges for int8 files from chips, rather than from the fault-free model."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_rram.export.errors import ExportError
from keras_rram.export.flatbuffer import parse
from keras_rram.export.image_statistics import ISLAND
from keras_rram.quiet import quiet


@dataclasses.dataclass(frozen=True)
class RangeChange:
    """How calibration changed the quantization steps of an int8 file's activations.

    Attributes:
        activations: number of activation tensors.
        changed: how many have another step.
        mean: mean factor on the step; below 1 is finer, and saturates sooner.
        smallest: the smallest factor.
        largest: the largest factor.
    """

    activations: int
    changed: int
    mean: float
    smallest: float
    largest: float


def range_change(before: bytes | bytearray, after: bytes | bytearray) -> RangeChange:
    """Compares the activation ranges of two int8 files of one model.

    Raises:
        ValueError: if a file is not a TFLite file, or their activations do not correspond.
    """
    steps = [
        np.array([t.scales[0] for t in parse(file).tensors if not t.size and t.scales.size])
        for file in (before, after)
    ]
    if steps[0].shape != steps[1].shape or not steps[0].size:
        raise ValueError(
            "Expected two int8 files of one model. Received: files with "
            f"{steps[0].size} and {steps[1].size} quantized activations"
        )
    factors = steps[1] / steps[0]
    return RangeChange(
        activations=factors.size,
        changed=int(np.count_nonzero(factors != 1)),
        mean=float(factors.mean()),
        smallest=float(factors.min()),
        largest=float(factors.max()),
    )


def quantize_int8(
    float_file: bytes | bytearray,
    images: np.ndarray,
    calibrated_on: Iterable[bytes | bytearray] | None = None,
) -> bytes:
    """Quantizes a float32 TFLite file with the activation ranges of other files, say of chips.

    The converter itself calibrates on the model that it converts. A chip has lost weights, so that
    its activations reach less far than the fault-free model's, often half as far: ranges of chips
    give finer steps, and files that are nearer to the float32 ones on chips.

    Args:
        float_file: the float32 file to quantize, fault-free.
        images: calibration images, float32.
        calibrated_on: the same file patched for chips; the ranges are joined, so that none of these
            chips saturates. None: `float_file` itself, which gives what `convert` makes.

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
            for file in (float_file,) if calibrated_on is None else calibrated_on:
                prepared = calibrator.add_intermediate_tensors(bytes(file))
                ranged = calibrator.Calibrator(prepared).calibrate(
                    lambda: ([image[None]] for image in images)
                )
                tensors = schema.ModelT.InitFromPackedBuf(ranged, 0)
                if joined is not None:
                    _join(tensors, joined, widen=True)
                joined = tensors
            if joined is None:
                raise ValueError("Expected at least one file to calibrate on. Received none.")
            prepared = calibrator.add_intermediate_tensors(bytes(float_file))
            target = schema.ModelT.InitFromPackedBuf(prepared, 0)
            _join(target, joined, widen=False)
            packed = bytes(flatbuffer_utils.convert_object_to_bytearray(target))
            return bytes(
                mlir_quantize(
                    packed,
                    input_data_type=tf.int8,
                    output_data_type=tf.int8,
                    denylisted_nodes=island_names(float_file),
                )
            )
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ExportError(f"int8 quantization failed: {error} {messages()[:300]}") from error


def island_names(float_file: bytes | bytearray) -> set[str]:
    """Returns the names of what an int8 file computes in floats, see `ImageNormalization`."""
    graph = parse(float_file)
    names = (graph.tensors[number].name for op in graph.operators for number in op.outputs)
    return {name for name in names if f"/{ISLAND}/" in name}


def _join(target: Any, other: Any, widen: bool) -> None:
    """Extends the calibrated ranges of one model by those of another, or replaces them."""
    for graph, other_graph in zip(target.subgraphs, other.subgraphs, strict=True):
        for tensor, other_tensor in zip(graph.tensors, other_graph.tensors, strict=True):
            ranges, others = tensor.quantization, other_tensor.quantization
            if others is None or others.min is None:
                continue
            if not widen:
                tensor.quantization = others
            elif ranges is not None and ranges.min is not None:
                ranges.min = np.minimum(ranges.min, others.min)
                ranges.max = np.maximum(ranges.max, others.max)
