"""The fast engine on CPUs: one TFLite conversion, then the patched file of each chip in LiteRT."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import joblib
import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.evaluation.engines.clean_prefix import cut
from keras_rram.evaluation.engines.pickled import from_bytes, to_bytes
from keras_rram.evaluation.engines.protocol import QUANTIZATIONS, Answers, Task, achieved_rate
from keras_rram.export.convert import convert
from keras_rram.export.errors import ExportError
from keras_rram.export.kernels import chip_gains, fault_free, rescaled
from keras_rram.export.litert_model import LiteRTModel
from keras_rram.export.patchable import TFLitePatcher
from keras_rram.export.verify import check_weights

# Small enough for the activations to stay in the caches: 1.2 times as fast as 100 images, and the
# interpreter of a chip is ready 10 to 50 times sooner.
BATCH = 8
_PREFIX_BATCH = 100
VERIFICATION_IMAGES = 256
# Largest difference of a float32 logit from the Keras model's, relative to the largest logit.
_MAX_DIFFERENCE = 1e-3
_INT8_AGREEMENT = 0.98

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Converted:
    """A model that was converted once for all chips.

    Attributes:
        model: the converted part of the model, with all its Drop-Connect layers.
        tflite: its fault-free TFLite file.
        inputs: what goes into it for each test image: the image, or what the clean layers in front
            of the converted part make of it.
        gains: factors that the weights in the file carry, see `chip_gains`.
        cached: share of the model's multiply-accumulates that `inputs` holds already.
    """

    model: keras.Model
    tflite: bytes
    inputs: np.ndarray
    gains: Mapping[str, float] = field(default_factory=dict)
    cached: float = 0.0


def convert_once(
    model: keras.Model,
    images: np.ndarray,
    chip: Chip,
    quantization: str = "float32",
    calibration: np.ndarray | None = None,
) -> Converted:
    """Converts a model for `LiteRTEngine` and verifies the file on one chip.

    In float32 the layers in front of the first faulty one are computed here, once for all chips,
    where that saves a tenth of the multiply-accumulates. In int8 the whole model is converted, as
    it is deployed.

    Args:
        model: functional or Sequential model with Drop-Connect layers.
        images: the test images, as for `KerasEngine`.
        chip: the chip to verify with, at the largest fault rate that will be evaluated.
        quantization: "float32", or "int8" for the numbers of a deployed file.
        calibration: training images for int8, see `keras_rram.export.convert`.

    Returns:
        What `LiteRTEngine` needs.

    Raises:
        ExportError: (a ValueError) if the model cannot be converted or its kernels cannot be found
            in the file, or if the file of `chip` does not do what the Keras model does.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"expected quantization as one of {QUANTIZATIONS}. Received: "
            f"quantization={quantization!r}"
        )
    part, inputs, cached = model, np.asarray(images, np.float32), 0.0
    found = cut(model, len(images)) if quantization == "float32" else None
    if found is not None:
        part, cached = found.suffix, found.share
        inputs = np.asarray(
            found.prefix.predict(inputs, batch_size=_PREFIX_BATCH, verbose=0), np.float32
        )
        log.info(
            "The layers in front of the first faulty one, %.0f%% of the multiply-accumulates, are "
            "computed once for all chips.",
            100 * cached,
        )
    gains = chip_gains([chip], part) if quantization == "int8" else {}
    with fault_free(part, gains):
        tflite = convert(part, quantization, calibration)
    converted = Converted(part, tflite, inputs, gains, cached)
    _verify(converted, chip, quantization)
    return converted


