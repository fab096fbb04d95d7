"""Which images a chip has answered, when it gets a part of them, and more later."""

import numpy as np

from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.statistics.folds import fold_of, stratified_folds


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
        return ChipResult.from_answers(index, fault_rate, achieved, correct, fold, folds)

    def reduced(self, chip: ChipResult, folds: int) -> ChipResult:
        """Returns a chip's record on its fold of a finer cut than it was evaluated on."""
        if chip.folds == folds or chip.answers is None:
            return chip
        own = self.of(chip.index, chip.folds)
        part = chip.answers[np.searchsorted(own, self.of(chip.index, folds))]
        return ChipResult.from_answers(
            chip.index,
            chip.fault_rate,
            chip.achieved_fault_rate,
            part,
            self._fold(chip.index, folds),
            folds,
        )

    def _fold(self, index: int, folds: int) -> int:
        return int(fold_of(index - self._first, folds))
