"""Repair of a chip after it was programmed, from unlabelled images."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.chips.inference import ChipInference
from keras_rram.data import check_images
from keras_rram.faults import Fault
from keras_rram.files import array_sha256
from keras_rram.layers.normalization import normalize_by_batch

Tensor = Any
Statistics = Mapping[str, tuple[np.ndarray, np.ndarray]]


class Recalibrated:
    """What a model's statistics were before; gives them back at the end of a `with` block."""

    def __init__(self, model: keras.Model, keep: bool = False):
        self._model, self._keep = model, keep
        self._before = {
            name: tuple(np.array(ops.convert_to_numpy(variable)) for variable in _moving(layer))
            for name, layer in _normalizations(model).items()
        }

    def __enter__(self) -> keras.Model:
        """Returns the recalibrated model."""
        return self._model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restores the statistics, error or not, unless they are to be kept."""
        if not self._keep:
            _assign(self._model, self._before)


def recalibrate_batch_norm(
    model: keras.Model, images: np.ndarray, batch_size: int = 256, keep: bool = False
) -> Recalibrated:
    """Gathers the statistics of batch normalization anew, on the chip that is programmed.

    A fault changes the mean and the variance of what comes out of a layer, and the moving
    statistics of training do not know. This is a repair of access tier B: it needs a few hundred
    training images and no label. Weights, gamma and beta included, stay as they are.

    The images go through the network once, as in inference (faults in, Drop-Connect and dropout
    off), but for batch normalization, which normalizes by the statistics of the batch. Each layer
    then gets the mean and the variance over all images, pooled exactly, of what came in:

        mean = sum_b n_b mean_b / n,   variance = sum_b n_b (variance_b + (mean_b - mean)^2) / n

    for batches b of `n_b` values in a channel. Since what comes into the second layer was
    normalized by batches, the result depends a little on the batches, unless there is only one.

    Reference: re-estimation after training is that of [Ioffe and Szegedy, 2015](
    https://arxiv.org/abs/1502.03167), algorithm 2, in the form of PyTorch's
    `torch.optim.swa_utils.update_bn`, which pools plain means of the batches' statistics.

    Args:
        model: built model with batch normalization, programmed with a chip or not.
        images: training images `(n, ...)`, preprocessed as for the model.
        batch_size: images in a batch, at most; all batches have the same size but for one image.
        keep: whether the statistics stay at the end of a `with` block.

    Returns:
        A context manager, which restores the statistics at the end. Without `with` they stay. For
        many chips, `BatchNormRecalibration` compiles only once.

    Raises:
        ValueError: if the model has no batch normalization, or if the images are not what it takes
            or give no finite statistics. The model is then as before.

    Example:

    ```python
    with chip.program(model), recalibrate_batch_norm(model, images[:1000]):
        model.evaluate(test_images, test_labels)
    ```
    """
    before = Recalibrated(model, keep)
    _assign(model, _Gatherer(model, images, batch_size).gather())
    return before


@dataclass(frozen=True, eq=False)
class BatchNormRecalibration:
    """`recalibrate_batch_norm` for many chips of a model, as the repair of a population.

    Attributes:
        images: training images `(n, ...)`, preprocessed as for the model. None of them may be in
            the test set.
        batch_size: images in a batch, at most.

    Example:

    ```python
    repair = BatchNormRecalibration(dataset.arrays("train")[0][:1000])
    evaluate_population(model, StuckAtZero(0.3), dataset.arrays("test"), repair=repair)
    ```
    """

    access_tier = "B"

    images: np.ndarray
    batch_size: int = 256
    # The compiled function of the model that came last.
    _last: list["_Gatherer"] = field(default_factory=list, init=False, repr=False)

    def __call__(
        self, model: keras.Model, faults: Mapping[str, Fault] | None = None
    ) -> Recalibrated:
        """Recalibrates a programmed model; used in a `with` statement, restores it at the end.

        Args:
            model: see `recalibrate_batch_norm`.
            faults: not used: this repair does not know the chip.
        """
        del faults
        before = Recalibrated(model)
        if not self._last or self._last[0].model is not model:
            self._last[:] = [_Gatherer(model, self.images, self.batch_size)]
        _assign(model, self._last[0].gather())
        return before

    @property
    def fingerprint(self) -> str:
        """What tells results with this repair from others."""
        return f"batch_norm/{self.batch_size}/{array_sha256(self.images)[:16]}"

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what is compiled: workers compile their own."""
        return {"images": self.images, "batch_size": self.batch_size, "_last": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a pickled repair."""
        self.__dict__.update(state)


class _Gatherer:
    """Statistics of a model's inputs of batch normalization, compiled once for many chips."""

    def __init__(self, model: keras.Model, images: np.ndarray, batch_size: int):
        self.model = model
        self._layers = _normalizations(model)
        images = check_images(model, images)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` must be an integer >= 1. Received: {batch_size!r}")
        batches = -(-len(images) // batch_size)
        # Of nearly one size: what a small last one is normalized by would be noise.
        self._batches = np.array_split(np.arange(len(images), dtype=np.int32), batches)
        self._run = ChipInference(model, self._statistics, [images])

    def gather(self) -> Statistics:
        """Returns the mean and the variance of each layer's inputs, pooled over all images."""
        parts = [self._run(batch) for batch in self._batches]
        found = {}
        for name in self._layers:
            calls = [call for part in parts for call in part[name]]
            if not calls:
                raise ValueError(
                    f"Batch normalization '{name}' of model '{self.model.name}' takes no part in "
                    "the model's outputs: there is nothing to recalibrate it by."
                )
            counts, means, variances = (
                np.stack([np.float64(ops.convert_to_numpy(call[item])) for call in calls])
                for item in range(3)
            )
            if not (np.isfinite(means).all() and np.isfinite(variances).all()):
                raise ValueError(
                    f"The images give batch normalization '{name}' of model '{self.model.name}' "
                    "statistics that are not finite. Are images or weights NaN or infinite?"
                )
            weights = (counts / counts.sum())[:, None]
            mean = (weights * means).sum(0)
            found[name] = (mean, (weights * (variances + (means - mean) ** 2)).sum(0))
        return found

    def _statistics(
        self, call: Any, batch: Tensor, images: Tensor
    ) -> dict[str, list[tuple[Tensor, ...]]]:
        found: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in self._layers}
        with _normalizing_by_batch(self._layers, found):
            call(ops.take(images, batch, axis=0))
        return found


@contextmanager
def _normalizing_by_batch(
    layers: Mapping[str, Any], found: dict[str, list[tuple[Tensor, ...]]]
) -> Iterator[None]:
    """Has layers normalize by the batch, and adds (count, mean, variance) of each call."""

    def replacement(name: str, layer: Any) -> Any:
        def call(inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
            if mask is not None:
                raise ValueError(
                    f"Batch normalization '{name}' gets a mask, which recalibration cannot take "
                    "into account. Expected a model without masking."
                )
            outputs, mean, variance = normalize_by_batch(layer, inputs)
            values = ops.cast(ops.size(inputs), "float32") / inputs.shape[layer.axis]
            found[name].append((values, mean, variance))
            return outputs

        return call

    try:
        for name, layer in layers.items():
            # Beside the method of the class, as an attribute of the one object.
            object.__setattr__(layer, "call", replacement(name, layer))
        yield
    finally:
        for layer in layers.values():
            layer.__dict__.pop("call", None)


def _normalizations(model: keras.Model) -> dict[str, Any]:
    layers: dict[str, Any] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            if not layer.built:
                raise ValueError(f"Model '{model.name}' is not built: call it on a batch first.")
            if layers.setdefault(layer.name, layer) is not layer:
                raise ValueError(
                    f"Two batch normalizations of model '{model.name}' are named '{layer.name}'. "
                    "Give each its own name."
                )
    if not layers:
        raise ValueError(
            f"Model '{model.name}' has no batch normalization to recalibrate: expected at least "
            "one `keras.layers.BatchNormalization`. A baked or converted model may have lost it."
        )
    return layers


def _moving(layer: Any) -> tuple[keras.Variable, keras.Variable]:
    return layer.moving_mean, layer.moving_variance


def _assign(model: keras.Model, statistics: Mapping[str, Any]) -> None:
    for name, layer in _normalizations(model).items():
        for variable, value in zip(_moving(layer), statistics[name], strict=True):
            variable.assign(value)