class LiteRTEngine:
    """Patches each chip into the bytes of one TFLite file and runs it with XNNPACK.

    Every thread has an interpreter of its own for its part of the images: LiteRT runs outside of
    Python's lock, and an interpreter of several threads would wait for the slowest at each layer.

    Args:
        converted: from `convert_once`.
        labels: integer classes `(n,)`.
        threads: number of threads; defaults to the cores of this process.

    Example:

    ```python
    chip = Chip(StuckAtZero(0.1))
    engine = LiteRTEngine(convert_once(model, images, chip), labels)
    (answers,) = engine.answer([Task(chip)])
    ```
    """

    name = "litert"
    group = 1

    def __init__(self, converted: Converted, labels: np.ndarray, threads: int | None = None):
        self._converted, self._model = converted, converted.model
        self._inputs = LiteRTModel(converted.tflite).encode(converted.inputs)
        self._labels = np.asarray(labels)
        self._threads = threads or joblib.cpu_count()
        self._executor = ThreadPoolExecutor(self._threads, "litert")
        self._patcher = TFLitePatcher(converted.model, converted.tflite, converted.gains)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the file, so that nothing is converted again."""
        held = self._converted
        arguments = (held.tflite, held.inputs, held.gains, self._labels, self._threads)
        return _restored, (to_bytes(self._model), *arguments)

    def answer(self, tasks: Sequence[Task]) -> list[Answers]:
        """Evaluates each task's chip on its images."""
        return [self._single(task) for task in tasks]

    def _single(self, task: Task) -> Answers:
        faults = {} if task.chip is None else task.chip.faults(self._model)
        scaled = faults if task.chip is None else rescaled(task.chip, self._model, faults)
        chosen = slice(None) if task.images is None else task.images
        classes = self._classes(bytes(self._patcher.patch(scaled)), self._inputs[chosen])
        return Answers(classes == self._labels[chosen], achieved_rate(faults))

    def _classes(self, tflite: bytes, inputs: np.ndarray) -> np.ndarray:
        """Returns the class of each image, the images in one part for each thread."""
        parts = np.array_split(inputs, min(self._threads, -(-len(inputs) // BATCH)))
        if len(parts) == 1:
            return _predict(tflite, inputs)
        found = self._executor.map(_predict, [tflite] * len(parts), parts)
        return np.concatenate(list(found))


def _restored(
    model: bytes,
    tflite: bytes,
    inputs: np.ndarray,
    gains: Mapping[str, float],
    labels: np.ndarray,
    threads: int,
) -> LiteRTEngine:
    return LiteRTEngine(Converted(from_bytes(model), tflite, inputs, gains), labels, threads)


class _ChipModel(LiteRTModel):
    """A chip's file, whose graph is that of the fault-free one.

    Reading the graph again would take as long as 20 images, within Python's lock.
    """

    def __init__(self, tflite: bytes, batch_size: int):
        self._prepare(tflite, 1, batch_size)
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()


def _predict(tflite: bytes, inputs: np.ndarray) -> np.ndarray:
    batch = -(-len(inputs) // -(-len(inputs) // BATCH))  # the least padding in the last batch
    return _ChipModel(tflite, batch).predict(inputs).argmax(-1)


def _verify(converted: Converted, chip: Chip, quantization: str) -> None:
    """Checks the file of a chip byte by byte, and what it computes.

    Raises:
        ExportError: if it is not the chip's, see `convert_once`.
    """
    model = converted.model
    patcher = TFLitePatcher(model, converted.tflite, converted.gains)
    faults = rescaled(chip, model, chip.faults(model))
    patched = patcher.patch(faults)
    check_weights(patcher, patched, faults)
    inputs = converted.inputs[:VERIFICATION_IMAGES]
    # The ranges of int8 activations are those of the healthy model: a chip's may saturate.
    is_int8 = quantization == "int8"
    with fault_free(model) if is_int8 else chip.program(model):
        expected = keras.ops.convert_to_numpy(model(inputs, training=False))
    file = patcher.patch({}) if is_int8 else patched
    outputs = LiteRTModel(file, threads=1, batch_size=min(BATCH, len(inputs))).predict(inputs)
    if is_int8:
        agreement = float(np.mean(outputs.argmax(-1) == expected.argmax(-1)))
        if agreement < _INT8_AGREEMENT:
            log.warning(
                "The fault-free int8 file gives the Keras model's class on %.1f%% of %d images: "
                "quantization itself costs accuracy. More calibration images may help.",
                100 * agreement,
                len(inputs),
            )
        return
    difference = float(np.abs(outputs - expected).max() / max(1.0, np.abs(expected).max()))
    if not difference <= _MAX_DIFFERENCE:
        raise ExportError(
            f"The logits of a chip's file differ from the Keras model's by {difference:.2g} of the "
            f"largest logit; at most {_MAX_DIFFERENCE:.2g} was expected."
        )
