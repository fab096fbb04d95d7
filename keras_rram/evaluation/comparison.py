"""Two models on the same chips, and what the spread of an accuracy is made of."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.statistics.folds import fold_interval
from keras_rram.evaluation.statistics.intervals import Images, Interval, effective_df, t_interval
from keras_rram.evaluation.statistics.two_way import two_way_interval


@dataclass(frozen=True)
class PairedDifference:
    """Model a against model b on the same chips.

    Attributes:
        interval: The mean difference of accuracy, a minus b, with its interval.
        differences: The difference on each chip, in the order of the indices.
        wins: Part of the chips on which a is better.
        losses: Part of the chips on which b is better.
        ties: Part of the chips on which they are equal.
    """

    interval: Interval
    differences: tuple[float, ...]
    wins: float
    losses: float
    ties: float


def paired_difference(
    a: PopulationResult,
    b: PopulationResult,
    confidence: float = 0.95,
    images: Images = "new",
) -> PairedDifference:
    """Compares two models on the same chips and the same images.

    Chips that both models share (common random numbers) and images that both answered cancel from
    the difference, so its interval is narrower than that of two separate populations. With each
    answer kept it is the two-way interval of the answers' differences (`two_way_interval`, raw
    scale); on folds that of `fold_interval`; from counts the t interval over chips, which is
    conditional on the images.

    Args:
        a: Result of one model.
        b: Result of the other, on the same chips.
        confidence: Confidence level in (0, 1).
        images: "new" or "test_set", as in `two_way_interval`. Counts and folds cannot tell how the
            difference varies over new images, and take "test_set" only.

    Returns:
        The `PairedDifference`.

    Raises:
        ValueError: If the chips or images differ, or `images="new"` without each answer.
    """
    _same_chips(a, b, ("data", "fault_model", "rate", "seed"))
    differences = a.accuracies - b.accuracies
    if differences.size < 2:
        raise ValueError("expected at least 2 chips. Received: one (evaluate more)")
    left, right = a.matrix, b.matrix
    mean = float(differences.mean())
    if left is not None and right is not None:
        answers = left.astype(np.int8) - right.astype(np.int8)
        interval = two_way_interval(answers, confidence, images, scale="raw")
    elif images == "new":
        raise ValueError(
            "expected each answer to all images for images='new'. Received: counts or folds (keep "
            "the answers, or ask about images='test_set')"
        )
    elif a.folds > 1:
        fold_ids = np.array([chip.fold for chip in a.chips])
        size = min(chip.total for chip in a.chips)
        interval = fold_interval(differences, fold_ids, a.folds, size, confidence, scale="raw")
    else:
        df = effective_df(differences - mean)
        variance = float(np.var(differences, ddof=1)) / differences.size
        method = f"over chips, conditional on the images, t({df:.1f})"
        interval = t_interval(mean, variance, df, differences.size, confidence, "raw", method)
    return PairedDifference(
        interval,
        tuple(differences.tolist()),
        float(np.mean(differences > 0)),
        float(np.mean(differences < 0)),
        float(np.mean(differences == 0)),
    )


def matched(
    results: Sequence[PopulationResult], others: Sequence[PopulationResult]
) -> list[tuple[PopulationResult, PopulationResult]]:
    """Pairs the results of two runs by their fault rate, for `paired_difference`.

    Args:
        results: one for each fault rate.
        others: those of the other run, which may have more rates.

    Raises:
        ValueError: if a rate is missing in `others`.
    """
    by_rate = {other.rate: other for other in others}
    if missing := sorted({result.rate for result in results} - set(by_rate)):
        raise ValueError(
            f"expected the fault rates {sorted(by_rate)}, which the other run has. Received: "
            f"{missing} too (evaluate both models at the same rates)"
        )
    return [(result, by_rate[result.rate]) for result in results]


def _same_chips(a: PopulationResult, b: PopulationResult, names: tuple[str, ...]) -> None:
    """Raises ValueError unless two results are of the same chips on the same images."""
    mine, theirs = (
        {name: getattr(result, name) for name in names}
        | {"chips": [(chip.index, chip.fold, chip.folds, chip.total) for chip in result.chips]}
        for result in (a, b)
    )
    if differing := [name for name in mine if mine[name] != theirs[name]]:
        raise ValueError(
            f"expected results of the same chips on the same images. Received: other {differing} "
            "(evaluate both models with one fault model, rate, seed and number of chips)"
        )


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
class VarianceSplit:
    """What the spread of the accuracy is made of.

    Attributes:
        mean: Grand mean accuracy.
        components: The sources of spread, main effects first.
        crossed: Whether every training seed was evaluated on the same chips.
    """

    mean: float
    components: tuple[VarianceComponent, ...]
    crossed: bool

    def __getitem__(self, source: str) -> VarianceComponent:
        """Returns the component of a source, such as "chip"."""
        for component in self.components:
            if component.source == source:
                return component
        names = [component.source for component in self.components]
        raise KeyError(f"expected one of {names}. Received: {source!r}")


def variance_split(results: Mapping[int, PopulationResult]) -> VarianceSplit:
    """Splits the variance of the accuracy into training seed, chip and images.

    With the same chips for every training seed, a crossed analysis of variance
    (`crossed_components`): with each answer kept over seed, chip, image and their interactions;
    from counts over seed and chip, where the images' luck is part of "seed:chip". With other chips
    for each seed, chips nested in seeds: "seed" and "chip" (Searle, Casella, McCulloch, "Variance
    Components" (1992), chapters 3 and 4). The variances are those of one answer or one
    accuracy, not of a mean.

    Args:
        results: For each training seed its result, all with equally many chips, all images each.

    Returns:
        The `VarianceSplit`.

    Raises:
        ValueError: For fewer than two seeds or chips, folds of images, or unequal designs.

    Example:
        `variance_split({0: first, 1: second})["chip"].variance ** 0.5` is the deviation between
        chips.
    """
    parts = list(results.values())
    if len(parts) < 2:
        raise ValueError(f"expected at least 2 training seeds. Received: {len(parts)}")
    if any(part.folds > 1 for part in parts):
        raise ValueError("expected chips that answered all images. Received: folds of images")
    if len({len(part.chips) for part in parts}) > 1 or len(parts[0].chips) < 2:
        raise ValueError(
            "expected equally many chips, at least 2, for each training seed. Received: "
            f"{[len(part.chips) for part in parts]} (evaluate the missing ones)"
        )
    same = [(part.seed, part.indices) for part in parts]
    if crossed := all(one == same[0] for one in same):
        for part in parts[1:]:
            _same_chips(parts[0], part, ("data", "fault_model", "rate"))
    accuracies = np.stack([part.accuracies for part in parts])
    mean = float(accuracies.mean())
    if not crossed:
        return VarianceSplit(mean, _nested(accuracies), False)
    matrices = [part.matrix for part in parts]
    kept = [matrix for matrix in matrices if matrix is not None]
    if len(kept) == len(parts):
        cube = np.stack(kept).astype(np.float32)
        return VarianceSplit(mean, crossed_components(cube, ("seed", "chip", "image")), True)
    return VarianceSplit(mean, crossed_components(accuracies, ("seed", "chip")), True)


def _nested(accuracies: np.ndarray) -> tuple[VarianceComponent, ...]:
    seeds, chips = accuracies.shape
    within = float(np.mean(np.var(accuracies, axis=1, ddof=1)))
    seed = float(np.var(accuracies.mean(1), ddof=1)) - within / chips
    return (
        VarianceComponent("seed", max(seed, 0.0), seed, seeds - 1),
        VarianceComponent("chip", within, within, seeds * (chips - 1)),
    )


def crossed_components(data: np.ndarray, names: tuple[str, ...]) -> tuple[VarianceComponent, ...]:
    """Variance components of a balanced crossed design with one observation per cell.

    All factors are random. The mean square of a set A of factors has the expectation `sum over B
    containing A of (cells / levels(B)) s_B^2`; solved from the highest interaction down (Searle,
    Casella, McCulloch (1992), chapter 4; Henderson's method of moments).

    Args:
        data: One axis for each factor, at least 2 levels each.
        names: Name of each factor.

    Returns:
        A `VarianceComponent` for each factor and each interaction, main effects first.

    Raises:
        ValueError: If the names do not fit the axes, or a factor has one level.
    """
    data = np.asarray(data)
    if data.ndim != len(names) or min(data.shape) < 2:
        raise ValueError(
            f"expected one axis of at least 2 levels for each of {names}. Received: "
            f"shape={data.shape} (a variance needs replicates)"
        )
    axes = range(data.ndim)
    subsets = [set(c) for size in axes for c in itertools.combinations(axes, size + 1)]
    effects: dict[tuple[int, ...], Any] = {(): np.mean(data, dtype=np.float64)}
    squares: dict[tuple[int, ...], tuple[float, int]] = {}
    for subset in subsets:
        out = tuple(axis for axis in axes if axis not in subset)
        effect = np.mean(data, axis=out, keepdims=True, dtype=np.float64)
        for lower, value in effects.items():
            if set(lower) < subset:
                effect = effect - value
        key = tuple(sorted(subset))
        effects[key] = effect
        df = int(np.prod([data.shape[axis] - 1 for axis in key]))
        squares[key] = (float(np.sum(effect**2)) * data.size / effect.size / df, df)
    estimates: dict[tuple[int, ...], float] = {}
    for key in sorted(squares, key=len, reverse=True):
        rest = squares[key][0]
        for higher, variance in estimates.items():
            if set(key) < set(higher):
                rest -= variance * data.size / np.prod([data.shape[axis] for axis in higher])
        estimates[key] = float(rest * np.prod([data.shape[axis] for axis in key]) / data.size)
    return tuple(
        VarianceComponent(
            ":".join(names[axis] for axis in key),
            max(estimates[key], 0.0),
            estimates[key],
            squares[key][1],
        )
        for key in squares
    )
