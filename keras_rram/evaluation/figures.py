"""What the records of a population say: mean, spread, intervals, yield."""

from dataclasses import replace
from typing import Literal

import numpy as np

from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.statistics.folds import fold_interval
from keras_rram.evaluation.statistics.intervals import (
    QUESTIONS,
    Images,
    Interval,
    Yield,
    check_images,
    one_chip_interval,
    sd_without_binomial_noise,
)
from keras_rram.evaluation.statistics.scores import chip_sd, score_interval, single_scores
from keras_rram.evaluation.statistics.single_chips import SingleChips, single_chips
from keras_rram.evaluation.statistics.two_way import (
    bootstrap_interval,
    chip_interval,
    two_way,
    two_way_interval,
)


class Figures:
    """The figures of a `PopulationResult`, which has the records that they are made of."""

    rate: float
    fault_free: float
    fault_free_repaired: float | None
    chips: tuple[ChipResult, ...]
    stop_interval: Interval | None
    measure: str
    higher_is_better: bool

    @property
    def has_interval(self) -> bool:
        """Whether there are chips enough for an interval of the mean."""
        return len(self.chips) > 1 or self.stop_interval is not None or self._is_one_chip()

    @property
    def is_counted(self) -> bool:
        """Whether the measure counts right answers, so that it is a share in [0, 1]."""
        return self.chips[0].score is None

    @property
    def accuracies(self) -> np.ndarray:
        """Accuracy of each chip, shape (chips,), in the order of the indices."""
        return np.array([chip.accuracy for chip in self.chips])

    @property
    def indices(self) -> tuple[int, ...]:
        """Index of each chip, ascending."""
        return tuple(chip.index for chip in self.chips)

    @property
    def folds(self) -> int:
        """Number of folds that the test set was cut into; 1 if every chip answered all images."""
        return self.chips[0].folds

    @property
    def matrix(self) -> np.ndarray | None:
        """Right or wrong, shape (chips, images), boolean; None where it was not kept or shared.

        Under a measure that does not count, the scores of the images, floats.
        """
        rows = [chip.answers for chip in self.chips]
        if self.folds > 1 or any(row is None for row in rows):
            return None
        if len({len(row) for row in rows if row is not None}) > 1:
            return None
        return np.stack([row for row in rows if row is not None])

    @property
    def mean(self) -> float:
        """Mean accuracy over chips; on folds of images, the mean of the folds' means."""
        fold_ids = np.array([chip.fold for chip in self.chips])
        used = np.unique(fold_ids)
        return float(np.mean([self.accuracies[fold_ids == fold].mean() for fold in used]))

    @property
    def drop(self) -> float:
        """Accuracy that the faults cost: fault-free accuracy minus the mean.

        Where chips are repaired, so is the fault-free model: `fault_free_repaired` minus the mean.
        """
        healthy = self.fault_free_repaired
        lost = (self.fault_free if healthy is None else healthy) - self.mean
        return lost if self.higher_is_better else -lost

    @property
    def raw_sd(self) -> float:
        """Standard deviation of the measured accuracies, at least two chips."""
        self._at_least_two("a standard deviation")
        return float(np.std(self.accuracies, ddof=1))

    @property
    def sd(self) -> float:
        """Standard deviation between chips without the noise of finitely many test images.

        From the matrix of answers by two-way moments (`TwoWay.chip_variance`), as measured where a
        measure says one number of each chip; from counts with
        the binomial noise removed (`sd_without_binomial_noise`), a lower bound where all chips
        answered the same images.
        """
        self._at_least_two("a standard deviation")
        matrix = self.matrix
        if matrix is not None and matrix.shape[1] > 1:
            return two_way(matrix).chip_variance ** 0.5 if self.is_counted else chip_sd(matrix)
        if not self.is_counted:
            return self.raw_sd
        correct, total = self._counts()
        fraction = 1 / self.folds if self.folds > 1 else 0.0
        return sd_without_binomial_noise(correct, total, fraction)

    @property
    def worst(self) -> ChipResult:
        """The chip of the lowest accuracy (the worst score) on the images it was tested on."""
        self._all_images("the worst chip")
        worst = min if self.higher_is_better else max
        return worst(self.chips, key=lambda chip: chip.accuracy)

    def quantile(self, q: float, images: Images = "new") -> float:
        """A quantile of the accuracy over chips, linear between chips (`numpy.quantile`).

        Args:
            q: The quantile in [0, 1], from the worst; 0.05 is what 95 percent of the chips exceed.
            images: "new" takes the noise of finitely many images out of the chips' accuracies (see
                `SingleChips`), "test_set" takes them as they were measured.

        Returns:
            The accuracy. `SingleChips.quantile_bound` gives a bound that holds with confidence.

        Raises:
            ValueError: If the chips answered a part of the images only.
        """
        return self._sign * self.single_chips(images, "a quantile").quantile(q)

    def yield_at(self, threshold: float, confidence: float = 0.95, images: Images = "new") -> Yield:
        """The part of the chips with an accuracy of at least `threshold`.

        Args:
            threshold: Accuracy in [0, 1]; a score, of at most which a chip is good where lower is
                better.
            confidence: Confidence level in (0, 1).
            images: "new" asks about the accuracy on all images that could be drawn: the noise of
                the tested ones is taken out, and the interval counts it (see `SingleChips`).
                "test_set" asks about exactly these images: Wilson's interval of the chips that
                passed.

        Returns:
            The `Yield`.

        Raises:
            ValueError: If the chips answered a part of the images only, or for values out of range.
        """
        found = self.single_chips(images, "yield")
        if self.is_counted and not 0 <= threshold <= 1:
            raise ValueError(
                f"expected a threshold in [0, 1]. Received: threshold={threshold} (90 percent is "
                "0.9)"
            )
        return replace(found.yield_at(self._sign * threshold, confidence), threshold=threshold)

    @property
    def _sign(self) -> float:
        return 1.0 if self.higher_is_better else -1.0

    def single_chips(self, images: Images = "new", what: str = "single chips") -> SingleChips:
        """Returns what is known of each chip by itself: yield, quantiles and their bounds.

        Scores of which lower ones are better are negated there.

        Args:
            images: "new" or "test_set", as in `yield_at`.
            what: What it is for, for the error.

        Raises:
            ValueError: If the chips answered a part of the images only.
        """
        check_images(images)
        self._all_images(what)
        found = self.__dict__.get(f"_single_{images}")
        if found is None and self.is_counted:
            found = single_chips(*self._counts(), self.matrix, images)
        elif found is None:
            found = single_scores(self._sign * self.accuracies, self.matrix, images)
        if f"_single_{images}" not in self.__dict__:
            # Kept: a yield curve asks for it at hundreds of thresholds.
            object.__setattr__(self, f"_single_{images}", found)
        return found

    def mean_interval(
        self,
        confidence: float = 0.95,
        method: Literal["formula", "bootstrap"] = "formula",
        images: Images | None = None,
        rng: np.random.Generator | None = None,
    ) -> Interval:
        """Confidence interval of the mean accuracy, honest about chips and images.

        The best that the records allow: `two_way_interval` where each answer was kept;
        `chip_interval` from counts, with an upper bound of the image term; `fold_interval` where
        each chip answered a fold (for `images="new"` with the same upper bound). After a stop rule
        its own interval, for its own question only. Where no chip has a fault (rate 0) the chips
        are one, and the images alone count. Of scores, that of their mean: two-way where each image
        has one, else over chips, which says nothing of new images.

        Args:
            confidence: Confidence level in (0, 1).
            method: "formula", or "bootstrap" (needs each answer to all images).
            images: "new" takes the test images for a sample, "test_set" asks about these images.
                None: as the stop rule asked, or "new" without one.
            rng: Generator of the bootstrap.

        Returns:
            The `Interval`; its `question` says what it is about, its `method` how it was computed.

        Raises:
            ValueError: For fewer than two chips, a method that the records do not allow, or a
                question or confidence other than those of the stop rule.
        """
        if images is not None:
            check_images(images)
        if method not in ("formula", "bootstrap"):
            raise ValueError(
                f"expected method='formula' or method='bootstrap'. Received: method={method!r}"
            )
        if self.stop_interval is not None and method == "formula":
            return self._stop_interval(confidence, images)
        if not self._is_one_chip() or method == "bootstrap":
            self._at_least_two("an interval")
        matrix = self.matrix
        if not self.is_counted and method == "formula":
            return score_interval(self.accuracies, matrix, confidence, images)
        images = images or "new"
        if method == "bootstrap":
            if matrix is None or rng is None:
                raise ValueError(
                    "expected the answers of each chip to all images, and rng=. Received: "
                    f"answers kept: {matrix is not None}, rng={rng} (use method='formula')"
                )
            return bootstrap_interval(matrix, rng, confidence, images)
        correct, total = self._counts()
        if self.folds == 1 and self._is_one_chip():
            return one_chip_interval(int(correct[0]), int(total[0]), confidence, images)
        if matrix is not None and matrix.shape[1] > 1:
            return two_way_interval(matrix, confidence, images)
        if self.folds == 1:
            return chip_interval(correct, total, confidence, images)
        size, mean = int(total.min()), self.mean
        term = mean * (1 - mean) / (size * self.folds) if images == "new" else None
        fold_ids = np.array([chip.fold for chip in self.chips])
        return fold_interval(self.accuracies, fold_ids, self.folds, size, confidence, term)

    def _stop_interval(self, confidence: float, images: Images | None) -> Interval:
        """Returns the stop rule's interval, if it answers what is asked."""
        found = self.stop_interval
        if found is None or confidence != found.confidence:
            raise ValueError(
                f"expected the confidence of the stop rule, {found and found.confidence}. "
                f"Received: confidence={confidence} (its looks were paid for at that level)"
            )
        if images is not None and QUESTIONS[images] != found.question:
            raise ValueError(
                f"expected the question of the stop rule, {found.question!r}. Received: "
                f"images={images!r} (give the rule that question, or evaluate without one)"
            )
        return found

    def _is_one_chip(self) -> bool:
        """Whether no chip has a fault and all agree, so that they are one."""
        faultless = (
            self.is_counted
            and self.rate == 0
            and not any(chip.achieved_fault_rate for chip in self.chips)
        )
        return faultless and len({(chip.correct, chip.total) for chip in self.chips}) == 1

    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        if not self.is_counted:
            raise ValueError(
                f"expected counts of right answers. Received: scores ({self.measure}), which have "
                "means only"
            )
        counts = np.array([(chip.correct, chip.total) for chip in self.chips])
        return counts[:, 0], counts[:, 1]

    def _at_least_two(self, what: str) -> None:
        if len(self.chips) < 2:
            raise ValueError(f"expected at least 2 chips for {what}. Received: one (evaluate more)")

    def _all_images(self, what: str) -> None:
        if self.folds > 1:
            raise ValueError(
                f"expected chips that answered all images, for {what}. Received: chips on one of "
                f"{self.folds} folds each (evaluate in full, without target_half_width)"
            )
