"""Are images and labels what a model takes?"""

import keras
import numpy as np


def check_images(model: keras.Model, images: np.ndarray, name: str = "images") -> np.ndarray:
    """Returns images as float32 after checking that they are what a model takes.

    Args:
        model: a built model with one input. Of one that does not know its input's shape, any shape
            is taken.
        images: float array `(n, ...)`, preprocessed as for the model.
        name: what messages call them.

    Raises:
        ValueError: if there is no image, or if they have another shape, are no floats, or not
            finite.
    """
    images = np.asarray(images)
    expected = tuple((getattr(model, "input_shape", None) or images.shape)[1:])
    fits = images.ndim == len(expected) + 1 and all(
        size is None or size == received
        for size, received in zip(expected, images.shape[1:], strict=True)
    )
    if not fits or not len(images):
        raise ValueError(
            f"`{name}` must be a non-empty array of shape {('n', *expected)}. Received: shape "
            f"{images.shape} (`Dataset.arrays` gives what the model was trained for)"
        )
    if images.dtype.kind != "f":
        raise ValueError(
            f"`{name}` must be floats, preprocessed as for the model (`Dataset.arrays` does it). "
            f"Received: dtype {images.dtype}"
        )
    images = images.astype(np.float32, copy=False)
    if not np.isfinite(images).all():
        raise ValueError(f"`{name}` must be finite. Received: NaN or infinite values")
    return images


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
