"""The reference engine: any Keras backend, any model, any fault model, any repair."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.chips.chip import Chip, Programmed, erase
from keras_rram.chips.inference import ChipInference
from keras_rram.evaluation.engines.pickled import from_bytes, to_bytes
from keras_rram.evaluation.engines.protocol import Answers, Task, achieved_rate
from keras_rram.evaluation.measure import Measure
from keras_rram.export.sidecar import chip_identity
from keras_rram.layers import faulty_layers, faulty_weights
from keras_rram.noise.injection import read_noise_of, reseed
from keras_rram.repair import Repair

BATCH = 100
# Part of a JAX device's memory that the activations of a group of chips may take.
_MEMORY_SHARE = 0.25
_CPU_BYTES = 1 << 28
_LARGEST_GROUP = {"cpu": 4, "gpu": 64, "tpu": 64}


class KerasEngine:
    """Programs the model with each chip in turn and predicts.

    The test images are put on the device once, and one compiled function serves all chips: masks
    are variables, which are assigned and not traced. On JAX several chips go through the network at
    once (`jax.vmap`), as many as fit into memory.

    Where reads are noisy, the noise of a batch follows from the chip and the batch's first image
    alone: the answers do not depend on the chips before, on `jobs` or on the backend's threads.

    Args:
        model: built model with Drop-Connect layers, whose outputs are logits or probabilities
            `(n, classes)`.
        images: float array `(n, ...)`, preprocessed as for the model.
        labels: integer classes `(n,)`.
        repair: applied to each programmed chip before it predicts, and to the fault-free model
            unless a task says otherwise; see `keras_rram.repair.Repair`.
        batch: images that go through the network at once.
        measure: what scores the outputs, which may then be any, and labels what it takes; None:
            right or wrong by the largest of several.

    Raises:
        ValueError: without a measure, if the outputs are not `(n, classes)`, two classes or more.

    Example:

    ```python
    engine = KerasEngine(model, images, labels)
    (answers,) = engine.answer([Task(Chip(StuckAtZero(0.1)))])
    answers.correct.mean()
    ```
    """

    name = "keras"

    def __init__(
        self,
        model: keras.Model,
        images: np.ndarray,
        labels: Any,
        repair: Repair | None = None,
        batch: int = BATCH,
        measure: Measure | None = None,
    ):
        self._model, self._repair, self._measure = model, repair, measure
        self._count, self._batch = len(images), min(batch, len(images))
        self._images = images
        self._labels = np.asarray(labels, np.int32) if measure is None else labels
        self._layers = list(faulty_layers(model).values())
        self._weights = faulty_weights(model)
        self._is_noisy = any(layer.is_noisy for layer in self._layers)
        with self._random_states_kept():
            found = model(ops.convert_to_tensor(images[:1]), training=False)
            outputs: tuple[int, ...] = np.shape(found) if measure is None else ()
        if measure is None and (len(outputs) != 2 or outputs[1] < 2):
            raise ValueError(
                f"expected a classifier with outputs (n, classes), classes >= 2. Received: model "
                f"'{model.name}' with outputs of shape {('n', *outputs[1:])}"
            )
        self.group = 1
        is_jax = keras.backend.backend() == "jax"
        if is_jax and repair is None and not self._is_noisy and measure is None:
            self.group = _group_size(model, self._batch)
        if measure is None:
            arrays = self._images, self._labels
            self._predict = ChipInference(model, _is_right, arrays, self.group)
        else:
            self._predict = ChipInference(model, _outputs, (self._images,))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the model as trained, and compiles nothing."""
        held = self._images, self._labels, self._repair, self._batch, self._measure
        return _restored, (to_bytes(self._model), read_noise_of(self._model), *held)

    def answer(self, tasks: Sequence[Task]) -> list[Answers]:
        """Evaluates each task's chip on its images; the model gets back what it held before."""
        answers: list[Answers] = []
        with self._random_states_kept(), erase(self._model):
            for part in self._alike(tasks):
                answers += self._grouped(part) if self.group > 1 else [self._single(part[0])]
        return answers

    def _alike(self, tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
        """Cuts tasks into groups that answer the same images."""
        start = 0
        for stop in range(1, len(tasks) + 1):
            full = stop - start == self.group
            if stop == len(tasks) or full or not _same(tasks[stop].images, tasks[start].images):
                yield tasks[start:stop]
                start = stop

    def _single(self, task: Task) -> Answers:
        programmed = self._programmed(task.chip)
        with programmed, self._repaired(task):
            rate = achieved_rate(programmed.faults, self._weights)
            return Answers(self._run(task), rate)

    def _grouped(self, tasks: Sequence[Task]) -> list[Answers]:
        """Evaluates chips side by side on JAX."""
        held, rates = [], []
        for task in tasks:
            programmed = self._programmed(task.chip)
            with programmed:
                rates.append(achieved_rate(programmed.faults, self._weights))
                # JAX arrays never change: these stay when the next chip is programmed.
                held.append(self._predict.faults())
        # A group of another size would be compiled again.
        padded = held + held[-1:] * (self.group - len(held))
        correct = self._run(tasks[0], [ops.stack(values) for values in zip(*padded, strict=True)])
        return [Answers(row, rate) for row, rate in zip(correct, rates, strict=False)]

    @contextmanager
    def _random_states_kept(self) -> Iterator[None]:
        states = [layer.seed_generator.state for layer in self._layers]
        held = [np.array(ops.convert_to_numpy(state)) for state in states]
        try:
            yield
        finally:
            for state, value in zip(states, held, strict=True):
                state.assign(value)

    def _programmed(self, chip: Chip | None) -> Programmed:
        return erase(self._model) if chip is None else chip.program(self._model)

    def _repaired(self, task: Task) -> AbstractContextManager[Any]:
        if self._repair is None or not task.repaired:
            return nullcontext()
        return self._repair(self._model, task.chip)

    def _run(self, task: Task, faults: list[Any] | None = None) -> np.ndarray:
        """Predicts in batches, noise anew in each; returns booleans, images last."""
        images = np.arange(self._count) if task.images is None else np.asarray(task.images)
        chip = _words(task.chip) if self._is_noisy else ()
        parts = []
        for start in range(0, len(images), self._batch):
            batch = images[start : start + self._batch]
            used = len(batch)
            if self._is_noisy:
                reseed(self._model, *chip, int(batch[0]))
            if keras.backend.backend() == "jax":
                batch = np.pad(batch, (0, self._batch - used))  # compiled for one size
            found = keras.tree.map_structure(ops.convert_to_numpy, self._predict(batch, faults))
            if self._measure is None:
                parts.append(found[..., :used])
            else:
                parts.append(keras.tree.map_structure(lambda one, n=used: one[:n], found))
        if self._measure is None:
            return np.concatenate(parts, axis=-1).astype(bool)
        outputs = keras.tree.map_structure(lambda *each: np.concatenate(each), *parts)
        return self._measure(outputs, keras.tree.map_structure(lambda a: a[images], self._labels))


def _outputs(call: Any, batch: Any, images: Any) -> Any:
    return call(ops.take(images, batch, axis=0))


def _is_right(call: Any, batch: Any, images: Any, labels: Any) -> Any:
    classes = ops.argmax(call(ops.take(images, batch, axis=0)), axis=-1)
    return ops.equal(classes, ops.cast(ops.take(labels, batch, axis=0), classes.dtype))


def _restored(content: bytes, noises: dict[str, Any], *arguments: Any) -> KerasEngine:
    model = from_bytes(content)
    for name, layer in faulty_layers(model).items():
        layer.read_noise = noises.get(name)  # a file holds none
    return KerasEngine(model, *arguments)


def _words(chip: Chip | None) -> tuple[int, ...]:
    """Returns the integers that the noise on a chip's reads follows from."""
    if chip is None:
        return -1, -1
    if chip.measured is None:
        return chip.seed, chip.index
    # Measured chips have neither: they are told apart by their maps and names.
    digest = hashlib.sha256(json.dumps(chip_identity(chip), sort_keys=True).encode())
    return chip.seed, chip.index, int(digest.hexdigest()[:8], 16)


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _group_size(model: keras.Model, batch: int) -> int:
    """Returns how many chips JAX evaluates at once: a power of two that fits into memory."""
    import jax

    largest = max((_size(layer.output) for layer in _with_outputs(model)), default=0)
    if not largest:
        return 1  # a subclassed model: nothing is known about its activations
    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    available = _MEMORY_SHARE * limit if limit else _CPU_BYTES
    # XLA reuses buffers: about three of the largest live at a time.
    chips = int(available // (3 * 4 * largest * batch))
    cap = min(max(chips, 1), _LARGEST_GROUP.get(device.platform, 1))
    return 1 << (cap.bit_length() - 1)


def _with_outputs(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model._flatten_layers(include_self=False):
        try:
            _ = layer.output
        except (AttributeError, ValueError):
            continue
        yield layer


def _size(output: Any) -> int:
    """Returns the number of elements for one image, 0 where it is not known."""
    shape: tuple[Any, ...] = getattr(output, "shape", (None, None))[1:]
    return 0 if None in shape else math.prod(shape)
