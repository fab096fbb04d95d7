"""Conductance levels: kernels that hold few values, as the cells of a chip do."""

from collections.abc import Callable

import keras
import numpy as np

from keras_rram.export.kernels import kernels_of
from keras_rram.layers import faulty_layers
from keras_rram.layers.cloning import copied

METHODS = ("uniform", "kmeans")
_LEAST_BITS, _MOST_BITS = 2, 16
_MOST_ITERATIONS = 200


def quantize_levels(
    model: keras.Model, bits: int, method: str = "uniform", per_channel: bool = False
) -> keras.Model:
    """Returns a model whose kernels on faulty hardware hold at most `2 ** bits` values each.

    An RRAM cell is programmed to one of few conductances. Use this on a trained model to see how
    many it needs; biases, batch normalizations and clean layers stay as they are, since they are
    digital. Zero is always a level: a cell that is off, or stuck off, reads as zero exactly.

    Args:
        model: functional or Sequential model with Drop-Connect layers.
        bits: 2 to 16; the levels of a kernel are at most `2 ** bits`.
        method: "uniform" (evenly spaced, symmetric about zero, so one level less) or "kmeans"
            (placed where the weights are, see `quantize_values`).
        per_channel: levels for each output channel, rather than for the whole kernel.

    Returns:
        A new model of the same layers, not compiled, programmed with the same chip. `model` is left
        as it is.

    Raises:
        ValueError: if an argument is out of range, or the model has no Drop-Connect layer or cannot
            be cloned.

    Example:

    ```python
    coarse = quantize_levels(model, bits=3, method="kmeans")
    result = evaluate_population(coarse, StuckAtZero(0.2), dataset.arrays("test"))
    ```
    """
    _check_options(bits, method)
    if not faulty_layers(model):
        raise ValueError(
            f"Model '{model.name}' has no Drop-Connect layer, so no kernel on a chip. Convert it "
            "with `to_drop_connect(model, rate)`; rate 0 is enough."
        )
    twin = copied(model)
    layers = faulty_layers(twin)
    for name, kernel in kernels_of(twin).items():
        layer, _, slot = name.rpartition("/")
        axes = kernel.output_axes if per_channel else ()
        layers[layer].kernels[slot].assign(quantize_values(kernel.values, bits, method, axes))
    return twin


def quantize_values(
    values: np.ndarray, bits: int, method: str = "uniform", axes: tuple[int, ...] = ()
) -> np.ndarray:
    """Returns an array with each value moved to the nearest of few levels.

    "uniform" has the `2 ** bits - 1` levels `k * max|w| / (2 ** (bits - 1) - 1)`: no value moves by
    more than half a step. "kmeans" has zero and `2 ** bits - 1` others that minimize the mean
    squared error locally, by Lloyd's algorithm with the level at zero held; its error is never
    above that of "uniform". Both leave an array that they made as it is.

    Reference: Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory
    28 (1982), 129-137.

    Args:
        values: finite floats of any shape.
        bits: 2 to 16.
        method: one of `METHODS`.
        axes: axes whose every position has levels of its own; none for one set of levels.

    Returns:
        float32 array of the shape of `values`.

    Raises:
        ValueError: if an argument is out of range or a value is not finite.
    """
    _check_options(bits, method)
    values = np.asarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError("`values` must be finite. Received: NaN or infinite values")
    quantize: Callable[[np.ndarray, int], np.ndarray] = _METHODS[method]
    others = tuple(axis for axis in range(values.ndim) if axis not in axes)
    # One row for each set of levels, and back.
    order = (*axes, *others)
    moved = values.transpose(order)
    rows = moved.reshape(int(np.prod([values.shape[axis] for axis in axes])), -1)
    result = np.stack([quantize(row, bits) for row in rows]) if rows.size else rows
    return np.ascontiguousarray(result.reshape(moved.shape).transpose(np.argsort(order)))


def _uniform(row: np.ndarray, bits: int) -> np.ndarray:
    """Rounds to the levels of a symmetric, evenly spaced grid."""
    largest = np.float64(np.abs(row).max(initial=0.0))
    if largest == 0:
        return np.zeros_like(row)
    steps = 2 ** (bits - 1) - 1
    number = np.rint(row / largest * steps)
    # `largest` itself is a level to the last bit, so that a second time changes nothing. Adding 0
    # makes every -0.0 a plain zero.
    return (number / steps * largest + 0.0).astype(np.float32)


def _kmeans(row: np.ndarray, bits: int) -> np.ndarray:
    """Rounds to the levels that Lloyd's algorithm finds, zero among them."""
    distinct, counts = np.unique(row + np.float32(0), return_counts=True)
    free = 2**bits - 1
    if np.count_nonzero(distinct) <= free:
        return row + np.float32(0)
    starts = (
        np.unique(_uniform(distinct, bits)).astype(np.float64),
        np.quantile(row, (np.arange(free) + 0.5) / free),
    )
    # The algorithm only ever lowers the error, so the first start bounds it by that of "uniform".
    found = [_lloyd(distinct.astype(np.float64), counts, start, free) for start in starts]
    levels = min(found, key=lambda levels: _error(distinct, counts, levels))
    return levels[_nearest(row, levels)].astype(np.float32)


def _lloyd(values: np.ndarray, counts: np.ndarray, start: np.ndarray, free: int) -> np.ndarray:
    """Returns at most `free` levels besides zero, sorted, from sorted distinct values."""
    levels = np.unique(np.append(start[start != 0][:free], 0.0))
    weight = np.concatenate([[0], np.cumsum(counts)])
    total = np.concatenate([[0.0], np.cumsum(counts * values)])
    for _ in range(_MOST_ITERATIONS):
        middles = (levels[1:] + levels[:-1]) / 2
        ends = np.concatenate([[0], np.searchsorted(values, middles), [len(values)]])
        members = weight[ends[1:]] - weight[ends[:-1]]
        sums = total[ends[1:]] - total[ends[:-1]]
        moved = np.where(members > 0, sums / np.maximum(members, 1), levels)
        moved[levels == 0] = 0.0
        if np.array_equal(moved, levels):
            break
        levels = np.sort(moved)
    return levels


def _nearest(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values)


def _error(values: np.ndarray, counts: np.ndarray, levels: np.ndarray) -> float:
    return float((counts * (levels[_nearest(values, levels)] - values) ** 2).sum())


_METHODS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "uniform": _uniform,
    "kmeans": _kmeans,
}


def _check_options(bits: int, method: str) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise TypeError(f"`bits` must be an integer. Received: bits={bits!r}")
    if not _LEAST_BITS <= bits <= _MOST_BITS:
        raise ValueError(
            f"`bits` must be {_LEAST_BITS} to {_MOST_BITS}: zero and one value of each sign need 2 "
            f"bits. Received: bits={bits}"
        )
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {METHODS}. Received: method={method!r}")
