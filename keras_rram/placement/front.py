"""Pareto fronts of accuracy against the share of work on faulty hardware."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_rram.evaluation.statistics.intervals import Interval


@dataclass(frozen=True)
class FrontPoint:
    """One placement, or one whole model, and how it did.

    Attributes:
        name: what it is called.
        share: share of the work on faulty hardware, in `[0, 1]`.
        accuracy: mean accuracy over chips, with its interval.
        layers: the layers on faulty hardware.
        accuracies: accuracy of each chip, for paired comparisons.
    """

    name: str
    share: float
    accuracy: Interval
    layers: tuple[str, ...] = ()
    accuracies: tuple[float, ...] = field(default=(), repr=False)


def pareto(points: Iterable[Any]) -> list[Any]:
    """Returns the points that no other one beats in share and in accuracy, by rising share.

    Args:
        points: with attributes `share` and `mean`, both the more the better.
    """
    best: list[Any] = []
    for point in sorted(points, key=lambda one: (-one.share, -one.mean)):
        if not best or point.mean > best[-1].mean:
            best.append(point)
    return best[::-1]


def hypervolume(points: Sequence[Any], least: float = 0.0) -> float:
    """Returns the area that a front dominates, of `[0, 1]` shares x `[least, 1]` accuracies.

    Args:
        points: as for `pareto`.
        least: accuracy of the reference point, for instance that of guessing.
    """
    area, before = 0.0, 0.0
    for point in pareto(points):
        area += (point.share - before) * max(point.mean - least, 0.0)
        before = point.share
    return area
