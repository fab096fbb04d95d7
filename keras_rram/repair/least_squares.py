"""RepairStep by least squares: the weights that work make up for those that do not."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from keras_rram.data import check_images
from keras_rram.layers import faulty_layers
from keras_rram.repair.batch_norm import assign_statistics, normalizations
from keras_rram.repair.hand import Hand
from keras_rram.repair.patches import check_layers, from_matrices, matrices, patches, positions
from keras_rram.repair.protocol import Tier
from keras_rram.repair.steps import RepairStep
from keras_rram.repair.sweep import walk

_ROUNDS = 20


@dataclasses.dataclass(frozen=True, eq=False)
class LeastSquares(RepairStep):
    """Fits the working weights of each layer to what the healthy layer makes of the same images.

    Access tier C: it needs the chip's map, and unlabelled images. Layer by layer in the order of
    the network, with `X` the inputs of the layer on the repaired chip so far, and `Y` the outputs
    of the healthy layer in the healthy network, each output channel `c` gets

        w_c = argmin |X w - Y_c|^2 / n + ridge * mean(diag(X'X / n)) * |w - w0_c|^2

    over the effective weights that the chip can hold: stuck ones stay what they are, and no weight
    leaves the range of its cells (`Response.low`, `Response.high`). `w0` are the trained weights.
    Where a batch normalization is right behind the layer, with no activation between, or the layer
    has a bias, `X` and `Y` are centred, and the mean is made up for there. Batch normalization is
    recalibrated on the way, on the same images.

    The fit is closed form but for weights at the end of their range, which are found by fixing
    those that leave it and solving again for the others.

    Reference: the layer-wise reconstruction of [Frantar and Alistarh, 2022](
    https://arxiv.org/abs/2208.11580) (Optimal Brain Compression), which makes up for pruned weights
    in the same way; here the mask is given.

    Attributes:
        images: training images `(n, ...)`, preprocessed as for the model, all of which go through
            the network at once: a few hundred.
        ridge: how strongly weights are held where they are, `> 0`.
        samples: output positions in a layer's fit, at most.
        seed: of the choice of positions.

    Example:

    ```python
    repair = LeastSquares(dataset.arrays("train")[0][:512])
    with chip.program(model), repair(model, chip):
        model.evaluate(test_images, test_labels)
    ```
    """

    name: ClassVar[str] = "least_squares"
    access_tier: ClassVar[Tier] = "C"

    images: np.ndarray
    ridge: float = 0.01
    samples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        if not self.ridge > 0:
            raise ValueError(f"`ridge` must be > 0. Received: ridge={self.ridge!r}")
        if self.samples < 1:
            raise ValueError(f"`samples` must be >= 1. Received: samples={self.samples!r}")

    def check_model(self, model: keras.Model) -> None:
        """Raises ValueError for a layer that is no matrix."""
        check_layers(faulty_layers(model))

    def prepare(self, hand: Hand) -> "_Healthy":
        """Returns the outputs of the healthy layers."""
        images = check_images(hand.model, self.images)
        rng = np.random.default_rng(self.seed)
        chosen: dict[str, np.ndarray] = {}
        outputs: dict[str, np.ndarray] = {}

        def meet(name: str, layer: Any, inputs: np.ndarray) -> None:
            kernel = f"{name}/kernel"
            count = positions(layer, inputs.shape)
            chosen[name] = sample(count, self.samples, rng)
            unrolled = patches(layer, inputs, chosen[name])
            weights = matrices(hand.crossbar(kernel), hand.trained[kernel])
            outputs[name] = products(unrolled, weights)

        with hand.healthy():
            walked = walk(hand.model, images, normalizations(hand.model, required=False), meet)
        return _Healthy(images, chosen, outputs, walked.followers)

    def apply(self, hand: Hand) -> None:
        """Fits each layer, and recalibrates batch normalization."""
        healthy: _Healthy = self.prepared(hand)

        def meet(name: str, layer: Any, inputs: np.ndarray) -> None:
            kernel = f"{name}/kernel"
            unrolled = patches(layer, inputs, healthy.chosen[name])
            targets = healthy.outputs[name]
            is_centred = name in healthy.followers or layer.bias is not None
            fitted = fit_kernel(
                unrolled, targets, hand, kernel, hand.trained[kernel], self.ridge, is_centred
            )
            hand.write(kernel, hand.responses[kernel].write(fitted))
            if is_centred and name not in healthy.followers:
                held = matrices(hand.crossbar(kernel), hand.effective(kernel))
                rest = targets.mean(0) - products(unrolled, held).mean(0)
                layer.bias.assign(layer.bias + rest.ravel().astype(np.float32))

        layers = normalizations(hand.model, required=False)
        assign_statistics(layers, walk(hand.model, healthy.images, layers, meet).statistics)


@dataclasses.dataclass(frozen=True, eq=False)
class _Healthy:
    images: np.ndarray
    chosen: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    followers: Mapping[str, str]


def sample(count: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Returns sorted indices below `count`, at most so many; all where they are no more."""
    if count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))


def products(unrolled: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the outputs `(n, groups, columns)` of inputs `(n, groups, rows)`."""
    return np.moveaxis(np.moveaxis(unrolled, 1, 0) @ weights.astype(unrolled.dtype), 0, 1)


def fit_kernel(
    unrolled: np.ndarray,
    targets: np.ndarray,
    hand: Hand,
    name: str,
    start: np.ndarray,
    ridge: float,
    is_centred: bool,
) -> np.ndarray:
    """Returns the effective weights of a kernel that fit best, see `LeastSquares`."""
    crossbar, response = hand.crossbar(name), hand.responses[name]
    low, high, prior = (
        matrices(crossbar, np.broadcast_to(one, start.shape)).astype(np.float64)
        for one in (response.low, response.high, start)
    )
    x, y = unrolled, targets
    if is_centred:
        x, y = x - x.mean(0), y - y.mean(0)
    # Groups first and contiguous, or else a product of many small matrices takes a hundred times as
    # long.
    x, y = (np.ascontiguousarray(np.moveaxis(one, 1, 0)) for one in (x, y))
    across = np.ascontiguousarray(np.swapaxes(x, 1, 2))
    grams = np.float64(across @ x) / x.shape[1]
    moments = np.float64(across @ y) / x.shape[1]
    fitted = np.empty_like(prior)
    for group, gram in enumerate(grams):
        penalty = ridge * np.trace(gram) / len(gram) + 1e-12
        gram[np.diag_indices_from(gram)] += penalty
        right = moments[group] + penalty * prior[group]
        fitted[group] = bounded_solutions(gram, right, low[group], high[group])
    return from_matrices(crossbar, fitted).astype(np.float32)


def bounded_solutions(
    gram: np.ndarray, moments: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Returns the minima of `w' gram w / 2 - moments' w` for `low <= w <= high`, by column.

    Weights that leave their range are fixed at its end, those whose gradient points back inside are
    freed, and the free ones are solved for, until nothing changes: block pivoting, see Portugal,
    Júdice and Vicente, "A comparison of block pivoting and interior-point algorithms for linear
    least squares problems with nonnegative variables", Mathematics of Computation 63 (1994). It
    ends after `_ROUNDS` in any case, with weights inside their ranges.

    Args:
        gram: positive definite matrix `(rows, rows)`, the same for all columns.
        moments: matrix `(rows, columns)`.
        low: likewise; equal to `high` where a weight is stuck.
        high: likewise.
    """
    inverse = np.linalg.inv(gram)
    unbounded = inverse @ moments
    # Threads that wait for each other cost such small systems more than they give.
    with threadpool_limits(1, "blas"):
        columns = [
            _bounded_solution(gram, inverse, *column)
            for column in zip(unbounded.T, moments.T, low.T, high.T, strict=True)
        ]
    return np.stack(columns, axis=1)


def _bounded_solution(
    gram: np.ndarray,
    inverse: np.ndarray,
    unbounded: np.ndarray,
    moments: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    weights = np.clip(np.zeros_like(moments), low, high)
    free = high > low
    for _ in range(_ROUNDS):
        places, fixed = np.flatnonzero(free), np.flatnonzero(~free)
        if len(fixed) < len(places):
            # The fewer are solved for: by how much each fixed weight pulls at the others.
            excess = unbounded[fixed] - weights[fixed]
            pull = np.linalg.solve(inverse[np.ix_(fixed, fixed)], excess)
            solution = unbounded[places] - inverse[np.ix_(places, fixed)] @ pull
        else:
            right = moments[places] - gram[np.ix_(places, fixed)] @ weights[fixed]
            solution = np.linalg.solve(gram[np.ix_(places, places)], right)
        weights[places] = np.clip(solution, low[places], high[places])
        outside = (solution < low[places]) | (solution > high[places])
        slope = gram @ weights - moments
        inward = ((weights == low) & (slope < 0)) | ((weights == high) & (slope > 0))
        freed = ~free & inward & (high > low)
        if not outside.any() and not freed.any():
            break
        free[places[outside]] = False
        if not outside.any():
            free |= freed
    return weights
