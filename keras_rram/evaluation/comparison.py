"""Two models on the same chips, and what the spread of an accuracy is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.statistics.anova import (
    VarianceComponent,
    crossed_components,
    groups,
)
from keras_rram.evaluation.statistics.folds import fold_interval
from keras_rram.evaluation.statistics.intervals import (
    QUESTIONS,
    Images,
    Interval,
)
from keras_rram.evaluation.statistics.scores import score_interval
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
    differences: tuple[float, ...] = field(repr=False)
    wins: float
    losses: float
    ties: float

    def __str__(self) -> str:
        """The difference with its interval, in one line."""
        found = self.interval
        return (
            f"difference {found.estimate:+.4f} ({100 * found.confidence:g}% interval "
            f"{found.low:+.4f} to {found.high:+.4f}, {found.question}), better on {self.wins:.0%} "
            f"of {len(self.differences)} chips, worse on {self.losses:.0%}"
        )


def paired_difference(
    a: PopulationResult,
    b: PopulationResult,
    confidence: float = 0.95,
    images: Images | None = None,
) -> PairedDifference:
    """Compares two models on the same chips and the same images.

    Chips that both models share (common random numbers) and images that both answered cancel from
    the difference, so its interval is narrower than that of two separate populations. With each
    answer kept it is the two-way interval of the answers' differences (`two_way_interval`, raw
    scale); from counts and on folds that of `fold_interval`, which on one fold is Student's over
    chips, conditional on the images.

    Args:
        a: Result of one model.
        b: Result of the other, on the same chips.
        confidence: Confidence level in (0, 1).
        images: "new" or "test_set", as in `two_way_interval`. Counts, folds and one number for a
            whole chip cannot tell how the difference varies over new images, and take "test_set"
            only. None: "new" where each answer was kept, or else "test_set"; the interval says
            which.

    Returns:
        The `PairedDifference`.

    Raises:
        ValueError: If the chips or images differ, or `images="new"` without each answer.
    """
    _same_chips(a, b, ("data", "fault_model", "rate", "seed", "measure"))
    differences = a.accuracies - b.accuracies
    if differences.size < 2:
        raise ValueError("expected at least 2 chips. Received: one (evaluate more)")
    left, right = a.matrix, b.matrix
    if images is None:
        images = "test_set" if left is None or right is None else "new"
    if a.identity() == b.identity() and not differences.any():
        method = "one model against itself"
        interval = Interval(0.0, 0.0, 0.0, confidence, QUESTIONS[images], method)
    elif not a.is_counted:
        scores = None if left is None or right is None else left - right
        interval = score_interval(differences, scores, confidence, images)
    elif left is not None and right is not None:
        answers = left.astype(np.int8) - right.astype(np.int8)
        interval = two_way_interval(answers, confidence, images, scale="raw")
    elif images == "new":
        raise ValueError(
            "expected each answer to all images for images='new'. Received: counts or folds (keep "
            "the answers, or ask about images='test_set')"
        )
    else:
        fold_ids = np.array([chip.fold for chip in a.chips])
        size = min(chip.total for chip in a.chips)
        interval = fold_interval(differences, fold_ids, a.folds, size, confidence, scale="raw")
    return PairedDifference(
        interval,
        tuple(differences.tolist()),
        float(np.mean(differences > 0 if a.higher_is_better else differences < 0)),
        float(np.mean(differences < 0 if a.higher_is_better else differences > 0)),
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
            _same_chips(parts[0], part, ("data", "fault_model", "rate", "measure"))
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
    table = groups(accuracies.ravel(), np.repeat(np.arange(seeds), chips))
    within = table.ms_within
    seed = table.variance_between - within / chips
    return (
        VarianceComponent("seed", max(seed, 0.0), seed, seeds - 1),
        VarianceComponent("chip", within, within, seeds * (chips - 1)),
    )
