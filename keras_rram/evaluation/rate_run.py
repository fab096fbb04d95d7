"""The chips of one fault rate: which images each answers, what is missing, when it is enough."""

import dataclasses

import numpy as np

from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.chip_source import ChipSource
from keras_rram.evaluation.engines.choose import RunEngine
from keras_rram.evaluation.engines.protocol import Task
from keras_rram.evaluation.progress import Progress
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.run_folder import Records
from keras_rram.evaluation.statistics.folds import fold_of, stratified_folds
from keras_rram.evaluation.statistics.intervals import Interval, one_chip_interval
from keras_rram.evaluation.statistics.stopping import Done, Looks


class FoldedImages:
    """The folds of a test set, on several cuts at once: those of a coarser cut join finer ones.

    Args:
        labels: integer classes `(n,)`.
        fault_free: whether the healthy model is right on each image. What it gets wrong is a
            stratum of its own.
        seed: seed of the order within the strata.
        first: index of the first chip, which answers fold 0.
    """

    def __init__(self, labels: np.ndarray, fault_free: np.ndarray, seed: int, first: int = 0):
        self._strata = 2 * np.asarray(labels, np.int64) + fault_free
        self._seed, self._first = seed, first
        self._cuts: dict[int, list[np.ndarray]] = {}

    def of(self, index: int, folds: int) -> np.ndarray:
        """Returns the indices of the images that chip `index` answers on a cut, ascending."""
        if folds not in self._cuts:
            size = len(self._strata) // folds
            self._cuts[folds] = stratified_folds(self._strata, size, self._seed)
        return self._cuts[folds][self._fold(index, folds)]

    def missing(self, index: int, folds: int, known: ChipResult | None) -> np.ndarray | None:
        """Returns the images of a cut that a chip has not yet answered; None for all there are."""
        if known is None:
            return None if folds == 1 else self.of(index, folds)
        return np.setdiff1d(self.of(index, folds), self.of(index, known.folds))

    def record(
        self,
        index: int,
        folds: int,
        known: ChipResult | None,
        correct: np.ndarray,
        fault_rate: float,
        achieved: float,
    ) -> ChipResult:
        """Returns the record of a chip from its answers to the missing images and those before."""
        if known is not None and known.answers is not None:
            everything = np.zeros(len(self._strata), bool)
            everything[self.of(index, known.folds)] = known.answers
            everything[self.missing(index, folds, known)] = correct
            correct = everything[self.of(index, folds)]
        fold = self._fold(index, folds)
        return ChipResult.from_answers(
            index, fault_rate, achieved, correct, fold, folds, images=len(self._strata)
        )

    def reduced(self, chip: ChipResult, folds: int) -> ChipResult:
        """Returns a chip's record on its fold of a finer cut than it was evaluated on."""
        if chip.folds == folds or chip.answers is None:
            return chip
        own = self.of(chip.index, chip.folds)
        part = chip.answers[np.searchsorted(own, self.of(chip.index, folds))]
        fold = self._fold(chip.index, folds)
        rates = chip.fault_rate, chip.achieved_fault_rate
        return ChipResult.from_answers(chip.index, *rates, part, fold, folds, name=chip.name)

    def _fold(self, index: int, folds: int) -> int:
        return int(fold_of(index - self._first, folds))


class RateRun:
    """Evaluates the chips of one fault rate that are not in the records yet.

    Args:
        source: the chips; with a rule, at most these.
        images: the folds of the test set.
        looks: when to stop; None evaluates all chips on all images.
        is_faultless: whether the chips are all equal by construction: with a rule, one is enough.
    """

    def __init__(
        self,
        source: ChipSource,
        images: FoldedImages,
        looks: Looks | None = None,
        is_faultless: bool = False,
    ):
        self._source, self._images, self._looks = source, images, looks
        self._indices, self._rate = source.indices, source.rate
        self._is_faultless = is_faultless and looks is not None
        if self._is_faultless:
            self._indices = self._indices[:1]
        self._reason: str | None = None
        self._interval: Interval | None = None

    def finish(self, engine: RunEngine, records: Records, bar: Progress) -> None:
        """Evaluates what is missing, look by look where there is a rule."""
        if self._looks is None:
            self._evaluate(self._indices, 1, engine, records, bar)
            self._reason = f"all {len(self._indices)} chips on all images"
            return
        if self._is_faultless:
            self._evaluate(self._indices, 1, engine, records, bar)
            self._reason = "no chip has a fault, so one is all of them"
            (chip,) = self.chips(records)
            rule = self._looks.rule
            self._interval = one_chip_interval(
                chip.correct or 0, chip.total, rule.confidence, rule.images
            )
            return
        plan = self._looks.first_plan()
        while True:
            indices = self._indices[: plan.chips]
            self._evaluate(indices, plan.folds, engine, records, bar)
            found = self._looks.next(plan, self._answers(indices, plan.folds, records))
            if isinstance(found, Done):
                self._interval, self._reason = found.interval, found.reason
                return
            plan = found

    def chips(self, records: Records) -> tuple[ChipResult, ...]:
        """Returns the chips' records; those of an interrupted look on their common cut."""
        known = records.chips(self._rate)
        found = [known[index] for index in self._indices if index in known]
        folds = max((chip.folds for chip in found), default=1)
        return tuple(self._images.reduced(chip, folds) for chip in found)

    def result(self, records: Records) -> PopulationResult:
        """Returns what there is, finished or interrupted."""
        return records.result(self._rate, self.chips(records), self._interval, self._reason)

    def _answers(self, indices: range, folds: int, records: Records) -> list[np.ndarray]:
        """Returns the chips' answers as a look saw them, although they may have seen more since."""
        known = records.chips(self._rate)
        reduced = (self._images.reduced(known[index], folds) for index in indices)
        return [chip.answers for chip in reduced if chip.answers is not None]

    def _evaluate(
        self, indices: range, folds: int, engine: RunEngine, records: Records, bar: Progress
    ) -> None:
        """Evaluates the chips on the images of their folds that they have not yet seen."""
        known, images = records.chips(self._rate), self._images
        missing = [i for i in indices if i not in known or known[i].folds > folds]
        tasks = [
            Task(
                self._source.chip(index),
                images.missing(index, folds, known.get(index)),
            )
            for index in missing
        ]
        bar.start(self._rate, known.values(), len(missing))
        if not tasks:
            return  # and opens no engine
        for index, answers in zip(missing, engine.answer(tasks), strict=True):
            before, achieved = known.get(index), answers.fault_rate
            chip = images.record(index, folds, before, answers.correct, self._rate, achieved)
            chip = dataclasses.replace(chip, name=self._source.chip(index).name)
            records.add(chip)
            bar.add(chip)
