"""Training: a model, a dataset and a recipe, with checkpoints, exact resume and a clean Ctrl-C."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_rram.data.dataset import Dataset
from keras_rram.files import one_writer
from keras_rram.training.checkpoint import Restored, restore_checkpoint
from keras_rram.training.fixed_statistics import FixedStatistics
from keras_rram.training.fresh_chips import FreshChips
from keras_rram.training.many_steps import many_steps, steps_at_once
from keras_rram.training.recipes import RECIPES, Recipe
from keras_rram.training.records import Checkpoint, EpochRecords
from keras_rram.training.schedule import DropRates
from keras_rram.training.unfinished import give_back

_STATISTICS_IMAGES = 4096
_STATISTICS_MASKS = 64

__all__ = ["RECIPES", "Recipe", "TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """What training did.

    Attributes:
        history: one record for each completed epoch, those before a resume included: `epoch`
            (from 1), `seconds`, `learning_rate`, `loss`, `accuracy` and what callbacks added.
        epochs: number of completed epochs.
        interrupted: whether Ctrl-C ended the training early.
        seconds: duration of this call.
    """

    history: tuple[Mapping[str, float], ...]
    epochs: int
    interrupted: bool
    seconds: float

    def curve(self, name: str) -> np.ndarray:
        """Returns one metric over the epochs, NaN where an epoch does not have it.

        Raises:
            KeyError: if no epoch has it.
        """
        names = sorted({key for record in self.history for key in record})
        if name not in names:
            raise KeyError(f"No epoch has the metric '{name}'. The history has {names}.")
        return np.array([record.get(name, np.nan) for record in self.history])


class _StopBetweenBatches(keras.callbacks.Callback):
    """Ends training by `KeyboardInterrupt` at a point where the model's state is whole.

    In the midst of a step it need not be: the JAX backend takes the variables' values away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requested = False

    def _stop(self) -> None:
        if self.requested:
            raise KeyboardInterrupt

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._stop()

    # Not at the end of a batch: a callback there has JAX wait for the result of every step.
    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._stop()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes over Ctrl-C, where that is possible; a second one interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request(signal_number: int, frame: Any) -> None:
            self.requested = True
            signal.signal(signal.SIGINT, previous)

        previous = signal.signal(signal.SIGINT, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


def train(
    model: keras.Model,
    dataset: Dataset,
    recipe: Recipe,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    validation_data: tuple[np.ndarray, np.ndarray] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    augment: bool | None = None,
    shard: tuple[int, int] = (0, 1),
    verbose: str | int = "auto",
) -> TrainingResult:
    """Trains a model by a recipe.

    With the same seed and a model made with the same seeds, the TensorFlow backend on a CPU gives
    the same weights bit for bit, also when training was interrupted and resumed between. After
    Ctrl-C the model is as the last step left it; the history and the checkpoint end with the last
    completed epoch.

    Args:
        model: a built model that outputs logits for `dataset.classes` classes. It is compiled
            anew, by the recipe.
        dataset: what to train on.
        recipe: how to train.
        seed: seed of the order and the augmentation of the images.
        callbacks: Keras callbacks, say `FreshChips`, `ChipValidation` and `DropRateSchedule`; a
            later one sees the metrics of those before it.
        validation_data: images and labels, say `dataset.split(0.1).arrays("validation")`, for
            `val_loss` and `val_accuracy` of the model with the faults that are programmed into it,
            none usually.
        checkpoint: `.npz` file to save the state of training to after each epoch.
        resume: whether to go on from `checkpoint`, which must exist then.
        augment: see `Dataset.batches`.
        shard: `(index, count)` of this process in distributed training, see `Dataset.batches`.
        verbose: as in `model.fit`.

    Raises:
        ValueError: if the dataset is smaller than a batch, if the model does not fit the dataset,
            if `checkpoint` is of another model, recipe, dataset or seed, or is written by another
            process, or if the loss becomes NaN.
        FileNotFoundError: if there is no checkpoint to resume from.

    Example:

    ```python
    dataset = keras_rram.data.load("digits")
    model = keras_rram.models.mini_mobilenet(2, drop_connect=0.1)
    result = train(model, dataset, RECIPES["digits"], seed=0)
    ```
    """
    if resume and checkpoint is None:
        raise ValueError("`resume=True` needs the `checkpoint` to resume from. Received: None")
    _check_shapes(model, dataset)
    steps = dataset.steps_per_epoch(recipe.batch_size)
    recipe.compile(model, steps)
    fingerprint = {
        "recipe": recipe.fingerprint(),
        "dataset": dataset.name,
        "images": dataset.fingerprint,
        "augment": augment is not False,
        "seed": seed,
        "backend": keras.config.backend(),
    }
    callbacks = [*_callbacks_of(recipe, dataset, seed, callbacks, augment is not False), *callbacks]
    if fresh := [each.identity for each in callbacks if isinstance(each, FreshChips)]:
        fingerprint["fresh_chips"] = fresh
    for callback in callbacks:
        callback.set_model(model)  # one may add variables, which the checkpoint has then
    restored = Restored(0, ())
    if resume and checkpoint is not None:
        restored = restore_checkpoint(model, checkpoint, fingerprint)
        if restored.epoch > recipe.epochs:
            raise ValueError(
                f"Checkpoint '{checkpoint}' has {restored.epoch} epochs. "
                f"Received: a recipe of epochs={recipe.epochs} (make it longer)"
            )
    if checkpoint is None:
        recorder = EpochRecords(restored.history)
    else:
        recorder = Checkpoint(checkpoint, fingerprint, restored.history)
    stop = _StopBetweenBatches()
    # A list of our own, to end the callbacks (close their files) after an interrupt.
    callback_list = keras.callbacks.CallbackList(
        [stop, *callbacks, recorder],
        add_history=True,
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=recipe.epochs,
        steps=steps,
    )
    sample = dataset.normalize(dataset.train_images[:1])
    at_once = steps_at_once(model, [*callbacks, recorder], steps, sample.nbytes * recipe.batch_size)
    begin = time.perf_counter()
    interrupted = False
    alone = contextlib.nullcontext() if checkpoint is None else one_writer(checkpoint)
    with stop.listening(), alone, many_steps(model, at_once):
        try:
            if restored.epoch < recipe.epochs:
                model.fit(
                    _fit_data(dataset, recipe.batch_size, seed, restored.epoch, augment, shard),
                    steps_per_epoch=steps,
                    epochs=recipe.epochs,
                    initial_epoch=restored.epoch,
                    callbacks=callback_list,
                    validation_data=validation_data,
                    validation_batch_size=256,
                    shuffle=False,  # the generator shuffles; Keras would warn
                    verbose=verbose,
                )
        except KeyboardInterrupt:
            interrupted = True
            callback_list.on_train_end()
        except BaseException:
            give_back(model)
            raise
    return TrainingResult(
        tuple(recorder.records), len(recorder.records), interrupted, time.perf_counter() - begin
    )


def _callbacks_of(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    others: Sequence[keras.callbacks.Callback],
    augmented: bool,
) -> Iterator[keras.callbacks.Callback]:
    """Yields the callbacks that do what a recipe says, given those that there are."""
    uniform = recipe.drop_rates == "uniform"
    if uniform or recipe.drop_ramp_epochs:
        yield DropRates(uniform, recipe.drop_ramp_epochs, seed)
    if recipe.statistics_epochs:
        count = min(_STATISTICS_IMAGES, len(dataset.train_labels))
        images, _ = dataset.arrays("train", count, augmented=augmented)
        fresh = [each for each in others if isinstance(each, FreshChips)]
        masks = fresh[0].chips(_STATISTICS_MASKS) if fresh else _STATISTICS_MASKS
        yield FixedStatistics(images, recipe.epochs - recipe.statistics_epochs, masks)


def _fit_data(dataset: Dataset, *arguments: Any) -> Any:
    # Under `tf.distribute`, Keras opens the data twice, and batches of a generator would be lost.
    if keras.config.backend() == "tensorflow":
        return dataset.as_tf_data(*arguments)
    return dataset.batches(*arguments)


def _check_shapes(model: keras.Model, dataset: Dataset) -> None:
    if not model.built:
        raise ValueError(f"Model '{model.name}' is not built: call it on an input first.")
    for kind, needed in (("input", dataset.input_shape), ("output", (dataset.classes,))):
        shape = getattr(model, f"{kind}_shape", None)  # a subclassed model has none
        if shape is None:
            continue
        fits = len(shape) == len(needed) + 1 and all(
            size in (None, other) for size, other in zip(shape[1:], needed, strict=True)
        )
        if not fits:
            raise ValueError(
                f"Dataset '{dataset.name}' needs a model with {kind} shape {(None, *needed)}. "
                f"Received: model '{model.name}' with {kind} shape {shape}"
            )
