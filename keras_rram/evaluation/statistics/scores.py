"""Scores in place of right answers: any real numbers, of which only means are known.

Nothing binds a score to [0, 1], so no count and no logit is of use. A matrix of the scores of each
chip on each image has the same two-way analysis as one of right answers, on the raw scale; numbers
of whole chips (an AUC, an F1) have the t interval over chips, given the images.
"""

import dataclasses
import math

import numpy as np

from keras_rram.evaluation.statistics.folds import fold_interval
from keras_rram.evaluation.statistics.intervals import QUESTIONS, Images, Interval, check_images
from keras_rram.evaluation.statistics.single_chips import SingleChips, without_noise
from keras_rram.evaluation.statistics.two_way import TwoWay, two_way, two_way_interval


def score_interval(
    values: np.ndarray,
    matrix: np.ndarray | None,
    confidence: float = 0.95,
    images: Images | None = None,
) -> Interval:
    """Interval of a mean score.

    Args:
        values: Shape (chips,), the score of each chip.
        matrix: Shape (chips, images), the scores whose means they are, or None.
        confidence: Confidence level in (0, 1).
        images: "new" or "test_set"; None: "new" where there is a matrix, or else "test_set".

    Returns:
        The `Interval`, on the scale of the scores. Where all chips are alike its width is 0: of
        scores without bounds nothing else can be said.

    Raises:
        ValueError: For fewer than two chips, or for new images without a matrix.
    """
    known = matrix if matrix is not None and min(matrix.shape) > 1 else None
    images = images or ("test_set" if known is None else "new")
    check_images(images)
    if known is None and images == "new":
        raise ValueError(
            "expected the score of each image for images='new'. Received: one number for each chip "
            "(ask about images='test_set')"
        )
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    # The analysis calls variances zero that rounding makes of numbers near 1.
    data = np.asarray(values if known is None else known, np.float64)
    scale = float(np.std(data))
    if scale <= 1e-12 * max(abs(mean), 1e-300):
        return Interval(mean, mean, mean, confidence, QUESTIONS[images], "all alike")
    data = (data - mean) / scale
    if not np.ptp(data if known is None else data.mean(axis=1)) and images == "test_set":
        return Interval(mean, mean, mean, confidence, QUESTIONS[images], "all alike")
    if known is None:
        found = fold_interval(data, np.zeros(len(data), int), 1, 1, confidence, scale="raw")
    else:
        found = two_way_interval(data, confidence, images, scale="raw")
    ends = {name: mean + scale * getattr(found, name) for name in ("low", "high")}
    return dataclasses.replace(found, estimate=mean, **ends)


def single_scores(
    values: np.ndarray, matrix: np.ndarray | None, images: Images = "new"
) -> SingleChips:
    """Estimates the noise of chips' scores, as `single_chips` does that of accuracies.

    Args:
        values: Shape (chips,), the score of each chip, higher is better.
        matrix: Shape (chips, images), the scores whose means they are up to their sign. Without
            one no noise is known, and the values are taken as they are.
        images: "new" or "test_set".
    """
    values = np.asarray(values, float)
    if matrix is None or min(matrix.shape) < 2 or images == "test_set":
        return SingleChips(values, 1.0, 1.0, 0.0, QUESTIONS["test_set"], -math.inf)
    table, scale = _standard(matrix)
    noise, shared = (
        scale**2 * one / table.images for one in (table.ms_interaction, table.image_variance)
    )
    return without_noise(values, float(np.var(values, ddof=1)), noise, shared, -math.inf)


def chip_sd(matrix: np.ndarray) -> float:
    """Returns the standard deviation between chips without the images' noise, of scores."""
    table, scale = _standard(matrix)
    return scale * table.chip_variance**0.5


def _standard(matrix: np.ndarray) -> tuple[TwoWay, float]:
    """Returns the analysis of scores on their own scale, and the scale.

    The analysis calls variances zero that rounding makes of numbers near 1.
    """
    data = np.asarray(matrix, np.float64)
    scale = float(np.std(data)) or 1.0
    return two_way((data - data.mean()) / scale), scale
