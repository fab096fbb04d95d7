"""Part of the test images for each chip: stratified folds that rotate over the chips.

The mean accuracy of a population needs many chips more than many images per chip. The test set is
cut into folds, each with the class proportions of the whole (so differences between classes cancel
within a chip), and chip k answers the images of fold `(k // 2) mod folds`: pairs of chips share a
fold, and pair after pair the whole test set is used. Once every fold was used equally often, the
difficulty of the images cancels exactly from the mean; what remains is the chips' own spread and
how each chip fares on its fold, and the two chips of a pair measure just that.
"""

from typing import Any

import numpy as np

from keras_rram.evaluation.statistics.anova import groups
from keras_rram.evaluation.statistics.intervals import (
    QUESTIONS,
    ROUNDING,
    Interval,
    Scale,
    alike_interval,
    effective_df,
    t_interval,
)


def stratified_folds(labels: np.ndarray, images_per_fold: int, seed: int) -> list[np.ndarray]:
    """Cuts the test images into folds that all have the class proportions of the whole.

    The images are ordered by stratum, at random within it, and dealt out like cards: fold j takes
    the positions p with `p mod folds == j`, so a stratum's counts in two folds differ by at most
    one (systematic sampling; Cochran, "Sampling Techniques" (1977), chapter 8). The number of
    folds is the largest power of two that gives each fold `images_per_fold` images. With the same
    seed the folds are therefore nested: asking for twice the images joins fold j with fold
    `j + folds / 2`, and no answer that a chip has given is lost.

    Args:
        labels: Shape (images,), integers: the class of each image, or any finer stratum that is
            known beforehand. `2 * labels + fault_free_is_right` removes still more variance.
        images_per_fold: Images that each fold has at least, 1 to the number of images.
        seed: Seed of the order within the strata.

    Returns:
        A list of sorted index arrays, a partition of `range(images)`.

    Raises:
        ValueError: For labels that are not a vector, or `images_per_fold` out of range.

    Example:
        >>> [len(fold) for fold in stratified_folds(np.arange(100) % 10, 25, seed=0)]
        [25, 25, 25, 25]
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not 1 <= images_per_fold <= labels.size:
        raise ValueError(
            "expected labels of shape (images,) and 1 <= images_per_fold <= images. Received: "
            f"shape={labels.shape}, images_per_fold={images_per_fold} (give one label per image)"
        )
    folds = power_of_two(labels.size // images_per_fold)
    rng = np.random.default_rng(seed)
    names, strata = np.unique(labels, return_inverse=True)
    order = np.lexsort((rng.random(labels.size), rng.permutation(names.size)[strata.ravel()]))
    return [np.sort(order[fold::folds]) for fold in range(folds)]


def power_of_two(limit: int) -> int:
    """The largest power of two that is at most `limit`, which is at least 1."""
    return 1 << (int(limit).bit_length() - 1)


def fold_of(chip: np.ndarray | int, folds: int) -> Any:
    """The fold whose images chip number `chip` answers: pairs of chips share one, in rotation.

    Args:
        chip: Index of the chip, at least 0, or an array of them.
        folds: Number of folds.

    Returns:
        The fold of each, 0 to `folds - 1`.

    Example:
        >>> [fold_of(chip, 2) for chip in range(6)]
        [0, 0, 1, 1, 0, 0]
    """
    return (chip // 2) % folds


def fold_interval(
    accuracies: np.ndarray,
    fold_ids: np.ndarray,
    folds: int,
    images_per_fold: int,
    confidence: float = 0.95,
    image_term: float | None = None,
    scale: Scale = "logit",
) -> Interval:
    """Interval of the mean over all chips and the whole test set, from one fold of images per chip.

    Folds are clusters drawn without replacement, chips are units within them (two-stage sampling;
    Cochran (1977), section 10.3, with infinitely many chips): m of M folds used, r_j chips on
    fold j, `Var = (1 - m / M) s_1^2 / m + (m / M) s_2^2 sum(1 / r_j) / m^2`, where s_1^2 is the
    variance of the fold means and s_2^2 the pooled variance of chips within their fold. When all
    folds are used only the second term remains. The mean is that of the fold means, the plain mean
    where folds are used equally often. Degrees of freedom: Satterthwaite, adjusted for kurtosis.
    Where chips are all alike, `alike_interval` over chips: answers of one chip, and of two chips to
    the same images, depend on each other.

    Args:
        accuracies: Shape (chips,), the accuracy of each chip on its fold (or a difference of two).
        fold_ids: Shape (chips,), the fold of each chip, 0 to `folds - 1`.
        folds: Number of folds M that the test set was cut into.
        images_per_fold: Images in a fold.
        confidence: Confidence level in (0, 1).
        image_term: None asks about this test set; `image variance / images in the test set`, which
            is added to the variance, about new images.
        scale: "logit" for accuracies, "raw" for differences.

    Returns:
        The `Interval`.

    Raises:
        ValueError: For fewer than two chips, mismatching shapes or folds out of range.
    """
    accuracies, fold_ids = np.asarray(accuracies, dtype=np.float64), np.asarray(fold_ids)
    if accuracies.ndim != 1 or accuracies.shape != fold_ids.shape or accuracies.size < 2:
        raise ValueError(
            "expected accuracies and fold_ids of one shape (chips,), chips >= 2. Received: "
            f"shapes {accuracies.shape} and {fold_ids.shape} (give each chip its fold)"
        )
    if fold_ids.min() < 0 or fold_ids.max() >= folds:
        raise ValueError(
            f"expected fold_ids in 0..{folds - 1}. Received: {fold_ids.min()}..{fold_ids.max()} "
            "(folds is the number that the test set was cut into)"
        )
    table = groups(accuracies, fold_ids)
    used, sizes, mean = table.sizes.size, table.sizes, table.mean
    question = QUESTIONS["test_set" if image_term is None else "new"]
    part = used / folds
    terms = []
    if accuracies.size > used:
        weight = float(np.sum(1 / sizes)) / used**2
        terms.append((part * table.ms_within * weight, effective_df(table.within, used)))
    else:
        part = 0.0
    if part < 1:
        if used < 2:
            raise ValueError(
                f"expected chips on at least 2 of the {folds} folds. Received: chips on one fold "
                "(evaluate more chips, or all images)"
            )
        terms.append(((1 - part) * table.variance_between / used, effective_df(table.between)))
    sampled = sum(variance for variance, _ in terms)
    if sampled < ROUNDING:
        # Chips that are all right may share hard images that were not seen; other equal accuracies
        # say of the folds that were not used as much as their number.
        seen = used * images_per_fold if mean in (0.0, 1.0) else used
        exhausted = used == folds and image_term is None
        units = accuracies.size if exhausted or image_term else min(accuracies.size, seen)
        return alike_interval(mean, units, confidence, scale, question, image_term or 0.0)
    variance = sampled + (image_term or 0.0)
    squares = sum(term**2 / df for term, df in terms)
    df = variance**2 / squares
    sources = f"{used} of {folds} image folds" if folds > 1 else "over chips, given the images"
    method = f"{sources}, t({df:.1f})"
    answers = accuracies.size * images_per_fold
    return t_interval(mean, variance, df, answers, confidence, scale, question, method)
