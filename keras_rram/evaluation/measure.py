"""How good is a chip: right answers of a classifier, a Keras metric, or a function of your own."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import joblib
import keras
import numpy as np

from keras_rram.layers import is_sigmoid

Metric: TypeAlias = str | keras.metrics.Metric | Callable[[Any, Any], Any]
"""A Keras metric, its name, or a function `(model outputs, labels) -> score per image`."""

_COUNTING = (
    keras.metrics.SparseCategoricalAccuracy,
    keras.metrics.CategoricalAccuracy,
    keras.metrics.SparseTopKCategoricalAccuracy,
    keras.metrics.TopKCategoricalAccuracy,
)


@dataclass(frozen=True, eq=False)
class Measure:
    """Scores the outputs of a chip.

    Attributes:
        name: what it is called in results and figures.
        function: called with the outputs and labels of all images, as arrays or in the structure
            of the model's outputs; gives a score for each image, or one number. Booleans count
            as right and wrong.
        identity: what tells it from another measure.
        higher_is_better: whether a larger score is a better one.
    """

    name: str
    function: Callable[[Any, Any], Any]
    identity: str
    higher_is_better: bool = True

    def __call__(self, outputs: Any, labels: Any) -> np.ndarray:
        """Returns the scores of images, booleans or floats of shape (images,), or one float.

        Raises:
            ValueError: if the function gives something else, or a value that is not finite.
        """
        count = len(keras.tree.flatten(outputs)[0])
        scores = np.asarray(keras.ops.convert_to_numpy(self.function(outputs, labels)))
        if scores.shape == (count, 1):
            scores = scores[:, 0]
        if scores.shape not in ((count,), ()) or scores.dtype.kind not in "biuf":
            raise ValueError(
                f"expected a score for each of {count} images from '{self.name}', or one number. "
                f"Received: shape {scores.shape}, dtype {scores.dtype}"
            )
        if scores.dtype.kind == "b" and scores.ndim:
            return scores
        scores = scores.astype(np.float64)
        if not np.isfinite(scores).all():
            raise ValueError(
                f"expected finite scores from '{self.name}'. Received: NaN or infinity"
            )
        return scores

    def facts(self) -> dict[str, Any]:
        """Returns what a run's fingerprint says of it."""
        return {
            "name": self.name,
            "identity": self.identity,
            "higher_is_better": self.higher_is_better,
        }


def measure_of(metric: Any) -> Measure:
    """Returns the measure of a Keras metric, its name, or a function.

    A metric that is a mean over images (accuracies, errors, losses) gives a score for each image,
    so that images count as a sample too; any other (AUC, F1, R2) one number for each chip.

    A higher score of a function is the better one, unless its attribute `higher_is_better` is
    False; so is that of a metric of your own.

    Raises:
        ValueError: for an unknown name, or a metric of one array only (`Mean`, `Sum`).
        TypeError: for something else.
    """
    found = keras.metrics.get(metric) if isinstance(metric, str) else metric
    if type(found) in (keras.metrics.Mean, keras.metrics.Sum):
        raise ValueError(
            "expected a metric of outputs and labels, such as 'mse'. Received: "
            f"keras.metrics.{type(found).__name__}"
        )
    if isinstance(metric, str) and isinstance(found, keras.metrics.Metric):
        # Keras numbers the names of its objects: "auc_1".
        config = {**found.get_config(), "name": re.sub(r"_\d+$", "", found.name)}
        found = type(found).from_config(config)
    if isinstance(found, keras.metrics.Metric):
        identity = json.dumps(keras.metrics.serialize(found), sort_keys=True, default=str)
        return Measure(found.name, _KerasMetric(found), identity, _is_better_when_higher(found))
    if not callable(found):
        raise TypeError(
            "expected metric= as a Keras metric, its name, or a function of (outputs, labels). "
            f"Received: {metric!r}"
        )
    name = getattr(found, "__name__", type(found).__name__)
    where = getattr(found, "__qualname__", type(found).__qualname__)
    identity = str(getattr(found, "fingerprint", f"{found.__module__}.{where}"))
    # Workers get it by value: a function of a notebook or a lambda has no module to import.
    wrapped: Any = joblib.wrap_non_picklable_objects(found)
    return Measure(name, wrapped, identity, getattr(found, "higher_is_better", True))


