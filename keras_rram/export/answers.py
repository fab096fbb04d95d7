"""What the outputs of a model say, so that a file and its Keras model can be held side by side."""

from typing import Any, Literal, TypeAlias

import keras
import numpy as np

from keras_rram.data import check_classes, check_labels
from keras_rram.layers import is_sigmoid

Kind: TypeAlias = Literal["class", "sides", "value"]
"""Classes of one-hot outputs; yes or no of each sigmoid; or values, as of a regression."""

SAME_VALUE = 0.05
"""Values are the same within this share of what the Keras model's outputs range over."""


def kind_of(model: keras.Model, labels: Any = None) -> Kind:
    """Returns what a model's outputs say, as far as the model and the labels tell."""
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple):
        return "class"
    if is_sigmoid(model):
        return "sides"
    if shape[-1] == 1:
        return "value"
    labels = np.zeros(()) if labels is None else np.asarray(labels)
    is_other = labels.shape[1:] == shape[1:] and not np.isin(labels, (0, 1)).all()
    return "value" if is_other else "class"


def checked_labels(model: keras.Model, labels: Any, count: int, name: str = "labels") -> Any:
    """Returns labels of which an accuracy can be told; None for those of a regression.

    Args:
        model: the model.
        labels: of images; classes `(n,)`, those of a sequence `(n, steps)`, 0 and 1 of sigmoids,
            or any numbers, of a regression.
        count: number of images.
        name: what messages call them.

    Raises:
        ValueError: if they do not fit.
    """
    if labels is None:
        return None
    labels, shape = np.asarray(labels), getattr(model, "output_shape", None) or ()
    kind = kind_of(model, labels)
    is_sequence = len(shape) > 2 and labels.shape[1:] == shape[1:-1]
    if (kind != "class" or is_sequence) and len(labels) != count:
        raise ValueError(
            f"`{name}` must be {count}, one for each image. Received: shape {labels.shape}"
        )
    if kind == "value":
        return None
    if kind == "sides":
        if labels.size == np.prod([count, *shape[1:]]) and np.isin(labels, (0, 1)).all():
            return labels.reshape(count, *shape[1:])
        raise ValueError(
            f"`{name}` of a model that ends in a sigmoid must be 0 and 1, of shape "
            f"{('n', *shape[1:])}. Received: shape {labels.shape}, {labels.min()} to {labels.max()}"
        )
    if is_sequence:
        return labels
    labels = check_labels(labels, count, name)
    check_classes(model, labels, name)
    return labels


def agreement(kind: Kind, outputs: np.ndarray, expected: np.ndarray) -> float:
    """Returns the share of answers in which a file's outputs are those of the Keras model."""
    if kind != "value":
        return float(np.mean(_said(kind, outputs) == _said(kind, expected)))
    reach = np.ptp(expected, axis=0, keepdims=True)
    return float(np.mean(np.abs(outputs - expected) <= SAME_VALUE * reach + 1e-6))


def accuracy(kind: Kind, outputs: np.ndarray, labels: np.ndarray | None) -> float | None:
    """Returns the share of right answers; None without labels."""
    return None if labels is None else float(np.mean(_said(kind, outputs) == labels))


def _said(kind: Kind, outputs: np.ndarray) -> np.ndarray:
    return outputs.argmax(-1) if kind == "class" else outputs > 0.5
