"""What more chips and more images per chip would do for the mean: variances and designs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_rram.evaluation.statistics.anova import crossed
from keras_rram.evaluation.statistics.folds import fold_of


@dataclass(frozen=True)
class Components:
    """Variances for planning, from chips on folds; see `components`.

    Attributes:
        chip: Variance between chips of their accuracy on the whole test set.
        image: Variance of the difficulty of images, differences between strata included.
        interaction: Variance of what remains.
        df: Degrees of freedom of `chip`.
        mean: Mean accuracy.
    """

    chip: float
    image: float
    interaction: float
    df: int
    mean: float


def components(correct: Sequence[np.ndarray], folds: int) -> Components:
    """Estimates the three variances from chips that share folds in pairs, by moments.

    Within each fold, the chips x images matrix has the mean squares of a two-way analysis of
    variance (Searle, Casella, McCulloch, "Variance Components" (1992), chapter 4), pooled here
    over folds with two chips or more. Where all answers are alike, the interaction is that of one
    wrong answer among them, so that nothing is planned from a variance of zero.

    Args:
        correct: One boolean vector for each chip, chip k on fold `fold_of(k, folds)`.
        folds: Number of folds.

    Returns:
        The `Components`.
    """
    rows: dict[int, list[np.ndarray]] = {}
    for chip, answers in enumerate(correct):
        rows.setdefault(fold_of(chip, folds), []).append(np.asarray(answers))
    matrices = [np.stack(fold) for fold in rows.values()]
    tables = [crossed(matrix) for matrix in matrices if min(matrix.shape) > 1]
    df = np.array([list(table.df.values()) for table in tables]).T
    squares = np.array([list(table.squares.values()) for table in tables]).T
    chip, image, residual = np.sum(squares * df, axis=1) / np.sum(df, axis=1)
    answers_seen = sum(matrix.size for matrix in matrices)
    size = answers_seen / len(correct)
    mean = float(np.mean([np.mean(answers) for answers in correct]))
    alone = min(mean, 1 - mean) or 0.5 / answers_seen
    e = float(residual) or alone * (1 - alone)
    chips_each = sum(table.shape[0] * (table.shape[1] - 1) for table in tables) / df[1].sum()
    return Components(
        max(float(chip - (1 - 1 / folds) * e) / size, 0.0),
        max(float((image - e) / chips_each), 0.0),
        e,
        int(df[0].sum()),
        mean,
    )


def design_variance(found: Components, chips: int, folds: int, test_images: int) -> float:
    """Variance of the mean over this test set for `chips` chips on `folds` folds.

    The expectation of what `fold_interval` estimates: `(1 - m / M) s_B^2 / m + s_2^2 sum(1 / r_j) /
    m^2` on m of M folds with r_j chips on fold j, `s_2^2 = s_c^2 + (1 - 1 / M) s_e^2 / n` and
    `s_B^2 = (1 - 1 / M) s_i^2 / n`.
    """
    counts = np.bincount(fold_of(np.arange(chips), folds))
    used = counts.size
    left = (1 - 1 / folds) * folds / test_images
    within, between = found.chip + left * found.interaction, left * found.image
    return (1 - used / folds) * between / used + within * float(np.sum(1 / counts)) / used**2


def chips_needed(found: Components, folds: int, test_images: int, variance: float, cap: int) -> int:
    """The fewest chips for which `design_variance` is at most `variance`.

    Returns:
        An even number where there are several folds; a number above `cap` where the cap is too
        low.
    """
    step = 1 if folds == 1 else 2
    low, high = 0, cap // step + 1
    while high - low > 1:
        middle = (low + high) // 2
        if design_variance(found, middle * step, folds, test_images) <= variance:
            high = middle
        else:
            low = middle
    return high * step
