"""The last epochs of training on the statistics that every chip will have."""

from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np

from keras_rram.layers import fix_statistics, gather_statistics
from keras_rram.layers.statistics import require_statistics
from keras_rram.training.unfinished import give_back, has_changed, has_given_back


class FixedStatistics(keras.callbacks.Callback):
    """From an epoch on, holds the statistics of normalizations still, so that training sees them.

    Before, each step normalizes by the statistics of its batch, which fit its mask perfectly: the
    loss never contains the error that a chip makes with fixed statistics. At the switch the
    statistics are gathered over many masks (`gather_statistics`), and from there on weights, gamma
    and beta learn to bear the error. A compiled training step is compiled once more.

    Training that resumes after the switch goes on with the statistics that the model has. Give it
    before callbacks that evaluate the model. Of an error or Ctrl-C Keras tells callbacks nothing:
    then `train` lets the statistics move again, and where you called `fit` yourself, the next
    training does, or `on_train_end()`.

    Args:
        images: training images `(n, ...)`, preprocessed as for the model.
        first_epoch: the epoch, counted from 0, at whose beginning the statistics are gathered.
        masks: how many masks they are gathered over, or chips; see `gather_statistics`.
        batch_size: images with each mask, at most.

    Example:

    ```python
    images, _ = dataset.arrays("train", augmented=True)
    train(model, dataset, recipe, callbacks=[FixedStatistics(images, recipe.epochs - 3)])
    ```
    """

    def __init__(self, images: np.ndarray, first_epoch: int, masks: Any = 64, batch_size: int = 64):
        super().__init__()
        if isinstance(first_epoch, bool) or not isinstance(first_epoch, int) or first_epoch < 0:
            raise ValueError(
                f"`first_epoch` must be an integer >= 0. Received: first_epoch={first_epoch!r}"
            )
        self.images, self.first_epoch = images, first_epoch
        self.masks, self.batch_size = masks, batch_size
        self._fixed: AbstractContextManager | None = None

    def set_model(self, model: keras.Model) -> None:
        """Takes the model, and raises if it has no statistics."""
        super().set_model(model)
        give_back(model)
        require_statistics(model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Gathers the statistics at the switch, and fixes them from there on."""
        if epoch < self.first_epoch or self._fixed is not None:
            return
        # On JAX the step holds the state, until it is told to give it back.
        sync = getattr(self.model, "jax_state_sync", None)
        if sync is not None:
            sync()
        if epoch == self.first_epoch:
            gather_statistics(self.model, self.images, self.masks, self.batch_size)
        self._fixed = fix_statistics(self.model)
        self._fixed.__enter__()
        has_changed(self.model, self)
        self.model.make_train_function(force=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Lets the statistics move again."""
        if self._fixed is None:
            return
        self._fixed.__exit__(None, None, None)
        self._fixed = None
        has_given_back(self.model, self)
        self.model.train_function = None
