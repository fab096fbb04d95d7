"""The fast engine on CPUs: one TFLite conversion, then the patched file of each chip in LiteRT."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import joblib
import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.evaluation.engines.clean_prefix import cut
from keras_rram.evaluation.engines.pickled import from_bytes, to_bytes
from keras_rram.evaluation.engines.protocol import QUANTIZATIONS, Answers, Task, achieved_rate
from keras_rram.evaluation.measure import Measure
from keras_rram.export.errors import ExportError
from keras_rram.export.litert_model import LiteRTModel
from keras_rram.export.patchable import PatchableModel
from keras_rram.export.verify import IMAGES, Thresholds

# Small enough for the activations to stay in the caches: 1.2 times as fast as 100 images, and the
# interpreter of a chip is ready 10 to 50 times sooner.
BATCH = 8
_PREFIX_BATCH = 100
# A network of many layers may be further from Keras than an exported file has to be.
_THRESHOLDS = Thresholds(max_difference=1e-3)

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Converted:
    """A model that was converted once for all chips.

    Attributes:
        model: the converted part of the model, with all its Drop-Connect layers.
        patchable: it as a TFLite file.
        inputs: what goes into it for each test image: the image, or what the clean layers in front
            of the converted part make of it.
        cached: share of the model's multiply-accumulates that `inputs` holds already.
    """

    model: keras.Model
    patchable: PatchableModel
    inputs: np.ndarray
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
    # The weights of a float32 file cannot saturate.
    chips = [chip] if quantization == "int8" else []
    patchable = PatchableModel.convert(part, quantization, calibration, chips=chips)
    converted = Converted(part, patchable, inputs, cached)
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
        measure: see `KerasEngine`, likewise the labels then.

    Example:

    ```python
    chip = Chip(StuckAtZero(0.1))
    engine = LiteRTEngine(convert_once(model, images, chip), labels)
    (answers,) = engine.answer([Task(chip)])
    ```
    """

    name = "litert"
    group = 1

    def __init__(
        self,
        converted: Converted,
        labels: Any,
        threads: int | None = None,
        measure: Measure | None = None,
    ):
        self._measure = measure
        self._converted, self._model = converted, converted.model
        self._patchable = converted.patchable
        self._inputs = LiteRTModel(self._patchable.tflite).encode(converted.inputs)
        self._labels = np.asarray(labels) if measure is None else labels
        self._threads = threads or joblib.cpu_count()
        self._executor = ThreadPoolExecutor(self._threads, "litert")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the file, so that nothing is converted again."""
        held = self._converted
        arguments = (self._patchable, held.inputs, self._labels, self._threads, self._measure)
        return _restored, (to_bytes(self._model), *arguments)

    def answer(self, tasks: Sequence[Task]) -> list[Answers]:
        """Evaluates each task's chip on its images."""
        return [self._single(task) for task in tasks]

    def _single(self, task: Task) -> Answers:
        faults = {} if task.chip is None else task.chip.faults(self._model)
        chosen = slice(None) if task.images is None else task.images
        outputs = self._outputs(bytes(self._patchable.patch(faults)), self._inputs[chosen])
        labels = keras.tree.map_structure(lambda array: array[chosen], self._labels)
        if self._measure is None:
            return Answers(outputs.argmax(-1) == labels, achieved_rate(faults))
        return Answers(self._measure(outputs, labels), achieved_rate(faults))

    def _outputs(self, tflite: bytes, inputs: np.ndarray) -> np.ndarray:
        """Returns the output for each image, the images in one part for each thread."""
        parts = np.array_split(inputs, min(self._threads, -(-len(inputs) // BATCH)))
        if len(parts) == 1:
            return _predict(tflite, inputs)
        found = self._executor.map(_predict, [tflite] * len(parts), parts)
        return np.concatenate(list(found))


def _restored(
    model: bytes, patchable: PatchableModel, inputs: np.ndarray, *arguments: Any
) -> LiteRTEngine:
    return LiteRTEngine(Converted(from_bytes(model), patchable, inputs), *arguments)


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
    return _ChipModel(tflite, batch).predict(inputs)


def _verify(converted: Converted, chip: Chip, quantization: str) -> None:
    """Checks the file of a chip byte by byte, and what it computes.

    Raises:
        ExportError: if it is not the chip's, see `convert_once`.
    """
    model, patchable = converted.model, converted.patchable
    faults = chip.faults(model)
    inputs = converted.inputs[:IMAGES]
    if quantization == "float32":
        patchable.verify(model, faults, inputs).check(quantization, _THRESHOLDS)
        return
    patchable.check(patchable.patch(faults), faults)
    # The ranges of int8 activations are those of the healthy model: a chip's may saturate.
    healthy = patchable.verify(model, {}, inputs)
    try:
        healthy.check(quantization, _THRESHOLDS)
    except ExportError as error:
        log.warning("Quantization itself costs accuracy. The fault-free model: %s", error)
