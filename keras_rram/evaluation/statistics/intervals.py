"""Intervals, quantile bounds and spread of a population of chips: pure functions of numbers."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special, stats

Images = Literal["new", "test_set"]
Scale = Literal["logit", "raw"]

QUESTIONS: dict[str, str] = {
    "new": "new chips, new images",
    "test_set": "new chips, this test set",
}
"""What an interval is about, by the kind of inference over images. Other intervals name theirs."""

ROUNDING = 1e-24
"""A variance below it is that of rounding: the mean of equal accuracies is off by a last bit."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: The point estimate.
        low: Lower end.
        high: Upper end.
        confidence: Confidence level in (0, 1).
        question: What it is about, in words that can be printed: one of `QUESTIONS`, or another.
        method: How it was computed, in words that can be printed.
        df: Degrees of freedom of the t quantile, None where no t quantile was used.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    question: str
    method: str
    df: float | None = None

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Yield:
    """The part of the chips that are good enough.

    Attributes:
        threshold: Accuracy that a good chip has at least.
        passed: Number of chips that are good on the images they were tested on.
        chips: Number of chips.
        interval: The part of all chips that are good, with its interval; see its `question`.
    """

    threshold: float
    passed: int
    chips: int
    interval: Interval


def check_confidence(confidence: float) -> None:
    """Raises ValueError unless `confidence` lies strictly between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(
            f"expected a confidence strictly between 0 and 1. Received: confidence={confidence} "
            "(95 percent is 0.95)"
        )


def check_images(images: str) -> None:
    """Raises ValueError unless `images` is one of the two kinds of inference."""
    if images not in ("new", "test_set"):
        raise ValueError(
            f"expected images='new' or images='test_set'. Received: images={images!r} ('new' takes "
            "the test images for a sample, 'test_set' asks about exactly these images)"
        )


def wilson_interval(
    successes: int, total: int, confidence: float = 0.95, question: str = "new trials"
) -> Interval:
    """Wilson's score interval of a proportion.

    Reference: Wilson, JASA 22 (1927) 209, as computed by `scipy.stats.binomtest`.

    Args:
        successes: Number of successes, 0 to `total`.
        total: Number of trials, at least 1.
        confidence: Confidence level in (0, 1).
        question: What the trials are.

    Returns:
        The `Interval` of the proportion.

    Raises:
        ValueError: For counts or a confidence out of range.

    Example:
        >>> wilson_interval(9, 10).low
        0.596...
    """
    check_confidence(confidence)
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(
            "expected 0 <= successes <= total and total >= 1. Received: "
            f"successes={successes}, total={total} (count the same trials in both)"
        )
    bounds = stats.binomtest(int(successes), int(total)).proportion_ci(confidence, method="wilson")
    low, high = float(bounds.low), float(bounds.high)
    return Interval(successes / total, low, high, confidence, question, "Wilson score")


def one_chip_interval(
    correct: int, total: int, confidence: float = 0.95, images: Images = "new"
) -> Interval:
    """The interval of the accuracy of chips that are one, as none has a fault.

    Wilson's over new images; on the test set itself the accuracy is known.
    """
    if images == "new":
        return wilson_interval(correct, total, confidence, "this chip, new images")
    value = correct / total
    return Interval(value, value, value, confidence, "this chip, this test set", "counted")


def smallest_population(quantile: float = 0.05, confidence: float = 0.95) -> int:
    """The fewest chips whose worst one bounds a quantile of the population from below.

    The worst of n chips lies below the q-quantile with probability `1 - (1 - q)^n`, whatever the
    distribution (Wilks, Ann. Math. Stat. 12 (1941) 91): `n = ceil(log(1 - confidence) / log(1 -
    q))`.

    Args:
        quantile: The quantile to bound, in (0, 1).
        confidence: Confidence of the one-sided bound, in (0, 1).

    Returns:
        The number of chips: 59 for the 5th percentile at 95 percent.

    Raises:
        ValueError: For a quantile or confidence out of range.

    Example:
        >>> smallest_population(0.05, 0.95)
        59
    """
    check_confidence(confidence)
    if not 0 < quantile < 1:
        raise ValueError(
            f"expected a quantile strictly between 0 and 1. Received: quantile={quantile} "
            "(the 5th percentile is 0.05)"
        )
    return math.ceil(math.log1p(-confidence) / math.log1p(-quantile))


def quantile_bound(accuracies: np.ndarray, q: float = 0.05, confidence: float = 0.95) -> float:
    """A lower confidence bound of a quantile of the accuracy over chips, without a distribution.

    It is the r-th smallest accuracy, r the largest rank with `P(Binomial(chips, q) >= r) >=
    confidence` (Conover, "Practical Nonparametric Statistics", section 3.2;
    `scipy.stats.quantile_test`).

    Args:
        accuracies: Shape (chips,), accuracy of each chip on the full test set.
        q: The quantile, in (0, 1).
        confidence: Confidence of the one-sided bound, in (0, 1).

    Returns:
        The bound: with this confidence the q-quantile of all chips is at least this accuracy.

    Raises:
        ValueError: If there are fewer than `smallest_population(q, confidence)` chips.

    Example:
        >>> quantile_bound(np.linspace(0.9, 1.0, 59))
        0.9
    """
    accuracies = np.asarray(accuracies, dtype=np.float64)
    needed = smallest_population(q, confidence)
    if accuracies.ndim != 1 or accuracies.size < needed:
        raise ValueError(
            f"expected at least {needed} accuracies, shape (chips,), to bound the {q} quantile at "
            f"confidence {confidence}. Received: shape={accuracies.shape} (evaluate more chips)"
        )
    test = stats.quantile_test(accuracies, q=float(np.min(accuracies)), p=q, alternative="greater")
    return float(test.confidence_interval(confidence).low)


def sd_without_binomial_noise(
    correct: np.ndarray, total: np.ndarray, fraction: float = 0.0
) -> float:
    """The spread between chips from counts, with the noise of finitely many test images removed.

    Method of moments: the variance of the accuracies minus `(1 - fraction) * mean(p (1 - p) / (n -
    1))`, the unbiased estimate of the binomial variance, zero where that is negative (Kleinman,
    JASA 68 (1973) 46). Exact where each chip draws its own images. Chips that share their images
    also share the luck of the draw, so this then removes too much and is a lower bound:
    `two_way(matrix).chip_variance` is the estimate to use where the matrix is known.

    Args:
        correct: Shape (chips,), right answers of each chip.
        total: Shape (chips,), images that each chip saw, at least 2.
        fraction: Part of the population of images that a chip saw (finite population correction), 0
            for an infinite population.

    Returns:
        The standard deviation of the accuracy between chips.

    Raises:
        ValueError: For fewer than two chips or two images.
    """
    correct, total = np.asarray(correct, float), np.asarray(total, float)
    if correct.size < 2 or np.any(total < 2):
        raise ValueError(
            "expected at least 2 chips with at least 2 images each. Received: "
            f"correct={correct}, total={total} (a spread needs replicates)"
        )
    p = correct / total
    noise = (1 - fraction) * np.mean(p * (1 - p) / (total - 1))
    return math.sqrt(max(float(np.var(p, ddof=1) - noise), 0.0))


def effective_df(residuals: np.ndarray, groups: int = 1) -> float:
    """Degrees of freedom of a variance estimate, lowered where the data have heavy tails.

    `Var(s^2) = sigma^4 (2 / df + excess / n)` (O'Neill, The American Statistician 68 (2014) 282),
    matched to a chi
    square: `df' = df / (1 + df excess / (2 n))` with `df = n - groups`. The kurtosis of residuals
    from group means is brought back to that of the data for groups of r = n / groups: `excess * r^2
    (r - 1) / ((r - 1)^3 + 1)`.

    Args:
        residuals: Shape (n,), residuals from the group means.
        groups: Number of group means that were subtracted.

    Returns:
        Effective degrees of freedom, at most `n - groups`. Light tails never raise it.
    """
    residuals = np.asarray(residuals, dtype=np.float64).ravel()
    count = residuals.size
    df = count - groups
    square = float(np.mean(residuals**2))
    if square == 0:
        return float(df)
    size = count / groups
    excess = float(np.mean(residuals**4) / square**2) - 3
    excess *= size**2 * (size - 1) / ((size - 1) ** 3 + 1)
    return float(df / (1 + df * max(excess, 0.0) / (2 * count)))


def t_interval(
    mean: float,
    variance: float,
    df: float,
    observations: int,
    confidence: float,
    scale: Scale,
    question: str,
    method: str,
) -> Interval:
    """The t interval of a mean, on the logit or the raw scale.

    On the logit scale (delta method, `se / (p (1 - p))`) it is right near accuracy 1, where the
    mean and its standard error are correlated and the raw interval misses on one side; it never
    leaves [0, 1]. The mean enters the logit as `(p n + 1/2) / (n + 1)` (Haldane's and Anscombe's
    correction), n the number of observations.
    """
    check_confidence(confidence)
    quantile = float(stats.t.ppf(0.5 + confidence / 2, max(df, 1.0)))
    if scale == "raw":
        reach = quantile * math.sqrt(variance)
        return Interval(mean, mean - reach, mean + reach, confidence, question, method, df)
    if variance == 0:
        return Interval(mean, mean, mean, confidence, question, method, df)
    p = (mean * observations + 0.5) / (observations + 1)
    reach = quantile * math.sqrt(variance) / (p * (1 - p))
    low, high = special.expit(special.logit(p) + np.array([-reach, reach]))
    low, high = float(min(low, mean)), float(max(high, mean))
    return Interval(mean, low, high, confidence, question, f"{method}, logit", df)


def alike_interval(
    value: float,
    units: int,
    confidence: float,
    scale: Scale,
    question: str,
    image_variance: float = 0.0,
    image_df: float = math.inf,
) -> Interval:
    """The interval of a mean where all units are alike, so that no variance can be estimated.

    If a share f of all units were otherwise, `units` of them would be alike with probability
    `(1 - f)^units`, whatever the distribution. So at most a share f is otherwise, with Wilson's
    bound f, and may lie anywhere in the range of the values: `(1 - f) value + f [lowest, 1]`.
    Where answers are alike over chips and images alike, the units are the scarcer of the two: in
    the worst case a wrong answer needs one bad chip, or one hard image. Simulated with 8 to 50
    chips on 200 images, 1 to 30 percent of them broken to an accuracy of 90 or 10 percent and all
    others perfect, the intervals of the mean cover in 95 to 100 percent. Counting the images alone,
    they covered in 30 percent where 5 percent of 8 chips are broken to chance.

    Args:
        value: What all units have.
        units: Number of units: chips, or fewer.
        confidence: Confidence level in (0, 1).
        scale: "logit" for accuracies, in [0, 1]; "raw" for differences, in [-1, 1].
        question: What the interval is about.
        image_variance: Variance of the mean from the images, if they are a sample: half of the
            error probability is then spent on each.
        image_df: Degrees of freedom of it.
    """
    low = high = value
    spent = confidence
    if image_variance:
        spent = (1 + confidence) / 2
        image = t_interval(value, image_variance, image_df, 10**9, spent, scale, question, "")
        low, high = image.low, image.high
    part = wilson_interval(units, units, spent).low
    lowest = 0.0 if scale == "logit" else -1.0
    low, high = part * low + (1 - part) * lowest, part * high + (1 - part)
    method = f"all alike: Wilson score of {units}"
    return Interval(value, low, high, confidence, question, method)
