"""Drop rates that change from epoch to epoch."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_rram.layers import faulty_layers, set_drop_rate


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
