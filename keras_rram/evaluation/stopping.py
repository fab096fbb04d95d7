"""When to stop: chips and images are spent where they narrow the interval of the mean most.

A pilot of a few chips on a few images each estimates three variances: between chips (s_c^2), between
images (s_i^2), and their interaction (s_e^2). On M folds of n = N / M images (`folds.py`), K chips
that use all folds equally often give `Var(mean) = (s_c^2 + (1 - 1 / M) s_e^2 / n) / K`; the rule
takes the cheapest (K, M) that reaches the wanted half-width, where a chip costs as much as
`chip_overhead_images + n` images. With no overhead and no cap that is
`n = sqrt(chip_overhead_images * s_e^2 / s_c^2)` (Cochran, "Sampling Techniques" (1977), equation
10.26). The rule then looks again, and goes on where the interval is still too wide.

Looking more than once is paid for by spending the error probability over the looks (Lan and DeMets,
Biometrika 70 (1983) 659): a tenth at the pilot, then at each look 60 percent of what is left, and
all of it at a last look. Each share is fixed before its look, so by the union bound the interval
misses with at most `1 - confidence`, whenever the rule stops; each interval is that of
`fold_interval`. The sizes of later looks depend on variances alone, as in Stein's two-stage
procedure (Ann. Math. Stat. 16 (1945) 243).

This is a rule for the mean. Quantiles, the worst chip and yield are about single chips, each of
which then needs all images; `smallest_population` says how many chips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from keras_rram.evaluation.folds import fold_interval, fold_of, power_of_two
from keras_rram.evaluation.statistics import Images, Interval, check_confidence, check_images

PILOT_SHARE = 0.1  # of the error probability
LOOK_SHARE = 0.6  # of what is left
AS_GOOD = 1.1  # variance that a cheaper design may have over the best one, where no design suffices


@dataclass(frozen=True)
class Plan:
    """What to evaluate next: chips 0 to `chips - 1`, each on its fold of the images.

    Attributes:
        chips: Number of chips, those already evaluated included.
        folds: Number of folds that the test set is cut into, a power of two; 1 is all images.
        images_per_chip: Images of each chip, `test_images // folds` (a fold may have one more).
            `stratified_folds(labels, images_per_chip, seed)` cuts exactly these folds.
        look: 1 for the pilot, then 2, 3, ...
        error: Part of the error probability `1 - confidence` that this look spends.
        remaining: Error probability that is left for later looks.
        last: Whether the rule stops after this look, however wide the interval.
    """

    chips: int
    folds: int
    images_per_chip: int
    look: int
    error: float
    remaining: float
    last: bool = False

    def fold(self, chip: int) -> int:
        """The fold that chip number `chip` answers."""
        return fold_of(chip, self.folds)


@dataclass(frozen=True)
class Done:
    """The end of an evaluation.

    Attributes:
        reached: Whether the interval is as narrow as wanted.
        reason: Why the rule stopped, in words that can be printed.
        interval: The interval of the mean, valid although the rule looked several times.
        chips: Number of chips.
        folds: Number of folds that the test set was cut into.
        images: Answers in all, over all chips.
    """

    reached: bool
    reason: str
    interval: Interval
    chips: int
    folds: int
    images: int


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


@dataclass(frozen=True)
class StopRule:
    """Stops when the interval of the mean accuracy is narrow enough; frozen and without state.

    Use it to evaluate a population to a wanted precision: start with `first_plan()`, evaluate what
    the plan says, call `next` with the answers, until it returns `Done`. The same answers always
    give the same plans, so a resumed run can replay them.

    Args:
        target_half_width: Half-width of the interval of the mean accuracy to reach, in (0, 0.5).
        max_chips: Cap on the number of chips, at least 4.
        test_images: Images in the test set, at least 2.
        max_images: Cap on all answers, over all chips; None for `max_chips * test_images`.
        confidence: Confidence level in (0, 1).
        images: "test_set" asks what evaluating every chip on the whole test set would give, "new"
            adds the error of the test set being a sample itself, which no rule can reduce.
        chip_overhead_images: Cost of programming one chip, in images.
        pilot_chips: Chips of the first look, at least 4.
        pilot_images: Images per chip of the first look, at least.
        target: "mean"; anything else is refused.

    Raises:
        ValueError: For values out of range, or a target that needs all images of each chip.

    Example:
        >>> StopRule(0.005, max_chips=400, test_images=10_000).first_plan()
        Plan(chips=16, folds=64, images_per_chip=156, look=1, ...)
    """

    target_half_width: float
    max_chips: int
    test_images: int
    max_images: int | None = None
    confidence: float = 0.95
    images: Images = "test_set"
    chip_overhead_images: float = 50.0
    pilot_chips: int = 16
    pilot_images: int = 128
    target: str = "mean"

    def __post_init__(self):
        """Checks the ranges."""
        check_confidence(self.confidence)
        check_images(self.images)
        if self.target != "mean":
            raise ValueError(
                f"expected target='mean'. Received: target={self.target!r} (quantiles and yield "
                "need all images of each chip: evaluate `smallest_population` chips in full)"
            )
        if not 0 < self.target_half_width < 0.5:
            raise ValueError(
                "expected a target_half_width between 0 and 0.5. Received: "
                f"target_half_width={self.target_half_width} (half a percent is 0.005)"
            )
        for name, least in (("max_chips", 4), ("test_images", 2), ("pilot_chips", 4)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"expected {name} >= {least}. Received: {name}={getattr(self, name)} "
                    "(fewer say nothing about the spread)"
                )
        if self.pilot_images < 1 or self.chip_overhead_images < 0:
            raise ValueError(
                "expected pilot_images >= 1 and chip_overhead_images >= 0. Received: "
                f"pilot_images={self.pilot_images}, "
                f"chip_overhead_images={self.chip_overhead_images}"
            )
        pilot = self.first_plan()
        if pilot.chips * pilot.images_per_chip > self._images_cap:
            raise ValueError(
                f"expected max_images >= {pilot.chips * pilot.images_per_chip}, what the pilot "
                f"takes. Received: max_images={self.max_images} (raise it or lower pilot_images)"
            )

    @property
    def _images_cap(self) -> int:
        everything = self.max_chips * self.test_images
        return everything if self.max_images is None else self.max_images

    def first_plan(self) -> Plan:
        """Returns the pilot: few chips, few images each."""
        chips = min(self.pilot_chips, self.max_chips)
        folds = power_of_two(self.test_images // min(self.pilot_images, self.test_images))
        alpha = 1 - self.confidence
        error = PILOT_SHARE * alpha
        return Plan(chips, folds, self.test_images // folds, 1, error, alpha - error)

    def next(self, plan: Plan, correct: Sequence[np.ndarray]) -> Plan | Done:
        """Looks at the answers so far.

        Args:
            plan: The plan that was carried out, from `first_plan` or `next`.
            correct: For each chip of the plan a boolean vector: right or wrong on each image of
                its fold, in the order of the fold.

        Returns:
            The next `Plan`, which contains all that is done, or `Done`.

        Raises:
            ValueError: If the answers are not those of the plan.
        """
        self._check(plan, correct)
        found = components(correct, plan.folds)
        fold_ids = np.array([plan.fold(chip) for chip in range(plan.chips)])
        interval = fold_interval(
            np.array([np.mean(answers) for answers in correct]),
            fold_ids,
            plan.folds,
            plan.images_per_chip,
            1 - plan.error,
            self._image_term(found),
        )
        interval = Interval(
            interval.estimate,
            interval.low,
            interval.high,
            self.confidence,
            f"{interval.method}, look {plan.look} at error {plan.error:.4f}",
            interval.df,
        )
        spent = sum(len(answers) for answers in correct)
        if interval.half_width <= self.target_half_width:
            reason = f"half-width {interval.half_width:.5f} reached"
            return Done(True, reason, interval, plan.chips, plan.folds, spent)
        following = None if plan.last else self._plan(plan, found)
        if following is None:
            reason = (
                f"half-width {interval.half_width:.5f} is what the caps on chips "
                f"({self.max_chips}) and images ({self._images_cap}) allow"
            )
            return Done(False, reason, interval, plan.chips, plan.folds, spent)
        return following

    def _check(self, plan: Plan, correct: Sequence[np.ndarray]) -> None:
        sizes = {len(answers) for answers in correct}
        wanted = {plan.images_per_chip, plan.images_per_chip + (self.test_images % plan.folds > 0)}
        if len(correct) != plan.chips or not sizes <= wanted:
            raise ValueError(
                f"expected {plan.chips} vectors of {sorted(wanted)} answers. Received: "
                f"{len(correct)} vectors of {sorted(sizes)} (evaluate what the plan says)"
            )

    def _image_term(self, found: Components) -> float:
        return found.image / self.test_images if self.images == "new" else 0.0

    def _plan(self, plan: Plan, found: Components) -> Plan | None:
        """The cheapest design that should reach the target, else the best within the caps."""
        error = LOOK_SHARE * plan.remaining
        quantile = float(stats.t.ppf(1 - error / 2, max(plan.chips, 30)))
        wanted = (self.target_half_width / quantile) ** 2 - self._image_term(found)
        designs = []
        for power in range(plan.folds.bit_length()):
            folds = 1 << power
            cap = min(self.max_chips, self._images_cap // math.ceil(self.test_images / folds))
            chips = chips_needed(found, folds, self.test_images, wanted)
            chips = max(chips, plan.chips + (folds == plan.folds))
            if chips <= (most := _whole_rotations(cap, folds)):
                designs.append((self._cost(plan, chips, folds), chips, folds))
            elif most >= plan.chips and (most, folds) != (plan.chips, plan.folds):
                designs.append((math.inf, most, folds))
        reachable = [design for design in designs if design[0] < math.inf]
        if reachable:
            _, chips, folds = min(reachable)
            chips = _round_up(chips, folds)
            return self._numbered(plan, chips, folds, error, False)
        if not designs:
            return None
        variances = [design_variance(found, k, folds, self.test_images) for _, k, folds in designs]
        good = [
            (self._cost(plan, chips, folds), chips, folds)
            for (_, chips, folds), variance in zip(designs, variances, strict=True)
            if variance <= AS_GOOD * min(variances)
        ]
        _, chips, folds = min(good)
        return self._numbered(plan, chips, folds, plan.remaining, True)

    def _cost(self, plan: Plan, chips: int, folds: int) -> float:
        each = self.chip_overhead_images + self.test_images / folds
        more = self.test_images / folds - plan.images_per_chip if folds != plan.folds else 0.0
        again = (self.chip_overhead_images + more) * plan.chips if folds != plan.folds else 0.0
        return (chips - plan.chips) * each + again

    def _numbered(self, plan: Plan, chips: int, folds: int, error: float, last: bool) -> Plan:
        images = self.test_images // folds
        return Plan(chips, folds, images, plan.look + 1, error, plan.remaining - error, last)


def components(correct: Sequence[np.ndarray], folds: int) -> Components:
    """Estimates the three variances from chips that share folds in pairs, by moments.

    Within each fold, the chips x images matrix has the mean squares of a two-way analysis of
    variance (Searle, Casella, McCulloch, "Variance Components" (1992), section 4.5), pooled here
    over folds with two chips or more. Where all answers are alike, the interaction is that of one
    wrong answer among them, so that nothing is planned from a variance of zero.

    Args:
        correct: One boolean vector for each chip, chip k on fold `fold_of(k, folds)`.
        folds: Number of folds.

    Returns:
        The `Components`.
    """
    groups: dict[int, list[np.ndarray]] = {}
    for chip, answers in enumerate(correct):
        groups.setdefault(fold_of(chip, folds), []).append(np.asarray(answers, dtype=np.float64))
    chip_squares = image_squares = residual_squares = 0.0
    chip_df = image_df = residual_df = 0
    answers_seen, weight = 0, 0.0
    for rows in groups.values():
        matrix = np.stack(rows)
        count, size = matrix.shape
        answers_seen += matrix.size
        if count < 2 or size < 2:
            continue
        mean = matrix.mean()
        a = size * float(np.sum((matrix.mean(1) - mean) ** 2))
        b = count * float(np.sum((matrix.mean(0) - mean) ** 2))
        chip_squares += a
        image_squares += b
        residual_squares += float(np.sum((matrix - mean) ** 2)) - a - b
        chip_df += count - 1
        image_df += size - 1
        residual_df += (count - 1) * (size - 1)
        weight += count * (size - 1)
    size = answers_seen / len(correct)
    mean = float(np.mean([np.mean(answers) for answers in correct]))
    alone = min(mean, 1 - mean) or 0.5 / answers_seen
    e = max(residual_squares / residual_df, 0.0) or alone * (1 - alone)
    chips_each = weight / image_df
    return Components(
        max((chip_squares / chip_df - (1 - 1 / folds) * e) / size, 0.0),
        max((image_squares / image_df - e) / chips_each, 0.0),
        e,
        chip_df,
        mean,
    )


def design_variance(found: Components, chips: int, folds: int, test_images: int) -> float:
    """Variance of the mean over this test set for `chips` chips on `folds` folds.

    `m = min(folds, chips / 2)` folds are used: `(1 - m / M) (s_B^2 + s_2^2 m / K) / m + (m / M)
    s_2^2 / K`, with `s_2^2 = s_c^2 + (1 - 1 / M) s_e^2 / n` and `s_B^2 = (1 - 1 / M) s_i^2 / n`,
    the expectation of what `fold_interval` estimates.
    """
    used = min(folds, max(chips // 2, 1))
    left = (1 - 1 / folds) * folds / test_images
    within, between = found.chip + left * found.interaction, left * found.image
    part = used / folds
    return (1 - part) * (between / used + within / chips) + part * within / chips


def chips_needed(found: Components, folds: int, test_images: int, variance: float) -> int:
    """The fewest chips for which `design_variance` is at most `variance`, in whole rotations.

    Returns:
        An even number up to one rotation (`2 * folds`), then a multiple of it; a number above any
        cap where the variance is not positive.
    """
    if variance <= 0:
        return 1 << 62
    left = (1 - 1 / folds) * folds / test_images
    within, between = found.chip + left * found.interaction, left * found.image
    pairs = (between + within / 2) / (variance + between / folds)
    if pairs < folds:
        return 2 * max(math.ceil(pairs), 1)
    return _round_up(math.ceil(within / variance), folds)


def _round_up(chips: int, folds: int) -> int:
    step = 1 if folds == 1 else 2 if chips <= 2 * folds else 2 * folds
    return -(-chips // step) * step


def _whole_rotations(cap: int, folds: int) -> int:
    step = 1 if folds == 1 else 2 if cap < 2 * folds else 2 * folds
    return cap // step * step
