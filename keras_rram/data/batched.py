"""Samples and labels as two arrays, from whatever Keras evaluates on."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


def as_arrays(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns samples and labels as arrays in memory.

    Args:
        data: `(samples, labels)`; a finite `tf.data.Dataset` of such pairs, batched or not (where
            labels are vectors as long as the first axis of a sample, batch it); a
            `keras.utils.PyDataset`; or another iterable of batches. Shuffling data give their
            samples in the order of this pass.

    Raises:
        ValueError: if it is nothing of these, or the data never end, are empty, or their batches
            are no pairs.

    Example:

    ```python
    images, labels = as_arrays(tfds.load("mnist", split="test", as_supervised=True))
    ```
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        return np.asarray(data[0]), np.asarray(data[1])
    if isinstance(data, tuple | list | str | np.ndarray | dict) or not (
        isinstance(data, Iterable) or hasattr(data, "num_batches")
    ):
        size = f" of {len(data)}" if isinstance(data, tuple | list) else ""
        raise ValueError(
            "expected `data` as (samples, labels), a tf.data.Dataset, a PyDataset or an iterable "
            f"of batches. Received: {type(data).__name__}{size}"
        )
    pairs = []
    for batch in _batches(data):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(
                f"expected batches of (samples, labels). Received: {type(batch).__name__}"
                + (f" of {len(batch)}" if isinstance(batch, tuple | list) else "")
            )
        one = np.asarray(batch[0]), np.asarray(batch[1])
        if not one[0].ndim or not one[1].ndim or len(one[0]) != len(one[1]):
            raise ValueError(
                "expected batches of as many samples as labels. Received: samples of shape "
                f"{one[0].shape} and labels of shape {one[1].shape} (single samples have to be "
                "batched: `data.batch(32)`)"
            )
        pairs.append(one)
    if not pairs:
        raise ValueError("expected at least one batch of (samples, labels). Received: none")
    samples, labels = zip(*pairs, strict=True)
    return np.concatenate(samples), np.concatenate(labels)


def _batches(data: Any) -> Iterator[Any]:
    if hasattr(data, "as_numpy_iterator"):
        if data.cardinality() == -1:  # tf.data.INFINITE_CARDINALITY
            raise ValueError(
                "expected data that end. Received: a tf.data.Dataset that repeats for ever (take "
                "some of it: `data.take(100)`)"
            )
        return iter((data.batch(256) if _is_single(data) else data).as_numpy_iterator())
    if hasattr(data, "num_batches"):
        if data.num_batches is None:
            raise ValueError("expected a PyDataset that ends. Received: one of no `num_batches`")
        return (data[index] for index in range(data.num_batches))
    return iter(data)


def _is_single(data: Any) -> bool:
    """Whether a `tf.data.Dataset` gives single samples: there is no number that pairs share."""
    spec = data.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        return False
    shapes: list[Any] = [getattr(one, "shape", None) for one in spec]
    if any(shape is None or shape.rank is None for shape in shapes):
        return False
    first = [shape[0] if shape.rank else None for shape in shapes]
    differ = None not in first and first[0] != first[1]
    return shapes[1].rank == 0 or differ
