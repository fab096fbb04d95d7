"""The analysis of variance, once: crossed designs with one value in each cell, and groups.

All factors are random. The mean square of a set A of factors has the expectation `sum over B
containing A of (cells / levels(B)) s_B^2` (Searle, Casella, McCulloch, "Variance Components"
(1992), chapter 4). Where one factor was drawn without replacement from finitely many levels, a
part `left` of which was not seen, a term with that factor in B but not in A counts `left` times
(Cornfield and Tukey, Ann. Math. Stat. 27 (1956) 907).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_rram.evaluation.statistics.intervals import ROUNDING, effective_df

Subset = tuple[int, ...]


@dataclass(frozen=True)
class VarianceComponent:
    """One source of spread.

    Attributes:
        source: Its name: "seed", "chip", "image", or an interaction such as "seed:chip".
        variance: Its variance, 0 where the estimate was negative.
        estimate: The estimate as the moments give it, negative or not.
        df: Degrees of freedom of its mean square.
    """

    source: str
    variance: float
    estimate: float
    df: int

    @property
    def clipped(self) -> bool:
        """Whether the estimate was negative and taken as 0."""
        return self.estimate < 0


@dataclass(frozen=True)
class Crossed:
    """Mean squares of a crossed design; see `crossed`.

    Attributes:
        shape: Levels of each factor.
        mean: Grand mean.
        squares: Mean square of each set of factors, by their axes: (0,), (1,), (0, 1), ...
        df: Degrees of freedom of each.
        effective: The same, for single factors lowered where they have heavy tails
            (`effective_df`).
    """

    shape: tuple[int, ...]
    mean: float
    squares: Mapping[Subset, float]
    df: Mapping[Subset, int]
    effective: Mapping[Subset, float]

    def estimates(self, left: Mapping[int, float] | None = None) -> dict[Subset, float]:
        """Variance components by Henderson's method of moments, negative or not.

        Args:
            left: Part of a factor's levels that was not seen, by its axis; 1 where not given.
        """
        solved = np.linalg.solve(self._expectation(left or {}), list(self.squares.values()))
        return dict(zip(self.squares, solved.tolist(), strict=True))

    def variance_of_mean(self, left: Mapping[int, float] | None = None) -> tuple[float, float]:
        """Variance of the grand mean and its degrees of freedom.

        `sum over B of left(B) s_B^2 / levels(B)`, negative components clipped; Satterthwaite's
        degrees of freedom (Biometrics Bulletin 2 (1946) 110), at least those of the factor that
        has fewest.

        Args:
            left: As in `estimates`; 0 asks about the levels that were seen.
        """
        left = left or {}
        share = np.array([_left(subset, left) for subset in self.squares])
        levels = np.array([self._levels(subset) for subset in self.squares])
        found = np.maximum(list(self.estimates(left).values()), 0.0)
        variance = float(np.sum(share * found / levels))
        weights = np.linalg.solve(self._expectation(left).T, share / levels)
        df = np.array(list(self.effective.values()))
        spread = float(np.sum((weights * list(self.squares.values())) ** 2 / df))
        floor = min(
            self.effective[(axis,)] for axis in range(len(self.shape)) if left.get(axis, 1.0)
        )
        return variance, max(variance**2 / spread, floor) if spread > 0 else floor

    def _levels(self, subset: Subset) -> int:
        return int(np.prod([self.shape[axis] for axis in subset]))

    def _expectation(self, left: Mapping[int, float]) -> np.ndarray:
        cells = int(np.prod(self.shape))
        return np.array(
            [
                [
                    _left(set(b) - set(a), left) * cells / self._levels(b)
                    if set(a) <= set(b)
                    else 0
                    for b in self.squares
                ]
                for a in self.squares
            ]
        )


def _left(subset: set[int] | Subset, left: Mapping[int, float]) -> float:
    return float(np.prod([left.get(axis, 1.0) for axis in subset]))


def crossed(data: np.ndarray) -> Crossed:
    """Analyses a balanced crossed design with one observation in each cell.

    Args:
        data: Numbers or booleans, one axis for each factor, at least 2 levels each.

    Returns:
        The `Crossed` mean squares.

    Raises:
        ValueError: If a factor has one level.
    """
    data = np.asarray(data)
    if data.ndim < 1 or min(data.shape) < 2:
        raise ValueError(
            f"expected one axis of at least 2 levels for each factor. Received: shape={data.shape} "
            "(a variance needs replicates)"
        )
    axes = range(data.ndim)
    subsets = [c for size in axes for c in itertools.combinations(axes, size + 1)]
    mean = float(np.mean(data, dtype=np.float64))
    effects: dict[Subset, np.ndarray] = {(): np.full((1,) * data.ndim, mean)}
    squares: dict[Subset, float] = {}
    df = {key: int(np.prod([data.shape[axis] - 1 for axis in key])) for key in subsets}
    for key in subsets[:-1]:
        out = tuple(axis for axis in axes if axis not in key)
        effect = np.asarray(np.mean(data, axis=out, keepdims=True, dtype=np.float64))
        for lower, value in effects.items():
            if set(lower) < set(key):
                effect = effect - value
        effects[key] = effect
        square = float(np.mean(effect**2))
        squares[key] = square * data.size if square > ROUNDING else 0.0
    # The highest interaction is what remains: no array of its size is needed for it.
    values = data.ravel()
    total = float(np.einsum("i,i->", values, values, dtype=np.float64, casting="unsafe"))
    total -= data.size * mean**2
    rest = total - sum(squares.values())
    squares[subsets[-1]] = rest if rest > 1e-12 * data.size else 0.0
    return Crossed(
        data.shape,
        mean,
        {key: squares[key] / df[key] for key in subsets},
        df,
        {k: effective_df(effects[k]) if len(k) == 1 < data.ndim else df[k] for k in subsets},
    )


def crossed_components(data: np.ndarray, names: tuple[str, ...]) -> tuple[VarianceComponent, ...]:
    """Variance components of a balanced crossed design with one observation per cell.

    Args:
        data: One axis for each factor, at least 2 levels each.
        names: Name of each factor.

    Returns:
        A `VarianceComponent` for each factor and each interaction, main effects first.

    Raises:
        ValueError: If the names do not fit the axes, or a factor has one level.
    """
    if np.ndim(data) != len(names):
        raise ValueError(
            f"expected one axis of at least 2 levels for each of {names}. Received: "
            f"shape={np.shape(data)}"
        )
    table = crossed(data)
    return tuple(
        VarianceComponent(
            ":".join(names[axis] for axis in key), max(found, 0.0), found, table.df[key]
        )
        for key, found in table.estimates().items()
    )


@dataclass(frozen=True)
class Groups:
    """Values in groups; see `groups`.

    Attributes:
        sizes: Number of values in each group.
        mean: Mean of the groups' means.
        within: Residuals from the groups' means, shape of the values.
        between: Deviations of the groups' means from `mean`.
    """

    sizes: np.ndarray
    mean: float
    within: np.ndarray
    between: np.ndarray

    @property
    def ms_within(self) -> float:
        """Pooled variance within groups, 0 where every group has one value."""
        df = self.within.size - self.sizes.size
        return float(np.sum(self.within**2)) / df if df else 0.0

    @property
    def variance_between(self) -> float:
        """Variance of the groups' means, at least two groups."""
        return float(np.sum(self.between**2)) / (self.sizes.size - 1)


def groups(values: np.ndarray, ids: np.ndarray) -> Groups:
    """One-way analysis of values that are nested in groups.

    Args:
        values: Shape (n,).
        ids: Shape (n,), the group of each.

    Returns:
        The `Groups`.
    """
    _, group, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    means = np.bincount(group, values) / sizes
    mean = float(means.mean())
    return Groups(sizes, mean, values - means[group], means - mean)
