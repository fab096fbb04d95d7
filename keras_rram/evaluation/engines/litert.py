"""The fast engine on CPUs: one TFLite conversion, then the patched file of each chip in LiteRT."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import joblib
import keras
import numpy as np

from keras_rram.chips.chip import Chip, erase
from keras_rram.evaluation.engines.clean_prefix import cut
from keras_rram.evaluation.engines.pickled import from_bytes, to_bytes
from keras_rram.evaluation.engines.protocol import QUANTIZATIONS, Answers, Task, achieved_rate
from keras_rram.evaluation.measure import Measure
from keras_rram.export.errors import ExportError
from keras_rram.export.litert_model import LiteRTModel
from keras_rram.export.patchable import PatchableModel
from keras_rram.export.repairable import RepairableModel
from keras_rram.export.verify import IMAGES, Thresholds, compare
from keras_rram.faults import Fault
from keras_rram.layers import faulty_weights
from keras_rram.repair import Repair

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
        repair: what is done to each chip before its file is made, and to the fault-free model.
        repairable: the file for repaired chips; None without a repair.
    """

    model: keras.Model
    patchable: PatchableModel
    inputs: np.ndarray
    cached: float = 0.0
    repair: Repair | None = None
    repairable: RepairableModel | None = None


def convert_once(
    model: keras.Model,
    images: np.ndarray,
    chip: Chip,
    quantization: str = "float32",
    calibration: np.ndarray | None = None,
    repair: Repair | None = None,
) -> Converted:
    """Converts a model for `LiteRTEngine` and verifies the file on one chip.

    In float32 the layers in front of the first faulty one are computed here, once for all chips,
    where that saves a tenth of the multiply-accumulates. In int8, and with a repair, which can
    change clean layers too, the whole model is converted.

    Args:
        model: functional or Sequential model with Drop-Connect layers.
        images: the test images, as for `KerasEngine`.
        chip: the chip to verify with, at the largest fault rate that will be evaluated.
        quantization: "float32", or "int8" for the numbers of a deployed file.
        calibration: training images for int8, see `keras_rram.export.convert`.
        repair: what is done to each chip; its model is Keras's, and the file gets what it changed.

    Returns:
        What `LiteRTEngine` needs.

    Raises:
        ExportError: (a ValueError) if the model cannot be converted or its kernels cannot be found
            in the file, or if the file of `chip` does not do what the Keras model does; or if the
            repair changes what has no place in the file.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"expected quantization as one of {QUANTIZATIONS}. Received: "
            f"quantization={quantization!r}"
        )
    part, inputs, cached = model, np.asarray(images, np.float32), 0.0
    is_cut = quantization == "float32" and repair is None
    found = cut(model, len(images)) if is_cut else None
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
    with _on_chip(part, None, repair):
        patchable = PatchableModel.convert(part, quantization, calibration, chips=chips)
        converted = _converted(part, patchable, inputs, repair, cached)
    _verify(converted, chip, quantization)
    return converted


def _converted(
    model: keras.Model,
    patchable: PatchableModel,
    inputs: np.ndarray,
    repair: Repair | None,
    cached: float = 0.0,
) -> Converted:
    """Looks for what a repair changes in a file; the model is fault-free and repaired."""
    repairable = None if repair is None else RepairableModel(model, patchable, inputs[:1])
    return Converted(model, patchable, inputs, cached, repair, repairable)


@contextmanager
def _on_chip(
    model: keras.Model, chip: Chip | None, repair: Repair | None
) -> Iterator[Mapping[str, Fault]]:
    """Programs a model and repairs it within a `with` block; gives the faults."""
    programmed = erase(model) if chip is None else chip.program(model)
    with programmed, nullcontext() if repair is None else repair(model, chip):
        yield programmed.faults


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
        self._weights = faulty_weights(converted.model)
        self._patchable = converted.patchable
        self._inputs = LiteRTModel(self._patchable.tflite).encode(converted.inputs)
        self._labels = np.asarray(labels) if measure is None else labels
        self._threads = threads or joblib.cpu_count()
        self._executor = ThreadPoolExecutor(self._threads, "litert")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the file, so that nothing is converted again."""
        held = self._converted
        arguments = (self._labels, self._threads, self._measure)
        file = (to_bytes(self._model), self._patchable, held.inputs, held.repair)
        return _restored, (*file, *arguments)

    def answer(self, tasks: Sequence[Task]) -> list[Answers]:
        """Evaluates each task's chip on its images."""
        return [self._single(task) for task in tasks]

    def _single(self, task: Task) -> Answers:
        tflite, faults = self._file(task)
        chosen = slice(None) if task.images is None else task.images
        outputs = self._outputs(tflite, self._inputs[chosen])
        labels = keras.tree.map_structure(lambda array: array[chosen], self._labels)
        rate = achieved_rate(faults, self._weights)
        if self._measure is None:
            return Answers(outputs.argmax(-1) == labels, rate)
        return Answers(self._measure(outputs, labels), rate)

    def _file(self, task: Task) -> tuple[bytes, Mapping[str, Fault]]:
        """Returns the file of a task's chip, and its faults."""
        repair, repairable = self._converted.repair, self._converted.repairable
        if repairable is None:
            faults = {} if task.chip is None else task.chip.faults(self._model)
            return bytes(self._patchable.patch(faults)), faults
        with _on_chip(self._model, task.chip, repair if task.repaired else None) as programmed:
            return bytes(repairable.patch()), programmed

    def _outputs(self, tflite: bytes, inputs: np.ndarray) -> np.ndarray:
        """Returns the output for each image, the images in one part for each thread."""
        parts = np.array_split(inputs, min(self._threads, -(-len(inputs) // BATCH)))
        if len(parts) == 1:
            return _predict(tflite, inputs)
        found = self._executor.map(_predict, [tflite] * len(parts), parts)
        return np.concatenate(list(found))


def _restored(
    content: bytes,
    patchable: PatchableModel,
    inputs: np.ndarray,
    repair: Repair | None,
    *arguments: Any,
) -> LiteRTEngine:
    model = from_bytes(content)
    with _on_chip(model, None, repair):
        return LiteRTEngine(_converted(model, patchable, inputs, repair), *arguments)


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
    repair, repairable = converted.repair, converted.repairable
    if repairable is not None:
        with _on_chip(model, chip, repair):
            tflite = repairable.patch()
            repairable.check(tflite)
            if quantization == "float32":
                compare(model, tflite, inputs).check(quantization, _THRESHOLDS)
                return
        with _on_chip(model, None, repair):
            healthy = compare(model, patchable.tflite, inputs)
    elif quantization == "float32":
        patchable.verify(model, faults, inputs).check(quantization, _THRESHOLDS)
        return
    else:
        patchable.check(patchable.patch(faults), faults)
        healthy = patchable.verify(model, {}, inputs)
    # The ranges of int8 activations are those of the healthy model: a chip's may saturate.
    try:
        healthy.check(quantization, _THRESHOLDS)
    except ExportError as error:
        log.warning("Quantization itself costs accuracy. The fault-free model: %s", error)
