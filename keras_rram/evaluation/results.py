"""What an evaluation of a population of chips says: its records, its figures, its file.

The file is one JSON object: `schema` ("keras_rram.population/2"), the fields of `PopulationResult`,
and under `chips` a list of the records that `chip_result.py` describes.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from keras_rram.evaluation.chip_result import ChipResult, chips_csv
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
from keras_rram.evaluation.statistics.single_chips import SingleChips, single_chips
from keras_rram.evaluation.statistics.two_way import (
    bootstrap_interval,
    chip_interval,
    two_way,
    two_way_interval,
)
from keras_rram.repair import Tier

SCHEMA = "keras_rram.population/2"


@dataclass(frozen=True)
class PopulationResult:
    """How a population of chips did: the chips' records, what was evaluated, and its statistics.

    Use it to read an evaluation and to write it to a file.

    Args:
        model: Fingerprint of the model's weights and architecture.
        data: Name and fingerprint of the test set.
        fault_model: The fault model at this rate as text, see `keras_rram.faults.text`.
        rate: Nominal fault rate in [0, 1].
        seed: Seed of the population.
        engine: What evaluated it: "keras" or "litert", with its precision.
        fault_free: Accuracy of the model without faults, not repaired, in [0, 1].
        chips: The `ChipResult` of each chip, at least one; sorted by index here.
        repair: What was done to each chip before the evaluation, "none" if nothing.
        access_tier: What the repair knew of a chip: "A", "B" or "C", see `keras_rram.repair.Tier`.
        fault_free_repaired: Accuracy of the model without faults after the repair; None without.
        name: The model's name, for people.
        stop_interval: The interval that a stop rule ended with, which accounts for its looks.
        reason: Why the evaluation ended, in words that can be printed; not compared by `==`.
        interrupted: Whether Ctrl-C ended it before it had all its chips; not compared by `==`.

    Raises:
        ValueError: For no chips, an index that occurs twice, chips on different cuts of the images,
            or a repair without the accuracy that it gives the fault-free model.

    Example:
        >>> chips = [ChipResult(k, 0.1, 0.1, 900 + k, 1000) for k in range(8)]
        >>> faults = "stuck_at_zero:rate=0.1"
        >>> result = PopulationResult("abc", "digits", faults, 0.1, 0, "keras", 0.98, tuple(chips))
        >>> result.mean, result.yield_at(0.905).passed
        (0.9035, 3)
    """

    model: str
    data: str
    fault_model: str
    rate: float
    seed: int
    engine: str
    fault_free: float
    chips: tuple[ChipResult, ...]
    repair: str = "none"
    access_tier: Tier = "A"
    fault_free_repaired: float | None = None
    name: str = ""
    stop_interval: Interval | None = None
    reason: str = field(default="", compare=False)
    interrupted: bool = field(default=False, compare=False)

    def __post_init__(self):
        """Sorts the chips and checks that they are one population."""
        chips = tuple(sorted(self.chips, key=lambda chip: chip.index))
        object.__setattr__(self, "chips", chips)
        if not chips:
            raise ValueError("expected at least one chip. Received: none (evaluate some first)")
        counts = Counter(chip.index for chip in chips)
        if twice := [index for index, count in counts.items() if count > 1]:
            raise ValueError(
                f"expected each chip once. Received: indices {twice[:10]} more than once (keep one "
                "record for each chip)"
            )
        if len(folds := {chip.folds for chip in chips}) > 1:
            raise ValueError(
                f"expected all chips on one cut of the images. Received: folds {sorted(folds)} "
                "(evaluate the chips with fewer images again)"
            )
        repaired = self.fault_free_repaired
        if not all(0 <= value <= 1 for value in (self.rate, self.fault_free, repaired or 0)):
            raise ValueError(
                "expected a fault rate and fault-free accuracies in [0, 1]. Received: "
                f"rate={self.rate}, fault_free={self.fault_free}, fault_free_repaired={repaired}"
            )
        if (self.repair == "none") != (repaired is None):
            raise ValueError(
                "expected fault_free_repaired with a repair and only then. Received: "
                f"repair={self.repair!r}, fault_free_repaired={repaired}"
            )

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
        """Right or wrong, shape (chips, images), boolean; None where it was not kept or shared."""
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
        return (self.fault_free if healthy is None else healthy) - self.mean

    @property
    def raw_sd(self) -> float:
        """Standard deviation of the measured accuracies, at least two chips."""
        self._at_least_two("a standard deviation")
        return float(np.std(self.accuracies, ddof=1))

    @property
    def sd(self) -> float:
        """Standard deviation between chips without the noise of finitely many test images.

        From the matrix of answers by two-way moments (`TwoWay.chip_variance`); from counts with
        the binomial noise removed (`sd_without_binomial_noise`), a lower bound where all chips
        answered the same images.
        """
        self._at_least_two("a standard deviation")
        matrix = self.matrix
        if matrix is not None and matrix.shape[1] > 1:
            return two_way(matrix).chip_variance ** 0.5
        correct, total = self._counts()
        fraction = 1 / self.folds if self.folds > 1 else 0.0
        return sd_without_binomial_noise(correct, total, fraction)

    @property
    def worst(self) -> ChipResult:
        """The chip of the lowest accuracy on the images that it was tested on."""
        self._all_images("the worst chip")
        return min(self.chips, key=lambda chip: chip.accuracy)

    def quantile(self, q: float, images: Images = "new") -> float:
        """A quantile of the accuracy over chips, linear between chips (`numpy.quantile`).

        Args:
            q: The quantile in [0, 1]; 0.05 is the accuracy that 95 percent of the chips exceed.
            images: "new" takes the noise of finitely many images out of the chips' accuracies (see
                `SingleChips`), "test_set" takes them as they were measured.

        Returns:
            The accuracy. `SingleChips.quantile_bound` gives a bound that holds with confidence.

        Raises:
            ValueError: If the chips answered a part of the images only.
        """
        return self.single_chips(images, "a quantile").quantile(q)

    def yield_at(self, threshold: float, confidence: float = 0.95, images: Images = "new") -> Yield:
        """The part of the chips with an accuracy of at least `threshold`.

        Args:
            threshold: Accuracy in [0, 1].
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
        return self.single_chips(images, "yield").yield_at(threshold, confidence)

    def single_chips(self, images: Images = "new", what: str = "single chips") -> SingleChips:
        """Returns what is known of each chip by itself: yield, quantiles and their bounds.

        Args:
            images: "new" or "test_set", as in `yield_at`.
            what: What it is for, for the error.

        Raises:
            ValueError: If the chips answered a part of the images only.
        """
        check_images(images)
        self._all_images(what)
        found = self.__dict__.get(f"_single_{images}")
        if found is None:
            found = single_chips(*self._counts(), self.matrix, images)
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
        are one, and the images alone count.

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
        self._at_least_two("an interval")
        if method not in ("formula", "bootstrap"):
            raise ValueError(
                f"expected method='formula' or method='bootstrap'. Received: method={method!r}"
            )
        if self.stop_interval is not None and method == "formula":
            return self._stop_interval(confidence, images)
        images = images or "new"
        matrix = self.matrix
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
        faultless = self.rate == 0 and not any(chip.achieved_fault_rate for chip in self.chips)
        return faultless and len({(chip.correct, chip.total) for chip in self.chips}) == 1

    def identity(self) -> dict[str, Any]:
        """What was evaluated: all that is not a measurement."""
        names = ("model", "data", "fault_model", "rate", "seed", "engine", "repair")
        return {name: getattr(self, name) for name in names}

    def summary(
        self, confidence: float = 0.95, images: Images | None = None, yield_at: Sequence[float] = ()
    ) -> dict[str, Any]:
        """The figures as a flat dict of plain values, for tables and files.

        Returns:
            `name`, `model`, `data`, `engine`, `fault_model`, `rate`, `seed`, `repair`,
            `access_tier`, `fault_free`, `fault_free_repaired`, `reason`, `interrupted`; `chips`,
            `folds`; `mean`, `drop`; `low`, `high`, `half_width`, `confidence`, `question`, `method`
            of the mean's interval; `raw_sd`, `sd`; `worst` and `worst_chip`, as measured; and for
            the question "new" or "test_set" of `images`, "new" by default: `q05`, `q05_bound` (see
            `SingleChips`), `median`, and for each threshold t of `yield_at`: `yield_t`,
            `yield_t_low`, `yield_t_high`. What the records do not allow (one chip, a part of the
            images, too few chips for the bound) is None.
        """
        several, full = len(self.chips) > 1, self.folds == 1
        if self.stop_interval is not None:
            confidence = self.stop_interval.confidence
        interval = self.mean_interval(confidence, images=images) if several else None
        names = ["name", "model", "data", "engine", "fault_model", "rate", "seed", "repair"]
        names += ["access_tier", "fault_free", "fault_free_repaired", "reason", "interrupted"]
        figures: dict[str, Any] = {name: getattr(self, name) for name in names}
        single = self.single_chips(images or "new") if full else None
        figures |= {
            "chips": len(self.chips),
            "folds": self.folds,
            "mean": self.mean,
            "drop": self.drop,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
            "half_width": interval.half_width if interval else None,
            "confidence": confidence,
            "question": interval.question if interval else None,
            "method": interval.method if interval else None,
            "raw_sd": self.raw_sd if several else None,
            "sd": self.sd if several and min(chip.total for chip in self.chips) > 1 else None,
            "worst": self.worst.accuracy if full else None,
            "worst_chip": self.worst.index if full else None,
            "q05": single.quantile(0.05) if single else None,
            "q05_bound": single.quantile_bound(0.05, confidence) if single else None,
            "median": single.quantile(0.5) if single else None,
        }
        for threshold in yield_at:
            good = single.yield_at(threshold, confidence).interval if single else None
            figures[f"yield_{threshold:g}"] = good.estimate if good else None
            figures[f"yield_{threshold:g}_low"] = good.low if good else None
            figures[f"yield_{threshold:g}_high"] = good.high if good else None
        return figures

    def to_json(self) -> str:
        """Returns the result as a JSON object, see the module's docstring."""
        fields = dataclasses.asdict(self)
        fields["chips"] = [chip.to_dict() for chip in self.chips]
        return json.dumps({"schema": SCHEMA, **fields}, indent=1) + "\n"

    def to_csv(self) -> str:
        """Returns a table of one row per chip: its record without the single answers, accuracy."""
        return chips_csv(self.chips)

    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
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
