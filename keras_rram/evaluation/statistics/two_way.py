"""Chips and images are both samples: two-way intervals of the mean accuracy.

A matrix `correct` has one row per chip and one column per test image; entry (k, i) is true where
chip k is right about image i. All chips see the same images, so rows and columns are crossed. The
model behind the formulas is the two-way random-effects model of Searle, Casella, McCulloch,
"Variance Components" (1992), chapter 4:
`correct[k, i] = mean + chip[k] + image[i] + interaction[k, i]`.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from keras_rram.evaluation.statistics.anova import Crossed, crossed
from keras_rram.evaluation.statistics.intervals import (
    QUESTIONS,
    ROUNDING,
    Images,
    Interval,
    Scale,
    alike_interval,
    check_images,
    effective_df,
    t_interval,
)

CHIP, IMAGE = (0,), (1,)


@dataclass(frozen=True)
class TwoWay:
    """Mean squares of a chips x images matrix; see `two_way`.

    Attributes:
        chips: Number of chips K.
        images: Number of images N.
        mean: Grand mean.
        ms_chips: Mean square of chips, expectation `s_e^2 + N s_chip^2`.
        ms_images: Mean square of images, expectation `s_e^2 + K s_image^2`.
        ms_interaction: Residual mean square, expectation `s_e^2`.
        df_chips: Effective degrees of freedom of `ms_chips`, see `effective_df`.
        df_images: Effective degrees of freedom of `ms_images`.
    """

    chips: int
    images: int
    mean: float
    ms_chips: float
    ms_images: float
    ms_interaction: float
    df_chips: float
    df_images: float

    @property
    def chip_variance(self) -> float:
        """Variance of the true accuracy between chips, negative estimates clipped at 0."""
        return max((self.ms_chips - self.ms_interaction) / self.images, 0.0)

    @property
    def image_variance(self) -> float:
        """Variance of the image effect, negative estimates clipped at 0."""
        return max((self.ms_images - self.ms_interaction) / self.chips, 0.0)


def two_way(correct: np.ndarray) -> TwoWay:
    """Two-way analysis of variance of a chips x images matrix, one observation per cell.

    Reference: Searle, Casella, McCulloch (1992), chapter 4.

    Args:
        correct: Shape (chips, images), booleans, or differences of booleans.

    Returns:
        The `TwoWay` mean squares.

    Raises:
        ValueError: For fewer than 2 chips or 2 images.
    """
    table = _crossed(correct)
    chips, images = table.shape
    a, b, e = table.squares.values()
    return TwoWay(chips, images, table.mean, a, b, e, table.effective[CHIP], table.effective[IMAGE])


def _crossed(correct: np.ndarray) -> Crossed:
    if np.ndim(correct) != 2 or min(np.shape(correct)) < 2:
        raise ValueError(
            "expected a matrix of at least 2 chips x 2 images. Received: "
            f"shape={np.shape(correct)} (one row per chip, one column per image)"
        )
    return crossed(correct)


def two_way_interval(
    correct: np.ndarray,
    confidence: float = 0.95,
    images: Images = "new",
    total_images: int | None = None,
    scale: Scale = "logit",
) -> Interval:
    """Interval of the mean accuracy when chips and images are both samples.

    `Var(mean) = s_chip^2 / K + (1 - f) (s_image^2 / N + s_e^2 / (K N))`, estimated without bias by
    `(MS_chip + (1 - f) (MS_image - MS_e)) / (K N)`, negative components clipped; f is the part of
    the images that was seen (Cornfield and Tukey, Ann. Math. Stat. 27 (1956) 907), 0 for
    `images="new"`. The t quantile has Satterthwaite's degrees of freedom (Biometrics Bulletin 2
    (1946) 110), those of each mean square adjusted for kurtosis (`effective_df`). Coverage was
    chosen by simulation: the logit scale keeps near 1 what the raw one loses. Where all chips gave
    the same answers, or all images the same, `alike_interval`.

    Args:
        correct: Shape (chips, images), boolean.
        confidence: Confidence level in (0, 1).
        images: "new": the mean over all images that could be drawn. "test_set": the mean over the
            fixed test set of `total_images` images; with all of them seen, chips are the only
            source of error.
        total_images: Size of the test set for `images="test_set"`; by default the columns are all
            of it.
        scale: "logit" for accuracies, "raw" for differences.

    Returns:
        The `Interval`.

    Raises:
        ValueError: For a wrong shape, confidence or `total_images`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> two_way_interval(rng.random((20, 500)) < 0.9).half_width < 0.01
        True
    """
    check_images(images)
    table = _crossed(correct)
    chips, columns = table.shape
    if total_images is not None and (images == "new" or total_images < columns):
        raise ValueError(
            "expected total_images >= columns, and only with images='test_set'. Received: "
            f"total_images={total_images}, images={images!r}, {columns} columns"
        )
    left = 1.0 if images == "new" else 1 - columns / (total_images or columns)
    return _interval(table, {1: left}, confidence, scale, QUESTIONS[images])


def crossed_interval(
    data: np.ndarray, factors: tuple[str, ...], confidence: float = 0.95, scale: Scale = "logit"
) -> Interval:
    """Interval of a mean over any number of crossed samples: training seeds, chips, images.

    As `two_way_interval` for `images="new"`, with each interaction. An axis of one level is no
    sample: the interval is then about that level.

    Args:
        data: Booleans, or differences of booleans, one axis for each factor.
        factors: Name of each axis, such as ("seed", "chip", "image").
        confidence: Confidence level in (0, 1).
        scale: "logit" for accuracies, "raw" for differences.

    Returns:
        The `Interval`, with a `question` such as "this seed, new chips, new images".

    Raises:
        ValueError: If the names do not fit the axes, or no axis has two levels.
    """
    data = np.asarray(data)
    if data.ndim != len(factors) or data.size < 2:
        raise ValueError(
            f"expected one axis for each of {factors}, two levels on one of them. Received: "
            f"shape={data.shape}"
        )
    sampled = {name: size > 1 for name, size in zip(factors, data.shape, strict=True)}
    question = ", ".join(f"new {n}s" if is_new else f"this {n}" for n, is_new in sampled.items())
    return _interval(crossed(data.squeeze()), {}, confidence, scale, question)


def _interval(
    table: Crossed, left: dict[int, float], confidence: float, scale: Scale, question: str
) -> Interval:
    """The interval of the mean; `left` is the part of a factor that was not seen, by axis."""
    variance, df = table.variance_of_mean(left)
    sampled = [axis for axis in range(len(table.shape)) if left.get(axis, 1.0)]
    varying = {
        axis
        for key, square in table.squares.items()
        for axis in key
        if square and all(other in sampled for other in key)
    }
    if alike := [table.shape[axis] for axis in sampled if axis not in varying]:
        units = min(alike)
        return alike_interval(table.mean, units, confidence, scale, question, variance, df)
    names = {1: "one", 2: "two", 3: "three"}
    method = f"{names[len(table.shape)]}-way random effects, t({df:.1f})"
    size = int(np.prod(table.shape))
    return t_interval(table.mean, variance, df, size, confidence, scale, question, method)


def bootstrap_interval(
    correct: np.ndarray,
    rng: np.random.Generator,
    confidence: float = 0.95,
    images: Images = "new",
    resamples: int = 2000,
) -> Interval:
    """Two-way bootstrap interval of the mean: an independent check of `two_way_interval`.

    The pigeonhole bootstrap (Owen, Annals of Applied Statistics 1 (2007) 386) draws chips and
    images with replacement, independently; it counts the interaction three times and so errs a
    little to the wide side. The percentiles are those of Hesterberg, The American Statistician 69
    (2015) 371: `Phi(+-sqrt(K / (K - 1)) t)`, which repair the narrowness of percentiles for few
    chips.

    Args:
        correct: Shape (chips, images), boolean.
        rng: Generator of the resamples.
        confidence: Confidence level in (0, 1).
        images: "new" resamples chips and images, "test_set" chips only.
        resamples: Number of resamples, at least 100.

    Returns:
        The `Interval`. Where all chips are alike there is nothing to resample: then that of
        `two_way_interval`, and `method` says so.

    Raises:
        ValueError: For a wrong shape, confidence or number of resamples.
    """
    check_images(images)
    formula = two_way_interval(correct, confidence, images)
    if resamples < 100:
        raise ValueError(f"expected at least 100 resamples. Received: resamples={resamples}")
    if formula.df is None:
        return formula
    matrix = np.asarray(correct, np.float32)
    chips, columns = matrix.shape
    means = np.empty(resamples)
    for start in range(0, resamples, 200):
        part = min(200, resamples - start)
        rows = rng.multinomial(chips, np.full(chips, 1 / chips), size=part).astype(np.float32)
        if images == "new":
            weights = rng.multinomial(columns, np.full(columns, 1 / columns), size=part)
        else:
            weights = np.ones((part, columns), dtype=np.int64)
        means[start : start + part] = np.sum((rows @ matrix) * weights, axis=1) / matrix.size
    t = stats.t.ppf(0.5 + confidence / 2, max(formula.df, 1.0))
    tail = float(stats.norm.sf(math.sqrt(chips / (chips - 1)) * t))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(
        formula.estimate,
        float(low),
        float(high),
        confidence,
        formula.question,
        f"pigeonhole bootstrap, {resamples} resamples",
        formula.df,
    )


def chip_interval(
    correct: np.ndarray,
    total: np.ndarray,
    confidence: float = 0.95,
    images: Images = "new",
) -> Interval:
    """Interval of the mean accuracy from the counts of each chip alone.

    "test_set": the t interval over chips, `s^2 / K`, conditional on the images. "new" adds
    `p (1 - p) / N`. Counts cannot tell the image effect from the interaction; as
    `Var(E[correct | image]) <= p (1 - p)`, this is an upper bound of the image term, so the
    interval is not too narrow, and usually wider than `two_way_interval`.

    Args:
        correct: Shape (chips,), right answers of each chip.
        total: Shape (chips,), images seen by each chip.
        confidence: Confidence level in (0, 1).
        images: "new" or "test_set", as in `two_way_interval`.

    Returns:
        The `Interval`; `method` says which.

    Raises:
        ValueError: For fewer than two chips.
    """
    check_images(images)
    correct, total = np.asarray(correct, float), np.asarray(total, float)
    if correct.ndim != 1 or correct.shape != total.shape or correct.size < 2 or np.any(total < 1):
        raise ValueError(
            "expected the counts of at least 2 chips, equal shapes (chips,), total >= 1. Received: "
            f"shapes {correct.shape} and {total.shape} (an interval over chips needs two)"
        )
    accuracies = correct / total
    mean, count, seen = float(np.mean(accuracies)), accuracies.size, int(total.min())
    over_chips = float(np.var(accuracies, ddof=1)) / count
    df = effective_df(accuracies - mean)
    question, answers = QUESTIONS[images], int(total.sum())
    image_term = mean * (1 - mean) / seen if images == "new" else 0.0
    if over_chips < ROUNDING:
        units = min(count, seen) if images == "new" and not image_term else count
        return alike_interval(mean, units, confidence, "logit", question, image_term)
    method = "over chips, conditional on the images"
    if images == "new":
        df *= ((over_chips + image_term) / over_chips) ** 2
        method = "over chips, with an upper bound of the image term"
    variance, method = over_chips + image_term, f"{method}, t({df:.1f})"
    return t_interval(mean, variance, df, answers, confidence, "logit", question, method)
