"""Training on a new chip every few steps, for any fault model."""

from contextlib import ExitStack
from typing import Any

import keras

from keras_rram.chips.chip import Chip
from keras_rram.faults import FaultModel, parse, spec
from keras_rram.training.unfinished import give_back, has_changed, has_given_back


class FreshChips(keras.callbacks.Callback):
    """Programs a new chip into the model every few training steps.

    Noise injection for any fault model: those that a compiled step can draw by itself are faster as
    `DropConnect(rate, noise=NoiseInjection(fault_model))`. It joins Drop-Connect, which goes on
    dropping weights of the chip in every step. A chip's faults are computed from the weights at the
    moment it is programmed, so with models of a cell keep `every` small.

    Chip number `step // every` of the population is in the model in each step, counted over all
    epochs, so training that resumes goes on with the right one. Validation inside `fit`, callbacks
    at the end of an epoch, and the trained model see what was programmed before.

    Of an error or Ctrl-C Keras tells callbacks nothing: then `train` takes the chip out, and where
    you called `fit` yourself, the next training does, or `on_train_end()`.

    Args:
        fault_model: what the chips' faults are drawn from; or its text, see
            `keras_rram.faults.parse`.
        every: steps that a chip stays.
        seed: seed of the population of chips, which are those of the stream "training": never the
            ones that the model is validated or evaluated on.

    Example:

    ```python
    model.fit(..., callbacks=[FreshChips("row_faults:rate=0.1", every=4, seed=1)])
    ```
    """

    def __init__(self, fault_model: FaultModel | str, every: int = 1, seed: int = 0):
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer >= 1. Received: every={every!r}")
        self.fault_model = parse(fault_model) if isinstance(fault_model, str) else fault_model
        self.every, self.seed = every, seed
        self._chip(0)  # checks fault model and seed
        self._stack = ExitStack()
        self._epoch_start = self._seen = 0
        self._held: int | None = None

    def chips(self, count: int) -> list[Chip]:
        """Returns the first chips of the population."""
        return [self._chip(index) for index in range(count)]

    @property
    def identity(self) -> str:
        """What must be the same when training resumes."""
        return f"{spec(self.fault_model)}, every {self.every} steps, seed {self.seed}"

    def set_model(self, model: keras.Model) -> None:
        """Takes the model, and raises if a chip cannot be programmed into it."""
        super().set_model(model)
        give_back(model)
        # Before training compiles its step: a fault model with offsets adds variables.
        with self._chip(0).program(model):
            pass

    def _chip(self, index: int) -> Chip:
        return Chip(self.fault_model, self.seed, index, stream="training")

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the steps of the epochs before, those before a resume included."""
        steps = (self.params or {}).get("steps")
        self._epoch_start = epoch * steps if steps else self._seen

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Programs the chip of the step, unless it is in the model already."""
        step = self._epoch_start + batch
        self._seen = step + 1
        index = step // self.every
        if index == self._held:
            return
        self._remove()
        self._stack.enter_context(self._chip(index).program(self.model))
        self._held = index
        has_changed(self.model, self)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Takes the chip out for validation."""
        self._remove()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes the chip out for the callbacks at the end of the epoch that come later."""
        self._remove()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Takes the last chip out."""
        self._remove()

    def _remove(self) -> None:
        # On JAX the step holds the state, until it is told to give it back.
        sync = getattr(self.model, "jax_state_sync", None)
        if sync is not None:
            sync()
        self._stack.close()
        self._held = None
        has_given_back(self.model, self)
