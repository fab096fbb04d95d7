"""When to stop: chips and images are spent where they narrow the interval of the mean most.

A pilot of a few chips on a few images each estimates three variances: between chips (s_c^2),
between images (s_i^2), and their interaction (s_e^2). On M folds of n = N / M images (`folds.py`),
K chips that use all folds equally often give `Var(mean) = (s_c^2 + (1 - 1 / M) s_e^2 / n) / K`; the
rule takes the cheapest (K, M) that reaches the wanted half-width, where a chip costs as much as
`chip_overhead_images + n` images. With no overhead and no cap that is
`n = sqrt(chip_overhead_images * s_e^2 / s_c^2)` (Cochran, "Sampling Techniques" (1977), section
10.6). The rule then looks again, and goes on where the interval is still too wide.

Variances from a pilot are rough, so one look adds at most three times the chips that there are: a
survey, if the target needs more than that.

Looking more than once is paid for by spending the error probability over the looks (Lan and DeMets,
Biometrika 70 (1983) 659): of what is left, 5 percent at a pilot or survey, three quarters at a look
that should reach the target, and all of it at a last look. Each share is fixed before its look, so
by the union bound the interval misses with at most `1 - confidence`, whenever the rule stops; each
interval is that of `fold_interval`. Chips that are all alike do not end it by a width of zero:
their interval is that of a share that may be broken and was not met yet. The sizes of later looks
depend on variances alone, as in Stein's two-stage procedure (Ann. Math. Stat. 16 (1945) 243). Where
accuracies are skewed, mean and variance are correlated and stopping biases the mean a little:
simulated, up to a tenth of the half-width, with coverage still 95 percent.

This is a rule for the mean. Quantiles, the worst chip and yield are about single chips, each of
which then needs all images; `smallest_population` says how many chips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from keras_rram.evaluation.statistics.design import (
    Components,
    chips_needed,
    components,
    design_variance,
)
from keras_rram.evaluation.statistics.folds import fold_interval, fold_of, power_of_two
from keras_rram.evaluation.statistics.intervals import (
    Images,
    Interval,
    check_confidence,
    check_images,
)

SURVEY_SHARE = 0.05  # of the error probability that is left, where reaching the target is unlikely
LOOK_SHARE = 0.75  # where the target should be reached
SURVEY_GROWTH = 4  # times the chips so far
LEAST_GROWTH = 1.1  # the same, so that looks do not crawl
MARGIN = 1.1  # on the variance that a design is planned for
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
class StopRule:
    """Stops when the interval of the mean accuracy is narrow enough; frozen and without state.

    Use it to evaluate a population to a wanted precision. The cap on chips and the test set are
    those of the evaluation, see `looks`.

    Args:
        target_half_width: Half-width of the interval of the mean accuracy to reach, in (0, 0.5).
        max_images: Cap on all answers, over all chips; None for all chips on all images.
        confidence: Confidence level in (0, 1).
        images: "test_set" asks what evaluating every chip on the whole test set would give, "new"
            adds the error of the test set being a sample itself, which no rule can reduce.
        chip_overhead_images: Cost of programming one chip, in images.
        pilot_chips: Chips of the first look, at least 4.
        pilot_images: Images per chip of the first look, at least.

    Raises:
        ValueError: For values out of range.
    """

    target_half_width: float
    max_images: int | None = None
    confidence: float = 0.95
    images: Images = "test_set"
    chip_overhead_images: float = 50.0
    pilot_chips: int = 16
    pilot_images: int = 128

    def __post_init__(self):
        """Checks the ranges."""
        check_confidence(self.confidence)
        check_images(self.images)
        if not 0 < self.target_half_width < 0.5:
            raise ValueError(
                "expected a target_half_width between 0 and 0.5. Received: "
                f"target_half_width={self.target_half_width} (half a percent is 0.005)"
            )
        if self.pilot_chips < 4 or self.pilot_images < 2 or not self.chip_overhead_images >= 0:
            raise ValueError(
                "expected pilot_chips >= 4, pilot_images >= 2 and chip_overhead_images >= 0 (fewer "
                f"say nothing about the spread). Received: pilot_chips={self.pilot_chips}, "
                f"pilot_images={self.pilot_images}, "
                f"chip_overhead_images={self.chip_overhead_images}"
            )

    def looks(self, max_chips: int, test_images: int) -> "Looks":
        """Returns the rule's looks at a population of at most `max_chips` chips."""
        return Looks(self, max_chips, test_images)


