"""The chips of one fault rate: what is missing, and when it is enough."""

import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.engines.protocol import Task
from keras_rram.evaluation.folded import FoldedImages
from keras_rram.evaluation.progress import Progress
from keras_rram.evaluation.run_folder import Records
from keras_rram.evaluation.runner import Runner
from keras_rram.evaluation.statistics.intervals import Interval
from keras_rram.evaluation.statistics.stopping import Done, StopRule
from keras_rram.faults import FaultModel


class RateRun:
    """Evaluates the chips of one fault rate that are not in the records yet.

    Args:
        fault_model: what each chip's faults are drawn from.
        seed: seed of the population.
        indices: indices of the chips; with a rule, at most these.
        images: the folds of the test set.
        rule: when to stop; None evaluates all chips on all images.

    Attributes:
        rate: the fault rate.
        reason: why it ended, in words that can be printed.
        interval: the interval that the rule ended with, or None.
    """

    def __init__(
        self,
        fault_model: FaultModel,
        seed: int,
        indices: range,
        images: FoldedImages,
        rule: StopRule | None = None,
    ):
        self._fault_model, self._seed = fault_model, seed
        self._indices, self._images, self._rule = indices, images, rule
        self.rate = float(fault_model.rate)
        self.reason = "interrupted"
        self.interval: Interval | None = None

    def finish(self, runner: Runner, records: Records, bar: Progress) -> None:
        """Evaluates what is missing, look by look where there is a rule."""
        if self._rule is None:
            self._evaluate(self._indices, 1, runner, records, bar)
            self.reason = f"all {len(self._indices)} chips on all images"
            return
        plan = self._rule.first_plan()
        while True:
            indices = self._indices[: plan.chips]
            self._evaluate(indices, plan.folds, runner, records, bar)
            found = self._rule.next(plan, self._answers(indices, plan.folds, records))
            if isinstance(found, Done):
                self.interval, self.reason = found.interval, found.reason
                return
            plan = found

    def chips(self, records: Records) -> tuple[ChipResult, ...]:
        """Returns the chips' records; those of an interrupted look on their common cut."""
        known = records.chips(self.rate)
        found = [known[index] for index in self._indices if index in known]
        folds = max((chip.folds for chip in found), default=1)
        return tuple(self._images.reduced(chip, folds) for chip in found)

    def _answers(self, indices: range, folds: int, records: Records) -> list[np.ndarray]:
        """Returns the chips' answers as a look saw them, although they may have seen more since."""
        known = records.chips(self.rate)
        reduced = (self._images.reduced(known[index], folds) for index in indices)
        return [chip.answers for chip in reduced if chip.answers is not None]

    def _evaluate(
        self, indices: range, folds: int, runner: Runner, records: Records, bar: Progress
    ) -> None:
        """Evaluates the chips on the images of their folds that they have not yet seen."""
        known = records.chips(self.rate)
        missing = [i for i in indices if i not in known or known[i].folds > folds]
        tasks = [
            Task(
                Chip(self._fault_model, self._seed, index),
                self._images.missing(index, folds, known.get(index)),
            )
            for index in missing
        ]
        bar.start(self.rate, known.values(), len(missing))
        if not missing:
            return
        each = len(self._images.of(missing[0], folds))
        for index, answers in zip(missing, runner.run(tasks, each), strict=True):
            chip = self._images.record(
                index,
                folds,
                known.get(index),
                answers.correct,
                self.rate,
                answers.fault_rate,
            )
            records.add(chip)
            bar.add(chip)
