"""The record of one chip: how many answers were right, and on request which; or its score.

It is one JSON line with the fields of `ChipResult`; those that are optional are left out where they
are empty:

    {"index": 3, "fault_rate": 0.1, "achieved_fault_rate": 0.0998, "correct": 871, "total": 1000,
     "fold": 0, "folds": 1, "correctness": "<base64 of numpy.packbits(right per image)>",
     "digest": "<SHA-256 of the rest, see keras_rram.files.records>"}

Under a measure that does not count, `correct` is null, `score` is its value, and `scores` are those
of the images as base64 of little-endian float32, where it is their mean. `name` is that of a chip
that has one.
"""

import base64
import csv
import dataclasses
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_rram.files.schemas import CHIP_LINE

_ANSWERS = {"correctness", "scores"}
_OPTIONAL = {*_ANSWERS, "name", "score"}


@dataclass(frozen=True)
class ChipResult:
    """How one chip did.

    Args:
        index: Index of the chip in its population, at least 0.
        fault_rate: Nominal fault rate in [0, 1].
        achieved_fault_rate: Part of the weights that are faulty on this chip, in [0, 1].
        correct: Number of right answers; None under a measure that does not count.
        total: Number of test images that the chip answered, at least 1.
        fold: Which fold of the test images they were, see `stratified_folds`.
        folds: Number of folds that the test set was cut into; 1 is all images.
        correctness: Right or wrong for each image as base64 of `numpy.packbits`, or None. Use
            `from_answers` to make it and `answers` to read it.
        name: Name of the chip, such as that of its file; empty for one without.
        score: What the measure says of the chip, where it does not count right answers.
        scores: The score of each image as base64 of float32, or None.

    Raises:
        ValueError: For counts, rates or a `correctness` that do not fit together.
    """

    index: int
    fault_rate: float
    achieved_fault_rate: float
    correct: int | None
    total: int
    fold: int = 0
    folds: int = 1
    correctness: str | None = field(default=None, repr=False)
    name: str = ""
    score: float | None = None
    scores: str | None = field(default=None, repr=False)

    def __post_init__(self):
        """Checks that the fields fit together."""
        counts = self.correct is not None and 0 <= self.correct <= self.total
        if self.index < 0 or self.total < 1 or counts == (self.score is not None):
            raise ValueError(
                "expected index >= 0, total >= 1, and 0 <= correct <= total or a score. Received: "
                f"index={self.index}, correct={self.correct}, total={self.total}, "
                f"score={self.score}"
            )
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"expected a score that is a number. Received: score={self.score}")
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
        name: str = "",
        images: int | None = None,
    ) -> "ChipResult":
        """Makes the record of a chip from its right and wrong answers, or its scores.

        Args:
            index: Index of the chip.
            fault_rate: Nominal fault rate.
            achieved_fault_rate: Part of the weights that are faulty.
            answers: Shape (images,), boolean or floats, in the order of the test set or of the
                fold; or one float, the score of all `images`.
            fold: Which fold the images are.
            folds: Number of folds.
            keep: Whether to keep the answer to each image, which the two-way interval needs.
            name: Name of the chip.
            images: Number of test images, where `answers` is one float.

        Returns:
            The `ChipResult`.
        """
        answers = np.asarray(answers)
        is_score = answers.dtype.kind == "f" and (answers.ndim == 1 or images is not None)
        if not is_score and (answers.ndim != 1 or answers.dtype != np.bool_):
            raise TypeError(
                "expected answers as a boolean vector, one per image, or floats. Received: "
                f"dtype={answers.dtype}, shape={answers.shape} (compare predictions with labels)"
            )
        known = index, fault_rate, achieved_fault_rate
        if is_score:
            held = answers.astype("<f4")
            packed = base64.b64encode(held.tobytes()).decode() if keep and held.ndim else None
            total = held.size if held.ndim else images or 1
            score = float(np.mean(held if held.ndim else answers, dtype=np.float64))
            return cls(*known, None, total, fold, folds, None, name, score, packed)
        packed = base64.b64encode(np.packbits(answers).tobytes()).decode() if keep else None
        right = int(np.count_nonzero(answers))
        return cls(*known, right, answers.size, fold, folds, packed, name)

    @property
    def accuracy(self) -> float:
        """Part of the answers that are right, in [0, 1]; under another measure the score."""
        return self.correct / self.total if self.score is None else self.score  # type: ignore[operator]

    @property
    def answers(self) -> np.ndarray | None:
        """Right or wrong for each image, shape (total,), boolean; None where it was not kept.

        Under a measure that does not count, its score for each image, floats.
        """
        if self.scores is not None:
            return np.frombuffer(base64.b64decode(self.scores), "<f4").astype(np.float32)
        if self.correctness is None:
            return None
        packed = np.frombuffer(base64.b64decode(self.correctness), np.uint8)
        return np.unpackbits(packed, count=self.total).astype(bool)

    def to_dict(self) -> dict[str, Any]:
        """Returns the plain fields, the optional ones only where they hold something."""
        fields = dataclasses.asdict(self)
        return {k: v for k, v in fields.items() if k not in _OPTIONAL or v not in (None, "")}

    def to_line(self) -> str:
        """Returns the record as one line of JSON with its digest, without the newline."""
        return CHIP_LINE.line(self.to_dict()).rstrip("\n")

    @classmethod
    def from_line(cls, line: str) -> "ChipResult":
        """Reads a line written by `to_line`.

        Raises:
            ValueError: If it is not such a line, for example one cut short by a killed run.
        """
        return cls.from_dict(CHIP_LINE.parse(line, "a line of text", is_sealed=False))

    @classmethod
    def from_dict(cls, fields: Any) -> "ChipResult":
        """Makes a record from the fields that `to_dict` returned."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or not names - _OPTIONAL <= set(fields) <= names:
            received = sorted(fields) if isinstance(fields, dict) else fields
            raise ValueError(f"expected the fields {sorted(names)}. Received: {received}")
        return cls(**fields)


def chip_rows(chips: Iterable[ChipResult]) -> list[dict[str, Any]]:
    """Returns a row for each chip: its record without the single answers, and its accuracy.

    Columns that are empty for all chips, such as their names, are left out.
    """
    rows = []
    for chip in chips:
        fields = {k: v for k, v in dataclasses.asdict(chip).items() if k not in _ANSWERS}
        rows.append({**fields, "accuracy": chip.accuracy})
    empty = {k for k in _OPTIONAL - _ANSWERS if all(row[k] in (None, "") for row in rows)}
    return [{k: v for k, v in row.items() if k not in empty} for row in rows]


def chips_csv(chips: Iterable[ChipResult]) -> str:
    """Returns a CSV table of one row per chip: its record without the single answers, accuracy."""
    rows = chip_rows(chips)
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
