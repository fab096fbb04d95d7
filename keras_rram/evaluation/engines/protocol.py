"""What every engine is: chips in, right and wrong answers out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.faults import Fault

QUANTIZATIONS = ("float32", "int8")
"""Numbers that an engine may compute in."""


@dataclass(frozen=True, eq=False)
class Task:
    """One chip to evaluate.

    Attributes:
        chip: the chip; None for the fault-free model.
        images: indices of the test images that it answers; None for all of them.
        repaired: whether the engine's repair is applied, where it has one.
    """

    chip: Chip | None
    images: np.ndarray | None = None
    repaired: bool = True


@dataclass(frozen=True, eq=False)
class Answers:
    """What an engine found out about one chip.

    Attributes:
        correct: boolean array, one entry for each image of the task, in its order; under a measure
            that does not count, floats, or one float for all.
        fault_rate: achieved fault rate over all weights that faults can reach, in `[0, 1]`.
    """

    correct: np.ndarray
    fault_rate: float


class Engine(Protocol):
    """Evaluates chips of one model on one set of test images.

    It can be pickled: that is how processes and other machines get theirs.

    Attributes:
        name: "keras" or "litert".
        group: number of tasks that it likes to get at once.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def group(self) -> int: ...  # noqa: D102

    def answer(self, tasks: Sequence[Task]) -> list[Answers]:
        """Evaluates each task's chip on its images, in order."""
        ...


def achieved_rate(faults: Mapping[str, Fault], weights: int) -> float:
    """Returns the share of faulty weights on a chip; 0 without any weight.

    Args:
        faults: those of the chip, by kernel name; kernels that a measured map leaves out are
            healthy.
        weights: how many weights faults can reach, see `faulty_weights`.
    """
    faulty = sum(int(np.count_nonzero(fault.faulty)) for fault in faults.values())
    return faulty / weights if weights else 0.0
