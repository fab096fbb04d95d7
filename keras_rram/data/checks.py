"""Are images and labels what a model takes?"""

from typing import Any

import numpy as np


def check_images(model: Any, images: Any, name: str = "images") -> np.ndarray:
    """Returns samples in the type that a model takes, after checking that they fit it.

    As Keras does, a last axis of 1 is added or taken away where that is what the model takes, and
    numbers are converted to the type of the model's input: bytes go in as 0.0 to 255.0.

    Args:
        model: a built Keras model with one input. Of one that does not know its input's shape, any
            shape is taken.
        images: numbers of shape `(n, ...)`: images, series, tokens, preprocessed as for the model.
        name: what messages call them.

    Raises:
        ValueError: if there is no sample, or if they have another shape, are no numbers, or not
            finite.
    """
    images = np.asarray(images)
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) > 1:
        raise ValueError(
            f"expected a model with one input. Received: '{model.name}', {len(inputs)}"
        )
    expected = tuple((getattr(model, "input_shape", None) or images.shape)[1:])
    if images.ndim == len(expected) and expected[-1:] == (1,):
        images = images[..., None]
    elif images.ndim == len(expected) + 2 and images.shape[-1] == 1:
        images = images[..., 0]
    fits = images.ndim == len(expected) + 1 and all(
        size is None or size == received
        for size, received in zip(expected, images.shape[1:], strict=True)
    )
    if not fits or not len(images):
        raise ValueError(
            f"`{name}` must be a non-empty array of shape {('n', *expected)}. Received: shape "
            f"{images.shape} (`Dataset.arrays` gives what the model was trained for)"
        )
    if images.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must be numbers. Received: dtype {images.dtype}")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError(f"`{name}` must be finite. Received: NaN or infinite values")
    wanted = str(inputs[0].dtype) if inputs else "float32" if images.dtype.kind == "f" else None
    # numpy has no bfloat16: the model rounds for itself.
    wanted = "float32" if wanted == "bfloat16" else wanted
    return images if wanted is None else images.astype(wanted, copy=False)


def check_labels(labels: np.ndarray, count: int, name: str = "labels") -> np.ndarray:
    """Returns labels as an array after checking that they are one integer class for each image.

    Raises:
        ValueError: if their number is not `count`, or if they are not integers >= 0.
    """
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be {count} integers, one for each image. Received: shape "
            f"{labels.shape}, dtype {labels.dtype} (one-hot labels: pass `labels.argmax(-1)`)"
        )
    if count and labels.min() < 0:
        raise ValueError(f"`{name}` must be classes from 0. Received: {labels.min()}")
    return labels


def check_classes(
    model: Any, labels: np.ndarray | None, name: str = "labels", is_binary: bool = False
) -> None:
    """Checks that a model has one output for each class of labels.

    Args:
        model: the model.
        labels: the labels; None for nothing to check.
        name: what messages call them.
        is_binary: whether one output of a sigmoid, yes or no, does for labels 0 and 1.

    Raises:
        ValueError: if its outputs are not `(n, classes)`, or if a label is beyond them.
    """
    outputs = getattr(model, "output_shape", None)
    if labels is None or not isinstance(outputs, tuple):
        return
    if len(outputs) != 2:
        raise ValueError(
            f"expected a model of outputs (n, classes) for `{name}`. Received: '{model.name}' with "
            f"outputs {outputs} (say `metric=` for other outputs than classes)"
        )
    classes = outputs[-1]
    if classes == 1 and not is_binary:
        raise ValueError(
            f"expected a classifier with an output for each class of `{name}`. Received: "
            f"'{model.name}' with one output (for yes or no give it two, such as Dense(2), and "
            "labels 0 and 1)"
        )
    classes = 2 if classes == 1 else classes
    if classes is not None and len(labels) and labels.max() >= classes:
        raise ValueError(
            f"expected `{name}` from 0 to {classes - 1}, as the model has outputs. Received: "
            f"labels to {labels.max()} (is it the dataset that the model was trained on?)"
        )
