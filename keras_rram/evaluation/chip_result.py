"""The record of one chip: how many answers were right, and on request which.

It is one JSON line with the fields of `ChipResult` (`correctness` is left out where it was not
kept):

    {"index": 3, "fault_rate": 0.1, "achieved_fault_rate": 0.0998, "correct": 871, "total": 1000,
     "fold": 0, "folds": 1, "correctness": "<base64 of numpy.packbits(right per image)>"}
"""

import base64
import csv
import dataclasses
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ChipResult:
    """How one chip did.

    Args:
        index: Index of the chip in its population, at least 0.
        fault_rate: Nominal fault rate in [0, 1].
        achieved_fault_rate: Part of the weights that are faulty on this chip, in [0, 1].
        correct: Number of right answers.
        total: Number of test images that the chip answered, at least 1.
        fold: Which fold of the test images they were, see `stratified_folds`.
        folds: Number of folds that the test set was cut into; 1 is all images.
        correctness: Right or wrong for each image as base64 of `numpy.packbits`, or None. Use
            `from_answers` to make it and `answers` to read it.

    Raises:
        ValueError: For counts, rates or a `correctness` that do not fit together.
    """

    index: int
    fault_rate: float
    achieved_fault_rate: float
    correct: int
    total: int
    fold: int = 0
    folds: int = 1
    correctness: str | None = None

    def __post_init__(self):
        """Checks that the fields fit together."""
        if self.index < 0 or self.total < 1 or not 0 <= self.correct <= self.total:
            raise ValueError(
                "expected index >= 0, total >= 1 and 0 <= correct <= total. Received: "
                f"index={self.index}, correct={self.correct}, total={self.total}"
            )
        if not (0 <= self.fault_rate <= 1 and 0 <= self.achieved_fault_rate <= 1):
            raise ValueError(
                "expected fault rates in [0, 1]. Received: "
                f"fault_rate={self.fault_rate}, achieved_fault_rate={self.achieved_fault_rate}"
            )
        if not 0 <= self.fold < self.folds:
            raise ValueError(
                f"expected 0 <= fold < folds. Received: fold={self.fold}, folds={self.folds}"
            )
        if self.correctness is not None:
            packed = np.frombuffer(base64.b64decode(self.correctness), np.uint8)
            right = int(np.unpackbits(packed, count=min(self.total, 8 * packed.size)).sum())
            if packed.size != -(-self.total // 8) or right != self.correct:
                raise ValueError(
                    f"expected a correctness of {self.total} images, {self.correct} right. "
                    f"Received: {packed.size} bytes, {right} right (use ChipResult.from_answers)"
                )

    @classmethod
    def from_answers(
        cls,
        index: int,
        fault_rate: float,
        achieved_fault_rate: float,
        answers: np.ndarray,
        fold: int = 0,
        folds: int = 1,
        keep: bool = True,
    ) -> "ChipResult":
        """Makes the record of a chip from its right and wrong answers.

        Args:
            index: Index of the chip.
            fault_rate: Nominal fault rate.
            achieved_fault_rate: Part of the weights that are faulty.
            answers: Shape (images,), boolean, in the order of the test set or of the fold.
            fold: Which fold the images are.
            folds: Number of folds.
            keep: Whether to keep the answer to each image, which the two-way interval needs.

        Returns:
            The `ChipResult`.
        """
        answers = np.asarray(answers)
        if answers.ndim != 1 or answers.dtype != np.bool_:
            raise TypeError(
                "expected answers as a boolean vector, one per image. Received: "
                f"dtype={answers.dtype}, shape={answers.shape} (compare predictions with labels)"
            )
        packed = base64.b64encode(np.packbits(answers).tobytes()).decode() if keep else None
        right = int(np.count_nonzero(answers))
        return cls(index, fault_rate, achieved_fault_rate, right, answers.size, fold, folds, packed)

    @property
    def accuracy(self) -> float:
        """Part of the answers that are right, in [0, 1]."""
        return self.correct / self.total

    @property
    def answers(self) -> np.ndarray | None:
        """Right or wrong for each image, shape (total,), boolean; None where it was not kept."""
        if self.correctness is None:
            return None
        packed = np.frombuffer(base64.b64decode(self.correctness), np.uint8)
        return np.unpackbits(packed, count=self.total).astype(bool)

    def to_dict(self) -> dict[str, Any]:
        """Returns the plain fields, `correctness` only where it was kept."""
        fields = dataclasses.asdict(self)
        if self.correctness is None:
            del fields["correctness"]
        return fields

    def to_line(self) -> str:
        """Returns the record as one line of JSON, without the newline."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_line(cls, line: str) -> "ChipResult":
        """Reads a line written by `to_line`.

        Raises:
            ValueError: If it is not such a line, for example one cut short by a killed run.
        """
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"expected one chip as a line of JSON. Received: {line[:80]!r} (a line that was "
                "cut short can be deleted)"
            ) from error
        return cls.from_dict(fields)

    @classmethod
    def from_dict(cls, fields: Any) -> "ChipResult":
        """Makes a record from the fields that `to_dict` returned."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or not names - {"correctness"} <= set(fields) <= names:
            received = sorted(fields) if isinstance(fields, dict) else fields
            raise ValueError(f"expected the fields {sorted(names)}. Received: {received}")
        return cls(**fields)


def chips_csv(chips: Iterable[ChipResult]) -> str:
    """Returns a CSV table of one row per chip: its record without the single answers, accuracy."""
    names = [field.name for field in dataclasses.fields(ChipResult) if field.name != "correctness"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*names, "accuracy"])
    for chip in chips:
        table.writerow([*(getattr(chip, name) for name in names), chip.accuracy])
    return text.getvalue()
