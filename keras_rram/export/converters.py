"""What makes TFLite files of plain Keras models, behind one small interface.

`convert` and `PatchableModel` bake chips, prepare layers and check arguments, whatever converter.
"""

import contextlib
import importlib.util
import io
import re
import tempfile
from collections.abc import Iterable
from typing import Any, Protocol

import keras
import numpy as np

from keras_rram.export.calibration import island_names, quantize_int8
from keras_rram.export.errors import ExportError
from keras_rram.export.image_statistics import has_image_statistics
from keras_rram.quiet import quiet

File = bytes | bytearray


class Converter(Protocol):
    """A way from a Keras model to the bytes of a TFLite file.

    Files of one model have to hold its kernels as they are, up to a factor for each output channel,
    for chips to be patched into them; where they do not, each chip is converted anew.
    """

    def convert(
        self,
        model: keras.Model,
        quantization: str,
        images: np.ndarray | None,
        batch_size: int | None,
    ) -> bytes:
        """Returns the file of a plain model with one input and one output.

        Args:
            model: plain Keras layers only, with its faults in its weights.
            quantization: one of `QUANTIZATIONS`.
            images: float32 calibration images for int8 and int16x8, else None.
            batch_size: fixed batch size; None leaves it open.

        Raises:
            Exception: of any class, if it cannot; `convert` makes one sentence of it.
        """

    def quantize_int8(
        self, float_file: File, images: np.ndarray, calibrated_on: Iterable[File] | None = None
    ) -> bytes:
        """Returns a full integer file, int8 in and out, of a float32 file of this converter.

        Args:
            float_file: the float32 file, fault-free.
            images: calibration images, float32.
            calibrated_on: the same file patched for chips, whose activation ranges are joined;
                None: `float_file` itself.

        Raises:
            ExportError: if it cannot.
        """


class TensorFlowConverter:
    """TensorFlow's own converter, `tf.lite.TFLiteConverter`."""

    def convert(
        self,
        model: keras.Model,
        quantization: str,
        images: np.ndarray | None,
        batch_size: int | None,
    ) -> bytes:
        """See `Converter`."""
        # Only what starts from a file of floats can leave a part of it in floats.
        if quantization == "int8" and images is not None and has_image_statistics(model):
            return self.quantize_int8(self.convert(model, "float32", None, batch_size), images)
        shape = (batch_size, *model.inputs[0].shape[1:])
        signature = [keras.InputSpec(shape=shape, dtype=model.inputs[0].dtype)]
        with tempfile.TemporaryDirectory(prefix="keras_rram_") as folder:
            model.export(folder, format="tf_saved_model", verbose=False, input_signature=signature)
            return bytes(_tensorflow_converter(folder, quantization, images).convert())

    def quantize_int8(
        self, float_file: File, images: np.ndarray, calibrated_on: Iterable[File] | None = None
    ) -> bytes:
        """See `Converter`, and `calibration.quantize_int8`."""
        return quantize_int8(float_file, images, calibrated_on)


class LiteRTQuantizer(TensorFlowConverter):
    """`litert-quantizer` for int8 (extra `litert`); all else is as TensorFlow has it.

    What it calibrates with is public, where TensorFlow's functions for ranges of several files are
    not.
    """

    def convert(
        self,
        model: keras.Model,
        quantization: str,
        images: np.ndarray | None,
        batch_size: int | None,
    ) -> bytes:
        """See `Converter`."""
        if quantization != "int8" or images is None:
            return super().convert(model, quantization, images, batch_size)
        _require_litert_quantizer()
        return self.quantize_int8(super().convert(model, "float32", None, batch_size), images)

    def quantize_int8(
        self, float_file: File, images: np.ndarray, calibrated_on: Iterable[File] | None = None
    ) -> bytes:
        """See `Converter`."""
        _require_litert_quantizer()
        from ai_edge_litert.interpreter import Interpreter
        from litert_quantizer import (
            algorithm_manager,
            calibrator,
            qtyping,
            quantizer,
            recipe,
            recipe_manager,
        )
        from litert_quantizer.utils import qsv_utils

        printed = io.StringIO()  # progress and sizes
        with quiet(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            target = quantizer.Quantizer(bytearray(float_file), recipe.static_wi8_ai8())
            for name in island_names(float_file):
                target.update_quantization_recipe(
                    f"^{re.escape(name)}",
                    qtyping.TFLOperationName.ALL_SUPPORTED,
                    algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
                )
            recipes = recipe_manager.RecipeManager()
            recipes.load_quantization_recipe(target.get_quantization_recipe())
            joined: Any = None
            for file in (float_file,) if calibrated_on is None else calibrated_on:
                known = Interpreter(model_content=bytes(file)).get_signature_list()
                ((key, names),) = known.items()
                ranges = calibrator.Calibrator(
                    bytes(file), num_threads=1, qsv_update_func=qsv_utils.min_max_update
                )
                if joined is not None:
                    ranges.load_model_qsvs(joined)
                (given,) = names["inputs"]
                ranges.calibrate({key: [{given: image[None]} for image in images]}, recipes)
                joined = ranges.get_model_qsvs()
            if joined is None:
                raise ValueError("Expected at least one file to calibrate on. Received none.")
            return bytes(target.quantize(joined).quantized_model)


CONVERTERS: dict[str, Converter] = {
    "tensorflow": TensorFlowConverter(),
    "litert": LiteRTQuantizer(),
}
"""By name."""


def find_converter(converter: Converter | str) -> Converter:
    """Returns a converter of a name, or the one that is given.

    Raises:
        ValueError: for another name, or an object without the methods of `Converter`.
    """
    found = CONVERTERS.get(converter) if isinstance(converter, str) else converter
    if not all(callable(getattr(found, name, None)) for name in ("convert", "quantize_int8")):
        raise ValueError(
            f"expected a converter: one of {list(CONVERTERS)}, or an object with the methods of "
            f"`keras_rram.export.Converter`. Received: {converter!r}"
        )
    return found  # type: ignore[return-value]


def converter_name(converter: Converter | str) -> str:
    """Returns what sidecars call a converter."""
    return converter if isinstance(converter, str) else type(converter).__name__


def _require_litert_quantizer() -> None:
    if importlib.util.find_spec("litert_quantizer") is None:
        raise ExportError(
            "The converter 'litert' needs the package litert-quantizer: "
            "pip install 'keras-rram[litert]'."
        )


def _tensorflow_converter(folder: str, quantization: str, calibration: np.ndarray | None) -> Any:
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
