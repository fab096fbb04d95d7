"""Keras callbacks: accuracy on chips, training on a known chip, drop rates, checkpoints."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_rram.checkpoint import save_checkpoint
from keras_rram.chips import Chip, population
from keras_rram.faults import FaultModel
from keras_rram.layers import faulty_layers, set_drop_rate


class ChipValidation(keras.callbacks.Callback):
    """Evaluates the model on a few chips after each epoch.

    The chips are the same ones after every epoch, so that the curve shows the training and not
    the luck of the draw. Afterwards the model is as it was, also when the evaluation raises. The
    metrics join the logs of the epoch, for the callbacks that come later in the list and for
    Keras's history and progress bar:

    - `val_chip_accuracy`: mean over the chips; with `chips=1`, what the source study plots as
      validation accuracy.
    - `val_chip_accuracy_min`, `val_chip_accuracy_max`: the worst and the best chip.
    - `val_chip_loss`: mean over the chips.
    - `val_chip_0_accuracy`, `val_chip_1_accuracy`, ...: each chip, with `each_chip=True`.

    Args:
        images: normalized images of shape `(n, height, width, channels)`.
        labels: integer labels of shape `(n,)`.
        fault_model: what the chips' faults are drawn from.
        chips: number of chips.
        seed: seed of the population of chips.
        batch_size: images in one batch of the evaluation; does not change the result.
        each_chip: whether the accuracy of each chip is a metric of its own.

    Example:

    ```python
    images, labels = dataset.arrays("test")
    model.fit(..., callbacks=[ChipValidation(images, labels, StuckAtZero(0.1), chips=5)])
    ```
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        fault_model: FaultModel,
        chips: int = 1,
        seed: int = 0,
        batch_size: int = 256,
        each_chip: bool = False,
    ):
        super().__init__()
        if len(images) != len(labels) or not len(labels):
            raise ValueError(
                "ChipValidation needs one label for each of at least one image. Received: "
                f"{len(images)} images, {len(labels)} labels"
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` must be an integer >= 1. Received: {batch_size!r}")
        self.images = images
        self.labels = labels
        self.chips = population(fault_model, chips, seed)
        self.batch_size = batch_size
        self.each_chip = each_chip

    def set_model(self, model: keras.Model) -> None:
        """Takes the model, and raises if a chip cannot be programmed into it."""
        super().set_model(model)
        # Before training compiles its step: a fault model with offsets adds variables.
        with self.chips[0].program(model):
            pass

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates every chip and adds the metrics to `logs`."""
        results = [self._evaluate(chip) for chip in self.chips]
        accuracies = [result["accuracy"] for result in results]
        if logs is not None:
            logs["val_chip_accuracy"] = float(np.mean(accuracies))
            logs["val_chip_accuracy_min"] = float(min(accuracies))
            logs["val_chip_accuracy_max"] = float(max(accuracies))
            logs["val_chip_loss"] = float(np.mean([result["loss"] for result in results]))
            if self.each_chip:
                logs |= {
                    f"val_chip_{chip.index}_accuracy": accuracy
                    for chip, accuracy in zip(self.chips, accuracies, strict=True)
                }

    def _evaluate(self, chip: Any) -> dict[str, float]:
        with chip.program(self.model):
            result = self.model.evaluate(
                self.images, self.labels, batch_size=self.batch_size, verbose=0, return_dict=True
            )
        if "accuracy" not in result:
            raise ValueError(
                "ChipValidation needs a metric named 'accuracy'. Received: "
                f"{sorted(result)} (compile with `metrics=['accuracy']` or `Recipe.compile`)"
            )
        return result


class Reprogram(keras.callbacks.Callback):
    """Trains on one known chip, programming it anew as the weights change.

    What a cell does to a weight depends on the weight: a cell of a differential pair that is stuck
    off costs a positive weight and leaves a negative one alone, and one that is stuck on is worth
    the largest weight of its layer. This callback computes the chip's masks and offsets from the
    weights of the moment, so that in each step (`every=1`) the model is what the chip would be if
    these weights were written to it, and the gradient is that of its effective weights, at constant
    scale. A weight whose cell is stuck gets no gradient and keeps its value; of a centred pair, the
    other cell goes on learning.

    Before validation and at the end of each epoch and of training the chip is programmed with the
    weights of that moment, whatever `every` is. The trained model stays programmed with the chip;
    `keras_rram.erase` takes it out.

    Args:
        chip: the chip. One whose faults do not depend on the weights is programmed once.
        every: training steps between two programmings.

    Raises:
        ValueError: if the chip was loaded with faults that were computed from other weights.

    Example:

    ```python
    chip = Chip(StuckCells(stuck_off=0.02, stuck_on=0.01), seed=1)
    model.fit(..., callbacks=[Reprogram(chip)])
    ```
    """

    def __init__(self, chip: Chip, every: int = 1):
        super().__init__()
        if not isinstance(chip, Chip):
            raise TypeError(f"`chip` must be a `Chip`. Received: chip={chip!r}")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer >= 1. Received: every={every!r}")
        self._needs_kernel = chip.fault_model is not None and chip.fault_model.needs_kernel
        if self._needs_kernel and chip.measured is not None:
            raise ValueError(
                "expected a chip that can be programmed anew. Received one whose faults were "
                "saved with the weights of then: use "
                f"Chip({chip.fault_model}, seed={chip.seed}, index={chip.index})"
            )
        self.chip, self.every = chip, every
        self._steps = 0
        self._is_current = False

    def set_model(self, model: keras.Model) -> None:
        """Takes the model and programs the chip, before training compiles its step."""
        super().set_model(model)
        self._is_current = False
        self._program()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Counts steps from here."""
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Programs the chip where it is time to."""
        self._is_current = not self._needs_kernel
        self._steps += 1
        if self._steps % self.every == 0:
            self._program()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Programs the chip for validation."""
        self._program()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Programs the chip for what comes between epochs."""
        self._program()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Programs the chip with the trained weights."""
        self._program()

    def _program(self) -> None:
        if self._is_current:
            return
        # On JAX the step holds the state, until it is told to give it back.
        sync = getattr(self.model, "jax_state_sync", None)
        if sync is not None:
            sync()
        self.chip.program(self.model)
        self._is_current = True


class DropRateSchedule(keras.callbacks.Callback):
    """Sets the drop rate of all Drop-Connect layers at the beginning of each epoch.

    The rate is a variable of the layers, so nothing is compiled again. The rate of an epoch
    depends on its number alone: training that resumes goes on with the right one. The logs of the
    epoch get it as `drop_rate`.

    Args:
        schedule: a function from the epoch, counted from 0, to a rate in `[0, 1)`; or a dict of
            the epochs at which the rate changes, with an entry for epoch 0.

    Example:

    ```python
    DropRateSchedule({0: 0.0, 3: 0.1, 6: 0.2})
    DropRateSchedule(lambda epoch: min(0.02 * epoch, 0.2))
    ```
    """

    def __init__(self, schedule: Callable[[int], float] | Mapping[int, float]):
        super().__init__()
        if isinstance(schedule, Mapping):
            whole = all(isinstance(epoch, int) and epoch >= 0 for epoch in schedule)
            if not whole or 0 not in schedule:
                raise ValueError(
                    "`schedule` must have epochs >= 0 as keys, 0 among them. Received: "
                    f"{dict(schedule)}"
                )
        elif not callable(schedule):
            raise TypeError(
                "`schedule` must be a function of the epoch or a dict of epoch to rate. "
                f"Received: schedule={schedule!r}"
            )
        self.schedule = schedule

    def rate(self, epoch: int) -> float:
        """Returns the drop rate of an epoch, counted from 0."""
        if isinstance(self.schedule, Mapping):
            return self.schedule[max(start for start in self.schedule if start <= epoch)]
        return self.schedule(epoch)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the rate."""
        set_drop_rate(self.model, self.rate(epoch))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the rate to `logs`."""
        if logs is not None:
            layer = next(iter(faulty_layers(self.model).values()))
            logs["drop_rate"] = float(keras.ops.convert_to_numpy(layer.drop_rate))


class EpochRecords(keras.callbacks.Callback):
    """Keeps one record for each epoch: its logs, the learning rate at its end, and its duration.

    Give it after the callbacks whose metrics it shall keep.

    Args:
        records: those of the epochs before, when training resumes.

    Attributes:
        records: list of dicts, `epoch` (completed epochs, from 1), `seconds`, `learning_rate` and
            the logs.
    """

    def __init__(self, records: Sequence[Mapping[str, float]] = ()):
        super().__init__()
        self.records = [dict(record) for record in records]
        self._begin = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the record."""
        learning_rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        self.records.append(
            {
                "epoch": epoch + 1,
                "seconds": time.perf_counter() - self._begin,
                "learning_rate": float(learning_rate),
                **{name: float(value) for name, value in (logs or {}).items()},
            }
        )


class Checkpoint(EpochRecords):
    """Saves the state of training after each epoch, for `keras_rram.checkpoint.restore_checkpoint`.

    Give it last, so that the history in the file has the metrics of the other callbacks.

    Args:
        path: `.npz` file, replaced as a whole after each epoch.
        fingerprint: what must be the same to go on, see `save_checkpoint`.
        records: records of the epochs before, when training resumes.

    Example:

    ```python
    checkpoint = Checkpoint("run/checkpoint.npz")
    restored = restore_checkpoint(model, checkpoint.path)
    ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fingerprint: Mapping[str, Any] | None = None,
        records: Sequence[Mapping[str, float]] = (),
    ):
        super().__init__(records)
        self.path = path
        self.fingerprint = fingerprint

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the record and saves."""
        super().on_epoch_end(epoch, logs)
        save_checkpoint(self.model, self.path, epoch + 1, self.records, self.fingerprint)
