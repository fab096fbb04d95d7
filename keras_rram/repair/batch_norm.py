"""RepairStep of a chip after it was programmed, from unlabelled images."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_rram.chips.inference import ChipInference
from keras_rram.data import check_images
from keras_rram.layers.normalization import normalize_by_batch
from keras_rram.repair.calls import Call, replaced_calls
from keras_rram.repair.hand import Hand, Repaired
from keras_rram.repair.protocol import Tier
from keras_rram.repair.statistics import pooled
from keras_rram.repair.steps import RepairStep

Tensor = Any
Statistics = Mapping[str, tuple[np.ndarray, np.ndarray]]


MOMENTS = ("both", "mean")
"""Which statistics a recalibration gathers anew: mean and variance, or the mean alone."""


def recalibrate_batch_norm(
    model: keras.Model,
    images: np.ndarray,
    batch_size: int = 256,
    keep: bool = False,
    moments: str = "both",
) -> Repaired:
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
        moments: "both", or "mean": the variances stay those of training, and a mean needs fewer
            images than a variance does.

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
    before = Repaired(model, keep)
    check_moments(moments)
    gathered = _Gatherer(model, images, batch_size).gather()
    assign_statistics(normalizations(model), gathered, moments)
    return before


@dataclass(frozen=True, eq=False)
class BatchNormRecalibration(RepairStep):
    """`recalibrate_batch_norm` for many chips of a model, as the repair of a population.

    Attributes:
        images: training images `(n, ...)`, preprocessed as for the model and augmented as in its
            training. None of them may be in the test set.
        batch_size: images in a batch, at most.
        moments: see `recalibrate_batch_norm`.

    Example:

    ```python
    images, _ = dataset.arrays("train", 1000, augmented=True)
    repair = BatchNormRecalibration(images)
    evaluate_population(model, StuckAtZero(0.3), data=dataset.arrays("test"), repair=repair)
    ```
    """

    name: ClassVar[str] = "batch_norm"
    access_tier: ClassVar[Tier] = "B"

    images: np.ndarray
    batch_size: int = 256
    moments: str = "both"

    def __post_init__(self) -> None:
        """Checks the options."""
        check_moments(self.moments)

    def check_model(self, model: keras.Model) -> None:
        """Raises ValueError for a model without batch normalization."""
        normalizations(model)

    def prepare(self, hand: Hand) -> "_Gatherer":
        """Compiles the function that gathers."""
        return _Gatherer(hand.model, self.images, self.batch_size)

    def apply(self, hand: Hand) -> None:
        """Recalibrates the model in hand."""
        gathered = self.prepared(hand).gather()
        assign_statistics(normalizations(hand.model), gathered, self.moments)


class _Gatherer:
    """Statistics of a model's inputs of batch normalization, compiled once for many chips."""

    def __init__(self, model: keras.Model, images: np.ndarray, batch_size: int):
        self.model = model
        self._layers = normalizations(model)
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
            mean, variance = pooled([tuple(map(ops.convert_to_numpy, call)) for call in calls])
            if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
                raise ValueError(
                    f"The images give batch normalization '{name}' of model '{self.model.name}' "
                    "statistics that are not finite. Are images or weights NaN or infinite?"
                )
            found[name] = (mean, variance)
        return found

    def _statistics(
        self, call: Any, batch: Tensor, images: Tensor
    ) -> dict[str, list[tuple[Tensor, ...]]]:
        found: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in self._layers}
        with replaced_calls(self._layers, functools.partial(_by_batch, found)):
            call(ops.take(images, batch, axis=0))
        return found


def _by_batch(found: dict[str, list[tuple[Tensor, ...]]], name: str, layer: Any, _: Call) -> Call:
    """Has a layer normalize by the batch, and add (count, mean, variance) of each call."""

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


def normalizations(model: keras.Model, required: bool = True) -> dict[str, Any]:
    """Returns the batch normalizations of a built model, by name.

    Raises:
        ValueError: if the model is not built, two of them share a name, or there is none and one is
            `required`.
    """
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
    if required and not layers:
        others = sorted(
            {type(one).__name__ for one in model._flatten_layers() if _is_of_each_sample(one)}
        )
        raise ValueError(
            f"Model '{model.name}' has no batch normalization to recalibrate: expected at least "
            "one `keras.layers.BatchNormalization`. "
            + (
                f"It has {', '.join(others)}, of each sample's own statistics, which no chip makes "
                "stale: other repairs serve it, such as remap, spare_columns and retraining."
                if others
                else "A baked or converted model may have lost it."
            )
        )
    return layers


def _is_of_each_sample(layer: Any) -> bool:
    return isinstance(layer, keras.layers.LayerNormalization | keras.layers.GroupNormalization)


def check_moments(moments: str) -> None:
    """Raises ValueError unless `moments` is one of `MOMENTS`."""
    if moments not in MOMENTS:
        raise ValueError(f"`moments` must be one of {MOMENTS}. Received: moments={moments!r}")


def assign_statistics(
    layers: Mapping[str, Any], statistics: Statistics, moments: str = "both"
) -> None:
    """Writes means, and variances unless `moments` is "mean", into batch normalizations."""
    for name, (mean, variance) in statistics.items():
        layers[name].moving_mean.assign(mean)
        if moments == "both":
            layers[name].moving_variance.assign(variance)