@dataclass(frozen=True)
class Looks:
    """A stop rule at work on one population: says what to evaluate next, and when it is enough.

    Start with `first_plan()`, evaluate what the plan says, call `next` with the answers, until it
    returns `Done`. The same answers always give the same plans, so a resumed run can replay them.

    Args:
        rule: The `StopRule`.
        max_chips: Cap on the number of chips, at least 4.
        test_images: Images in the test set, at least 2.

    Raises:
        ValueError: For values out of range, or where `rule.max_images` does not allow the pilot.

    Example:
        >>> StopRule(0.005).looks(max_chips=400, test_images=10_000).first_plan()
        Plan(chips=16, folds=64, images_per_chip=156, look=1, ...)
    """

    rule: StopRule
    max_chips: int
    test_images: int

    def __post_init__(self):
        """Checks that the pilot fits."""
        for name, least in (("max_chips", 4), ("test_images", 2)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"expected {name} >= {least} with a stop rule. Received: "
                    f"{name}={getattr(self, name)} (fewer say nothing about the spread)"
                )
        pilot = self.first_plan()
        least = pilot.chips * math.ceil(self.test_images / pilot.folds)
        if least > self._images_cap:
            raise ValueError(
                f"expected max_images >= {least}, what the pilot takes. Received: "
                f"max_images={self.rule.max_images} (raise it or lower pilot_images)"
            )

    @property
    def _images_cap(self) -> int:
        everything = self.max_chips * self.test_images
        return everything if self.rule.max_images is None else self.rule.max_images

    def first_plan(self) -> Plan:
        """Returns the pilot: few chips, few images each."""
        chips = min(self.rule.pilot_chips, self.max_chips) // 2 * 2
        folds = power_of_two(self.test_images // min(self.rule.pilot_images, self.test_images))
        alpha = 1 - self.rule.confidence
        error = SURVEY_SHARE * alpha
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
            self._image_term(found) if self.rule.images == "new" else None,
        )
        interval = replace(
            interval,
            confidence=self.rule.confidence,
            method=f"{interval.method}, look {plan.look} at error {plan.error:.4f}",
        )
        if interval.df is None:
            # Chips that are all alike: planned as if the next one were broken.
            found = replace(found, chip=1 / plan.chips)
        spent = sum(len(answers) for answers in correct)
        if interval.half_width <= self.rule.target_half_width:
            reason = f"half-width {interval.half_width:.5f} reached"
            return Done(True, reason, interval, plan.chips, plan.folds, spent)
        following = None if plan.last else self._plan(plan, found)
        if following is None:
            reason = (
                f"half-width {interval.half_width:.5f} is what the caps on chips "
                f"({self.max_chips}) and images ({self._images_cap}) allow"
            )
            if self.rule.images == "new":
                share = self._image_term(found) ** 0.5
                reason += f"; {self.test_images} test images alone leave a deviation of {share:.5f}"
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
        return found.image / self.test_images if self.rule.images == "new" else 0.0

    def _plan(self, plan: Plan, found: Components) -> Plan | None:
        """The cheapest design that should reach the target, else the best within the caps."""
        error = LOOK_SHARE * plan.remaining
        quantile = float(stats.t.ppf(1 - error / 2, plan.chips))
        wanted = (self.rule.target_half_width / quantile) ** 2 / MARGIN - self._image_term(found)
        options = [folds for folds in _halvings(plan.folds) if self._cap(folds) >= plan.chips]
        # Folds that were joined cannot be parted again: join them on a cautious estimate only.
        size = self.test_images / plan.folds
        doubt = math.sqrt(2 / found.df) * (found.chip + found.interaction / size)
        cautious = replace(found, chip=found.chip + doubt)
        for guess in (cautious, found):
            needs = {folds: self._chips(guess, folds, wanted, plan) for folds in options}
            reach = [folds for folds in options if needs[folds] <= self._cap(folds)]
            if reach:
                folds = min(reach, key=lambda f: self._cost(plan, needs[f], f))
                chips = self._chips(found, folds, wanted, plan)
                break
        else:
            folds, chips = self._best(plan, found, options)
        survey = min(SURVEY_GROWTH * plan.chips, self._cap(plan.folds))
        rough = plan.look == 1 and (folds < plan.folds or not reach)
        if survey > plan.chips and (rough or reach and chips > SURVEY_GROWTH * plan.chips):
            if survey < self._cap(plan.folds):  # otherwise it may turn out to be all there is
                error = SURVEY_SHARE * plan.remaining
            return self._numbered(plan, survey, plan.folds, error, False)
        if reach:
            return self._numbered(plan, chips, folds, error, False)
        if (chips, folds) == (plan.chips, plan.folds):
            return None
        return self._numbered(plan, chips, folds, plan.remaining, True)

    def _cap(self, folds: int) -> int:
        """The most chips on this many folds: whole pairs, unless all see all images."""
        cap = min(self.max_chips, self._images_cap // math.ceil(self.test_images / folds))
        return cap if folds == 1 else cap // 2 * 2

    def _chips(self, found: Components, folds: int, wanted: float, plan: Plan) -> int:
        least = LEAST_GROWTH * plan.chips if folds == plan.folds else plan.chips
        return max(
            chips_needed(found, folds, self.test_images, wanted, self._cap(folds)),
            math.ceil(least / 2) * 2 if folds > 1 else math.ceil(least),
        )

    def _best(self, plan: Plan, found: Components, options: list[int]) -> tuple[int, int]:
        """Folds and chips of the cheapest design that is about as good as the best."""
        variances = {
            folds: design_variance(found, self._cap(folds), folds, self.test_images)
            for folds in options
        }
        limit = AS_GOOD * min(variances.values())
        good = [folds for folds in options if variances[folds] <= limit]
        folds = min(good, key=lambda f: self._cost(plan, self._cap(f), f))
        return folds, self._cap(folds)

    def _cost(self, plan: Plan, chips: int, folds: int) -> float:
        """Cost of going on, in images: a chip that gets more images is programmed again."""
        each = self.rule.chip_overhead_images + self.test_images / folds
        again = 0.0 if folds == plan.folds else plan.chips * (each - plan.images_per_chip)
        return (chips - plan.chips) * each + again

    def _numbered(self, plan: Plan, chips: int, folds: int, error: float, last: bool) -> Plan:
        images = self.test_images // folds
        return Plan(chips, folds, images, plan.look + 1, error, plan.remaining - error, last)


def _halvings(folds: int) -> list[int]:
    return [folds >> power for power in range(folds.bit_length())]
