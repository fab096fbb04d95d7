"""Keras callbacks: accuracy on chips, training on a known chip, drop rates, checkpoints."""

from typing import Any

import keras
import numpy as np

from keras_rram.chips.chip import Chip, population
from keras_rram.faults import FaultModel


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
        seed: seed of the population of chips, which are those of the stream "validation": what is
            chosen by them was not chosen by the chips of an evaluation.
        batch_size: images in one batch of the evaluation; does not change the result.
        each_chip: whether the accuracy of each chip is a metric of its own.

    Example:

    ```python
    images, labels = dataset.split(0.1).arrays("validation")
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
        self.chips = population(fault_model, chips, seed, stream="validation")
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
