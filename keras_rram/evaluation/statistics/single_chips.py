"""What single chips are like: yield and quantiles, without the luck of finitely many images.

A chip's accuracy on n images is its accuracy over all images, moved by the images' luck. A part of
that luck is the chip's own, with a variance near `p (1 - p) / n`: it widens the distribution over
chips. The other part is shared, as all chips answer the same images: it moves the distribution as
a whole. Here the first is taken out by drawing the accuracies towards their mean until their
variance is that between chips alone (constrained empirical Bayes; Louis, JASA 79 (1984) 393, and
Ghosh, JASA 87 (1992) 533), which keeps their shape, and the second is added to each bound.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from keras_rram.evaluation.statistics.intervals import (
    QUESTIONS,
    ROUNDING,
    Images,
    Interval,
    Yield,
    check_confidence,
    quantile_bound,
    sd_without_binomial_noise,
    smallest_population,
    wilson_interval,
)
from keras_rram.evaluation.statistics.two_way import two_way

_SHARED = 0.2
"""Part of the error probability of a bound that is spent on the images that all chips share."""


def chips_for_bound(q: float = 0.05, confidence: float = 0.95) -> int:
    """Returns the fewest chips for which `quantile_bound` is a number, where images are new."""
    return smallest_population(q, 1 - (1 - _SHARED) * (1 - confidence))


@dataclass(frozen=True)
class SingleChips:
    """Accuracies of chips, and what is known of their noise; make one with `single_chips`.

    Attributes:
        accuracies: Shape (chips,), as measured.
        factor: What deviations from the mean are multiplied by, to have the spread between chips
            alone; in [0, 1].
        least_factor: Its lower end, with 97.5 percent confidence.
        image_sd: Standard deviation of the shared luck.
        question: One of `QUESTIONS`.
        least: Least value that an accuracy can have; minus infinity for scores.
    """

    accuracies: np.ndarray
    factor: float
    least_factor: float
    image_sd: float
    question: str
    least: float = 0.0

    def yield_at(self, threshold: float, confidence: float = 0.95) -> Yield:
        """The part of all chips with an accuracy of at least `threshold`.

        The estimate counts chips without their noise. The interval is Wilson's, from the fewest to
        the most chips that count between `least_factor` and no correction, on a threshold that the
        shared luck moves up and down. Simulated with 20 to 100 chips, 200 to 2,000 images and a
        spread between chips of half to three times the noise, it covers in 96 to 100 percent.
        Counting measured accuracies covered in 15 to 97: most where the spread is three times the
        noise, and least where the noise is most of what is measured.

        Args:
            threshold: Accuracy in [0, 1], or a score.
            confidence: Confidence level in (0, 1).

        Raises:
            ValueError: For a confidence out of range.
        """
        check_confidence(confidence)
        if np.isfinite(self.least) and not 0 <= threshold <= 1:
            raise ValueError(f"expected a threshold in [0, 1]. Received: {threshold}")
        chips, passed = self.accuracies.size, int(np.sum(self.accuracies >= threshold))
        spent, reach = confidence, 0.0
        if self.image_sd:
            error = 1 - confidence
            spent = 1 - (1 - _SHARED) * error
            reach = float(stats.norm.isf(_SHARED * error / 2)) * self.image_sd
        ends = (self.least_factor, 1.0)
        fewest = min(self._count(threshold + reach, factor) for factor in ends)
        most = max(self._count(threshold - reach, factor) for factor in ends)
        interval = Interval(
            self._count(threshold, self.factor) / chips,
            wilson_interval(fewest, chips, spent).low,
            wilson_interval(most, chips, spent).high,
            confidence,
            self.question,
            "Wilson score, without the images' noise" if reach else "Wilson score",
        )
        return Yield(threshold, passed, chips, interval)

    def quantile(self, q: float) -> float:
        """A quantile of the accuracy over chips, linear between chips (`numpy.quantile`)."""
        return float(np.quantile(self._drawn_in(self.factor), q))

    def quantile_bound(self, q: float = 0.05, confidence: float = 0.95) -> float | None:
        """A lower bound of a quantile, None for too few chips.

        That of the measured accuracies (`intervals.quantile_bound`), which are spread wider than
        the true ones, less the shared luck. Simulated as in `yield_at` with 100 chips, the bound of
        the 5th percentile holds in 94 to 100 percent, that of measured accuracies in 91 to 100.

        Args:
            q: The quantile, in (0, 0.5).
            confidence: Confidence of the one-sided bound, in (0, 1).
        """
        reach = 0.0
        if self.image_sd:
            error = 1 - confidence
            confidence = 1 - (1 - _SHARED) * error
            reach = float(stats.norm.isf(_SHARED * error)) * self.image_sd
        if self.accuracies.size < smallest_population(q, confidence):
            return None
        return max(quantile_bound(self.accuracies, q, confidence) - reach, self.least)

    def _drawn_in(self, factor: float) -> np.ndarray:
        if factor == 1:
            return self.accuracies
        mean = self.accuracies.mean()
        return mean + factor * (self.accuracies - mean)

    def _count(self, threshold: float, factor: float) -> int:
        return int(np.sum(self._drawn_in(factor) >= threshold))


def single_chips(
    correct: np.ndarray, total: np.ndarray, matrix: np.ndarray | None, images: Images = "new"
) -> SingleChips:
    """Estimates the noise of chips' accuracies.

    From each answer by the two-way analysis: noise `MS_e / n`, shared luck `s_image^2 / n`. From
    counts the noise is binomial and the shared luck at most that, `p (1 - p) / n`: bounds are then
    wider than they need be. On exactly this test set there is no noise.

    Args:
        correct: Shape (chips,), right answers of each chip.
        total: Shape (chips,), images of each chip.
        matrix: Shape (chips, images), the answers, if they are known.
        images: "new" or "test_set".

    Returns:
        The `SingleChips`.
    """
    accuracies = np.asarray(correct, float) / total
    chips, variance = accuracies.size, 0.0
    if chips > 1 and np.min(total) > 1:
        variance = float(np.var(accuracies, ddof=1))
    if images == "test_set":
        return SingleChips(accuracies, 1.0, 1.0, 0.0, QUESTIONS[images])
    if matrix is not None and min(matrix.shape) > 1:
        table = two_way(matrix)
        noise = table.ms_interaction / table.images
        shared = table.image_variance / table.images
    else:
        mean = float(accuracies.mean())
        noise = variance and variance - sd_without_binomial_noise(correct, total) ** 2
        shared = mean * (1 - mean) / float(np.min(total))
    return without_noise(accuracies, variance, noise, shared)


def without_noise(
    accuracies: np.ndarray, variance: float, noise: float, shared: float, least: float = 0.0
) -> SingleChips:
    """Returns what is known of chips, from the variances of what was measured, over new images.

    Args:
        accuracies: Shape (chips,), as measured.
        variance: Their variance.
        noise: The part of it that is each chip's own luck with the images.
        shared: Variance of the luck that all share.
        least: Least value that an accuracy can have.
    """
    chips = accuracies.size
    rest = math.sqrt(shared), QUESTIONS["new"], least
    if variance < ROUNDING:
        return SingleChips(accuracies, 1.0, 1.0, *rest)
    # The variance of the measured accuracies is at least this, with 97.5 percent confidence.
    smallest = variance * (chips - 1) / float(stats.chi2.ppf(0.975, chips - 1))
    factor, lowest = (
        math.sqrt(max(value - noise, 0.0) / value) for value in (variance, max(smallest, ROUNDING))
    )
    return SingleChips(accuracies, factor, lowest, *rest)
