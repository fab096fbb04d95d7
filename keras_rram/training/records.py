"""Records of epochs, and checkpoints with them."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_rram.training.checkpoint import save_checkpoint


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
        """Adds the record.

        Raises:
            ValueError: if one of its values is NaN or infinite.
        """
        learning_rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        self.records.append(
            {
                "epoch": epoch + 1,
                "seconds": time.perf_counter() - self._begin,
                "learning_rate": float(learning_rate),
                **{name: float(value) for name, value in (logs or {}).items()},
            }
        )
        nothing = [k for k, value in self.records[-1].items() if not math.isfinite(value)]
        if nothing:
            raise ValueError(
                f"{nothing} of epoch {epoch + 1} are no numbers: training has diverged, and is not "
                "saved. Lower the learning rate, or clip gradients (`gradient_clip`)."
            )


class Checkpoint(EpochRecords):
    """Saves the state of training after each epoch, for `restore_checkpoint`.

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
