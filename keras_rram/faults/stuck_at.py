"""Weights that read as zero."""

import dataclasses

import numpy as np

from keras_rram.faults.base import Fault


@dataclasses.dataclass(frozen=True)
class StuckAtZero:
    """Each weight of a chip reads as zero with probability `rate`.

    Masks of one generator are nested: at a higher rate the same weights are faulty, and more.

    Reference: [Xiang et al., 2024](https://arxiv.org/abs/2404.15498).

    Attributes:
        rate: fault rate in `[0, 1)`.
        exact: whether each kernel has exactly `round(rate * size)` faulty weights, all subsets
            equally likely, rather than independent weights and a binomial count.
    """

    rate: float
    exact: bool = False

    needs_kernel = False

    def __post_init__(self) -> None:
        """Checks the rate."""
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float):
            raise TypeError(f"`rate` must be a number in [0, 1). Received: rate={self.rate!r}")
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"`rate` must be in [0, 1). Received: rate={self.rate}")

    def sample(
        self, shape: tuple[int, ...], rng: np.random.Generator, kernel: np.ndarray | None = None
    ) -> Fault:
        """Draws the fault mask of a kernel of `shape`."""
        draws = rng.random(shape, dtype=np.float32)
        if not self.exact:
            return Fault((draws >= np.float32(self.rate)).astype(np.float32))
        mask = np.ones(draws.size, np.float32)
        # A stable sort of the draws, so that ties cannot depend on the platform.
        mask[np.argsort(draws, axis=None, kind="stable")[: round(self.rate * draws.size)]] = 0.0
        return Fault(mask.reshape(shape))
