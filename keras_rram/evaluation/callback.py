"""A Keras callback: how a population of chips does, after each epoch, in the logs."""

from typing import Any

import keras
import numpy as np

from keras_rram.chips import population
from keras_rram.data import check_labels
from keras_rram.evaluation.engines.keras import KerasEngine
from keras_rram.evaluation.engines.protocol import Task
from keras_rram.evaluation.population import check_data
from keras_rram.evaluation.statistics.two_way import chip_interval
from keras_rram.faults import FaultModel, parse


class PopulationAccuracy(keras.callbacks.Callback):
    """Evaluates a population of chips after each epoch and puts the figures into `logs`.

    Put it before the callbacks that are to see them (`EarlyStopping`, `ModelCheckpoint`,
    `TensorBoard`); Keras's history and progress bar come last by themselves. Whatever records the
    logs of an epoch records the population: TensorBoard, MLflow's autolog, Weights & Biases. The
    model is as it was afterwards. The keys are:

    - `val_population_accuracy`: mean over the chips;
    - `val_population_accuracy_low`, `val_population_accuracy_high`: its 95% interval for new
      chips, on these images (with two chips or more);
    - `val_population_worst`: the worst chip;
    - `val_population_yield`: the share of the chips with at least `required`.

    `ChipValidation` follows the loss and single chips, with the model's own metrics; this one is
    compiled once for all chips and epochs, and is the one for many chips.

    Args:
        images: images `(n, ...)`, preprocessed as for the model; set aside from training.
        labels: integer classes `(n,)`.
        fault_model: what the chips' faults are drawn from, or its text, "stuck_at_zero:rate=0.1".
        chips: number of chips, the same ones after each epoch.
        required: accuracy in [0, 1] that the yield is about.
        every: epochs between two evaluations, the first after `every` epochs.
        seed: seed of the chips, which are those of the stream "validation": no evaluation meets
            them.

    Raises:
        ValueError: if a value is out of range, or if model, images and labels do not fit.

    Example:

    ```python
    follow = PopulationAccuracy(*dataset.arrays("validation"), "stuck_at_zero:rate=0.1", chips=20)
    stop = keras.callbacks.EarlyStopping("val_population_accuracy_low", mode="max", patience=3)
    model.fit(..., callbacks=[follow, stop, keras.callbacks.TensorBoard("logs")])
    ```
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        fault_model: FaultModel | str,
        chips: int = 20,
        required: float = 0.9,
        every: int = 1,
        seed: int = 0,
    ):
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer >= 1. Received: every={every!r}")
        if not 0.0 <= required <= 1.0:
            raise ValueError(f"`required` must be in [0, 1]. Received: required={required!r}")
        faults = parse(fault_model) if isinstance(fault_model, str) else fault_model
        self.chips = population(faults, chips, seed, stream="validation")
        self.images, self.required, self.every = np.asarray(images), required, every
        self.labels = check_labels(labels, len(self.images))
        self._engine: KerasEngine | None = None

    def set_model(self, model: keras.Model) -> None:
        """Takes the model, and raises if a chip cannot be programmed into it."""
        super().set_model(model)
        # Before training compiles its step: a fault model with offsets adds variables.
        with self.chips[0].program(model):
            pass
        images, labels, measure = check_data(model, (self.images, self.labels))
        self._engine = KerasEngine(model, images, labels, measure=measure)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates every chip and adds the figures to `logs`."""
        if logs is None or (epoch + 1) % self.every or self._engine is None:
            return
        # On JAX the step holds the state, until it is told to give it back.
        sync = getattr(self.model, "jax_state_sync", None)
        if sync is not None:
            sync()
        answers = self._engine.answer([Task(chip) for chip in self.chips])
        correct = np.array([int(one.correct.sum()) for one in answers])
        total = np.full(len(correct), len(self.labels))
        accuracies = correct / total
        logs["val_population_accuracy"] = float(accuracies.mean())
        if len(self.chips) > 1:
            found = chip_interval(correct, total, images="test_set")
            logs["val_population_accuracy_low"] = found.low
            logs["val_population_accuracy_high"] = found.high
        logs["val_population_worst"] = float(accuracies.min())
        logs["val_population_yield"] = float(np.mean(accuracies >= self.required))