def _is_better_when_higher(metric: keras.metrics.Metric) -> bool:
    """Whether a metric rises as a model gets better; so do those that say nothing else."""
    if isinstance(metric, keras.metrics.FalseNegatives | keras.metrics.FalsePositives):
        return False  # Keras gives these no direction
    if (direction := getattr(metric, "_direction", None)) is not None:
        return bool(direction != "down")
    return bool(getattr(metric, "higher_is_better", True))


class _KerasMetric:
    """A Keras metric as a function of outputs and labels; it can be pickled."""

    def __init__(self, metric: keras.metrics.Metric):
        self._metric = metric

    def __reduce__(self) -> tuple[Any, ...]:
        return _KerasMetric._restored, (keras.metrics.serialize(self._metric),)

    @staticmethod
    def _restored(config: Any) -> "_KerasMetric":
        return _KerasMetric(keras.metrics.deserialize(config))

    def __call__(self, outputs: Any, labels: Any) -> Any:
        metric = self._metric
        if isinstance(outputs, dict | list | tuple):
            raise ValueError(
                f"expected one output for the metric '{metric.name}'. Received: several (give "
                "metric= as a function of the outputs and labels)"
            )
        if np.ndim(labels) == 1 and np.ndim(outputs) == 2:
            labels = np.reshape(labels, (-1, 1))  # as `Model.evaluate` does
        if not isinstance(metric, keras.metrics.MeanMetricWrapper):
            metric.reset_state()
            metric.update_state(labels, outputs)
            return metric.result()
        values = keras.ops.convert_to_numpy(metric._fn(labels, outputs, **metric._fn_kwargs))
        if isinstance(metric, keras.metrics.BinaryAccuracy) and outputs.shape == (len(values), 1):
            return values.reshape(-1).astype(bool)
        if values.ndim == 1:
            return values.astype(bool) if isinstance(metric, _COUNTING) else values
        return values.reshape(len(values), -1).mean(axis=1)


def default_measure(model: keras.Model, outputs: Any, labels: np.ndarray) -> Measure | None:
    """Returns the accuracy of a classifier of whatever kind; None for one class of several.

    Args:
        model: the model.
        outputs: shape of the output, or a list or dict of shapes.
        labels: of one output.

    Raises:
        ValueError: for other than classifiers, of which no measure is the obvious one.
    """
    if isinstance(outputs, dict | list):
        reason = f"a model with {len(outputs)} outputs"
    elif labels.dtype.kind not in "biu" and not _is_binary(labels):
        reason = f"labels of dtype {labels.dtype} that are not 0 and 1"
    elif len(outputs) == 2 and outputs[-1] > 1 and not _is_multi_label(labels, outputs[-1]):
        return None
    elif outputs[-1] == 1 or labels.shape[1:] == tuple(outputs[1:]):
        if _is_binary(labels) and is_sigmoid(model):
            is_one = outputs[-1] == 1 and len(outputs) == 2
            function = _binary_right if is_one else _binary_share
            return Measure("accuracy", function, "binary accuracy")
        reason = (
            f"outputs {('n', *outputs[1:])} that are not a sigmoid's for labels 0 and 1 (where "
        )
        reason += "they are logits: keras.metrics.BinaryAccuracy(threshold=0.0))"
    elif len(outputs) > 2 and labels.shape == (len(labels), *outputs[1:-1]):
        return Measure("accuracy", _sequence_share, "accuracy of each label of a sequence")
    else:
        reason = f"outputs {('n', *outputs[1:])} and labels {('n', *labels.shape[1:])}"
    raise ValueError(
        "expected metric= (--metric), a Keras metric or a function of (outputs, labels), for "
        f"{reason}: accuracy is the measure of classifiers only. Received: none"
    )


def _binary_right(outputs: Any, labels: Any) -> np.ndarray:
    return (outputs[:, 0] > 0.5) == (np.reshape(labels, -1) > 0.5)


def _binary_share(outputs: Any, labels: Any) -> np.ndarray:
    right = (outputs > 0.5) == (np.reshape(labels, outputs.shape) > 0.5)
    return right.reshape(len(right), -1).mean(axis=1)


def _sequence_share(outputs: Any, labels: Any) -> np.ndarray:
    right = outputs.argmax(axis=-1) == labels
    return right.reshape(len(right), -1).mean(axis=1)


def _is_binary(labels: np.ndarray) -> bool:
    return bool(np.isin(labels, (0, 1)).all())


def _is_multi_label(labels: np.ndarray, count: int) -> bool:
    """Whether labels are 0 and 1 for each of several outputs, and not the ones of classes."""
    if labels.shape[1:] != (count,) or not _is_binary(labels):
        return False
    return bool((labels.sum(axis=1) != 1).any())
