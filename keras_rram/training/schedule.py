"""Drop rates that change from epoch to epoch, or from step to step."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_rram.layers import faulty_layers, set_drop_rate
from keras_rram.training.unfinished import give_back, has_changed, has_given_back


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


class DropRates(keras.callbacks.Callback):
    """Sets the drop rate of all Drop-Connect layers in each step, as a share of their own.

    The share rises from 0 to 1 over the first epochs, and can be drawn anew in each step, so that
    one model learns all fault rates up to its drop rate. It depends on the seed and on the number
    of the step alone: training that resumes goes on with the right ones. Between epochs and at the
    end the layers have their own rate.

    Args:
        uniform: whether the share is drawn from `[0, 1)`, rather than 1.
        ramp_epochs: epochs over which it rises, step by step; 0 for none.
        seed: seed of the draws.

    Example:

    ```python
    train(model, dataset, recipe, callbacks=[DropRates(uniform=True, seed=1)])
    ```
    """

    def __init__(self, uniform: bool = False, ramp_epochs: int = 0, seed: int = 0):
        super().__init__()
        if isinstance(ramp_epochs, bool) or not isinstance(ramp_epochs, int) or ramp_epochs < 0:
            raise ValueError(
                f"`ramp_epochs` must be an integer >= 0. Received: ramp_epochs={ramp_epochs!r}"
            )
        if not uniform and not ramp_epochs:
            raise ValueError(
                "Expected `uniform=True` or `ramp_epochs` of at least 1: nothing would change. "
                f"Received: uniform={uniform!r}, ramp_epochs={ramp_epochs!r}"
            )
        self.uniform, self.ramp_epochs, self.seed = uniform, ramp_epochs, seed
        self._epoch = 0

    def set_model(self, model: keras.Model) -> None:
        """Takes the model, and raises if it has no Drop-Connect layer."""
        super().set_model(model)
        give_back(model)
        if not faulty_layers(model):
            raise ValueError(f"Model '{model.name}' has no Drop-Connect layer to set rates of.")

    def share(self, epoch: int, batch: int, steps: int | None) -> float:
        """Returns the share of a step.

        Args:
            epoch: the epoch, counted from 0.
            batch: the step in it, counted from 0.
            steps: steps in an epoch; unknown, the share rises from epoch to epoch.
        """
        share = 1.0
        if self.ramp_epochs:
            share = min(1.0, (epoch + (batch + 1) / (steps or batch + 1)) / self.ramp_epochs)
        if self.uniform:
            share *= np.random.default_rng([self.seed, epoch, batch]).random()
        return share

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch
        has_changed(self.model, self)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the rates of the step."""
        self._assign(self.share(self._epoch, batch, (self.params or {}).get("steps")))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Gives the layers their own rates back."""
        self._assign(1.0)
        has_given_back(self.model, self)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the layers their own rates back."""
        self._assign(1.0)
        has_given_back(self.model, self)

    def _assign(self, share: float) -> None:
        # On JAX the step holds the state, until it is told to give it back.
        sync = getattr(self.model, "jax_state_sync", None)
        if sync is not None:
            sync()
        for layer in faulty_layers(self.model).values():
            layer.drop_rate.assign(layer.drop_connect.rate * share)
