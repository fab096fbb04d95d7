"""A Keras model as the bytes of a TFLite file."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_rram.data import check_images
from keras_rram.export.converters import Converter, find_converter
from keras_rram.export.errors import ExportError
from keras_rram.export.image_statistics import image_statistics
from keras_rram.export.prepare import prepared
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
    converter: Converter | str = "tensorflow",
) -> bytes:
    """Converts a Keras model, with the chip that is programmed in it, to TFLite.

    The faults are baked into the weights of a plain model, and the converter folds batch
    normalization into them. Weights are quantized per channel. A chip's file is made much faster
    by `PatchableModel`, from one conversion of the fault-free model. In int8 files group, instance
    and layer normalization stay in float32, between integers: variances span more decades than 8
    bits have.

    Args:
        model: built model with one input and one output, of Drop-Connect layers or plain ones.
        quantization: one of `QUANTIZATIONS`.
        calibration: float images `(n, height, width, channels)`, preprocessed as for the model,
            from the training split. The ranges of activations come from the first
            `CALIBRATION_IMAGES`. Needed for int8 and int16x8, and refused otherwise.
        batch_size: fixed batch size of the file; None leaves it open (the file says 1, and an
            interpreter can resize it).
        converter: what makes the file, of `converters.CONVERTERS` or one of your own: "tensorflow";
            or "litert", whose int8 files are made by `litert-quantizer`.

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
    made_by = find_converter(converter)
    images = check_calibration(model, quantization, calibration)
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(
            f"`batch_size` must be a positive integer or None. Received: batch_size={batch_size!r}"
        )
    plain = prepared(bake(model) if faulty_layers(model) else model)
    plain = image_statistics(plain, images)
    with quiet() as messages:
        try:
            return made_by.convert(plain, quantization, images, batch_size)
        except ExportError:
            raise
        # The converters raise bare `Exception`s of many classes for what they cannot translate.
        except Exception as error:
            raise ExportError(
                f"Model '{model.name}' could not be converted to {quantization} TFLite: "
                f"{_reason(error, messages())}"
            ) from error


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


def check_calibration_chips(quantization: str, chips: Sequence[Any]) -> None:
    """Raises ValueError if activation ranges are to come from chips and the file has none."""
    if chips and quantization != "int8":
        raise ValueError(
            "`calibration_chips` is for int8 files. Received: "
            f"quantization={quantization!r} with {len(chips)} chips"
        )


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
