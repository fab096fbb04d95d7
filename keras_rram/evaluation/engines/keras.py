"""The reference engine: any Keras backend, any model, any fault model, any repair."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.chips.chip import Chip, erase
from keras_rram.evaluation.engines.protocol import Answers, Task, achieved_rate
from keras_rram.faults import Fault
from keras_rram.layers import faulty_layers
from keras_rram.noise.injection import reseed

Repair = Callable[[keras.Model, dict[str, Fault]], AbstractContextManager[Any]]
"""Called as `with repair(model, chip_faults):` on a programmed model; undoes itself at the end."""

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
        repair: applied to each programmed chip before it predicts; see `Repair`.
        batch: images that go through the network at once.

    Raises:
        ValueError: if the outputs are not `(n, classes)` with two classes or more.

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
        labels: np.ndarray,
        repair: Repair | None = None,
        batch: int = BATCH,
    ):
        self._model, self._repair = model, repair
        self._count, self._batch = len(images), min(batch, len(images))
        self._images = ops.convert_to_tensor(images)
        self._labels = ops.convert_to_tensor(np.asarray(labels, np.int32))
        with self._random_states_kept():
            outputs = np.shape(self._logits(np.zeros(1, np.int32)))
        if len(outputs) != 2 or outputs[1] < 2:
            raise ValueError(
                f"expected a classifier with outputs (n, classes), classes >= 2. Received: model "
                f"'{model.name}' with outputs of shape {('n', *outputs[1:])}"
            )
        self._is_jax = keras.backend.backend() == "jax"
        self._compiled_for: tuple[bool, ...] | None = None
        self._predict: Callable[..., Any] = self._correct
        self.group = 1
        self._is_noisy = any(layer.is_noisy for layer in self._layers())
        if self._is_jax and repair is None and not self._is_noisy:
            self.group = _group_size(model, self._batch)

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
        faults = self._faults(task.chip)
        with ExitStack() as stack:
            stack.enter_context(self._programmed(task.chip))
            if self._repair is not None and task.chip is not None:
                stack.enter_context(self._repair(self._model, faults))
            self._compile()
            if self._is_noisy:
                correct = self._run_noisy(task)
            else:
                correct = self._run(task.images, *(self._state() if self._is_jax else ()))
            return Answers(correct, achieved_rate(faults))

    def _grouped(self, tasks: Sequence[Task]) -> list[Answers]:
        """Evaluates chips side by side on JAX."""
        held, rates = [], []
        for task in tasks:
            with self._programmed(task.chip):
                self._compile()
                rates.append(achieved_rate(self._faults(task.chip)))
                # JAX arrays never change: these stay when the next chip is programmed.
                held.append([variable.value for variable in self._fault_variables()])
        # A group of another size would be compiled again.
        padded = held + held[-1:] * (self.group - len(held))
        masks = [ops.stack(values) for values in zip(*padded, strict=True)]
        trainable, others, _ = self._state()
        correct = self._run(tasks[0].images, trainable, others, masks)
        return [Answers(row, rate) for row, rate in zip(correct, rates, strict=False)]

    @contextmanager
    def _random_states_kept(self) -> Iterator[None]:
        states = [layer.seed_generator.state for layer in self._layers()]
        held = [np.array(ops.convert_to_numpy(state)) for state in states]
        try:
            yield
        finally:
            for state, value in zip(states, held, strict=True):
                state.assign(value)

    def _programmed(self, chip: Chip | None) -> AbstractContextManager[Any]:
        return erase(self._model) if chip is None else chip.program(self._model)

    def _faults(self, chip: Chip | None) -> dict[str, Fault]:
        return {} if chip is None else chip.faults(self._model)

    def _run_noisy(self, task: Task) -> np.ndarray:
        """Predicts in batches, each with noise of its own."""
        images = np.arange(self._count) if task.images is None else np.asarray(task.images)
        chip = (-1, -1) if task.chip is None else (task.chip.seed, task.chip.index)
        parts = []
        for start in range(0, len(images), self._batch):
            batch = images[start : start + self._batch]
            reseed(self._model, *chip, int(batch[0]))
            parts.append(self._run(batch, *(self._state() if self._is_jax else ())))
        return np.concatenate(parts)

    def _run(self, images: np.ndarray | None, *state: Any) -> np.ndarray:
        """Predicts in batches; returns booleans, images last."""
        indices = np.arange(self._count) if images is None else np.asarray(images)
        indices = indices.astype(np.int32)
        parts = []
        for start in range(0, len(indices), self._batch):
            batch = indices[start : start + self._batch]
            used = len(batch)
            if self._is_jax and used < self._batch:
                batch = np.pad(batch, (0, self._batch - used))
            parts.append(ops.convert_to_numpy(self._predict(batch, *state))[..., :used])
        return np.concatenate(parts, axis=-1).astype(bool)

    def _compile(self) -> None:
        """Compiles the prediction, again only where a fault model has added offsets."""
        signature = tuple(bool(layer.fault_offsets) for layer in self._layers())
        if signature == self._compiled_for:
            return
        self._compiled_for = signature
        backend = keras.backend.backend()
        if backend == "tensorflow":
            import tensorflow as tf

            self._predict = tf.function(
                self._correct, input_signature=[tf.TensorSpec([None], tf.int32)]
            )
        elif backend == "torch":
            import torch

            self._predict = torch.no_grad()(self._correct)
        elif backend == "jax":
            self._predict = self._compiled_jax()

    def _compiled_jax(self) -> Callable[..., Any]:
        import jax

        variables = self._model.non_trainable_variables
        places = {id(variable): place for place, variable in enumerate(variables)}
        positions = [places[id(variable)] for variable in self._fault_variables()]

        def correct(batch, images, labels, trainable, others, masks):
            state = list(others)
            for position, mask in zip(positions, masks, strict=True):
                state[position] = mask
            logits, _ = self._model.stateless_call(trainable, state, images[batch], training=False)
            return logits.argmax(-1) == labels[batch]

        if self.group > 1:
            correct = jax.vmap(correct, in_axes=(None, None, None, None, None, 0))
        compiled = jax.jit(correct)
        return lambda batch, *state: compiled(batch, self._images, self._labels, *state)

    def _state(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Returns the values of all variables: trainable ones, others, and the faults' again."""
        return (
            [variable.value for variable in self._model.trainable_variables],
            [variable.value for variable in self._model.non_trainable_variables],
            [variable.value for variable in self._fault_variables()],
        )

    def _correct(self, batch: Any) -> Any:
        return ops.equal(
            ops.argmax(self._logits(batch), axis=-1), ops.take(self._labels, batch, axis=0)
        )

    def _logits(self, batch: Any) -> Any:
        return self._model(ops.take(self._images, batch, axis=0), training=False)

    def _layers(self) -> list[Any]:
        return list(faulty_layers(self._model).values())

    def _fault_variables(self) -> list[keras.Variable]:
        return [
            variable
            for layer in self._layers()
            for variables in (layer.fault_masks, layer.fault_offsets)
            for variable in variables.values()
        ]


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
