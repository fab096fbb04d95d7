"""A Keras model as the bytes of a TFLite file."""

import tempfile
from typing import Any

import keras
import numpy as np

from keras_rram.data import check_images
from keras_rram.export.calibration import quantize_int8
from keras_rram.export.errors import ExportError
from keras_rram.export.image_statistics import has_image_statistics, image_statistics
from keras_rram.layers import faulty_layers
from keras_rram.layers.convert import bake
from keras_rram.quiet import quiet

QUANTIZATIONS = ("int8", "float32", "float16", "dynamic", "int16x8")
"""int8: integers throughout, int8 in and out; dynamic: int8 weights of large kernels, float
activations; int16x8: int16 activations, int8 weights, float in and out; float16: weights only."""

CALIBRATION_IMAGES = 300
"""Images that calibration uses; more do not change the ranges of activations noticeably."""


def convert(
    model: keras.Model,
    quantization: str = "int8",
    calibration: np.ndarray | None = None,
    batch_size: int | None = None,
) -> bytes:
    """Converts a Keras model, with the chip that is programmed in it, to TFLite.

    The faults are baked into the weights of a plain model, and the converter folds batch
    normalization into them. Weights are quantized per channel. A chip's file is made much faster
    by `PatchableModel`, from one conversion of the fault-free model. In int8 files group and
    instance normalization stay in float32, between integers: variances span more decades than 8
    bits have.

    Args:
        model: built model with one input and one output, of Drop-Connect layers or plain ones.
        quantization: one of `QUANTIZATIONS`.
        calibration: float images `(n, height, width, channels)`, preprocessed as for the model,
            from the training split. The ranges of activations come from the first
            `CALIBRATION_IMAGES`. Needed for int8 and int16x8, and refused otherwise.
        batch_size: fixed batch size of the file; None leaves it open (the file says 1, and an
            interpreter can resize it).

    Returns:
        The bytes of the `.tflite` file.

    Raises:
        ValueError: if an argument does not fit.
        ExportError: if the converter cannot translate the model, say for an operator that TFLite
            does not have, or if Keras runs on another backend than TensorFlow.

    Example:

    ```python
    tflite = convert(model, "int8", calibration=train_images[:300])
    ```
    """
    _check_model(model)
    images = check_calibration(model, quantization, calibration)
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(
            f"`batch_size` must be a positive integer or None. Received: batch_size={batch_size!r}"
        )
    plain = image_statistics(bake(model) if faulty_layers(model) else model, images)
    shape = (batch_size, *plain.inputs[0].shape[1:])
    signature = [keras.InputSpec(shape=shape, dtype=plain.inputs[0].dtype)]
    # Only what starts from a file of floats can leave a part of it in floats.
    has_islands = quantization == "int8" and has_image_statistics(plain)
    first = "float32" if has_islands else quantization
    with tempfile.TemporaryDirectory(prefix="keras_rram_") as folder, quiet() as messages:
        try:
            plain.export(folder, format="tf_saved_model", verbose=False, input_signature=signature)
            file = bytes(make_converter(folder, first, images).convert())
        # The converter raises bare `Exception`s of many classes for what it cannot translate.
        except Exception as error:
            raise ExportError(
                f"Model '{model.name}' could not be converted to {quantization} TFLite: "
                f"{_reason(error, messages())}"
            ) from error
    if not has_islands or images is None:
        return file
    return quantize_int8(file, images)


def make_converter(folder: str, quantization: str, calibration: np.ndarray | None) -> Any:
    """Returns the TensorFlow converter of a SavedModel with the options of a quantization."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if quantization == "float32":
        return converter
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif quantization == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    elif quantization == "int16x8":
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    if calibration is not None:
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
    return converter


def check_calibration(
    model: keras.Model, quantization: str, calibration: np.ndarray | None
) -> np.ndarray | None:
    """Returns the calibration images as float32, or None for a quantization without any.

    Raises:
        ValueError: if the quantization is unknown, needs images and gets none or the reverse, or if
            the images are not what the model takes.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"`quantization` must be one of {QUANTIZATIONS}. Received: {quantization!r}"
        )
    if quantization not in ("int8", "int16x8"):
        if calibration is not None:
            raise ValueError(
                f"{quantization} conversion takes no calibration images: pass calibration=None."
            )
        return None
    if calibration is None:
        raise ValueError(
            f"{quantization} conversion needs `calibration`: a few hundred training images, "
            "preprocessed as for the model. Received: calibration=None"
        )
    return check_images(model, calibration, "calibration")[:CALIBRATION_IMAGES]


def _check_model(model: keras.Model) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "TFLite conversion needs Keras on TensorFlow. Received: "
            f"backend '{keras.backend.backend()}'. Save the model and convert it in a process with "
            "KERAS_BACKEND=tensorflow."
        )
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs or len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"Expected a built functional or Sequential model with one input and one output. "
            f"Received: model '{model.name}' with inputs={inputs}, outputs={outputs}"
        )


def _reason(error: Exception, messages: str) -> str:
    """Returns the lines of a converter's error that say something."""
    text = f"{error}\n{messages}"
    telling = [
        line.strip()
        for line in text.splitlines()
        if "not supported" in line or "ops that need" in line or line.startswith("tf.")
    ]
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return "; ".join(dict.fromkeys([first, *telling]))[:600]
