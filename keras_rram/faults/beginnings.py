"""A composition of fault models, part by part."""

import dataclasses

import numpy as np

from keras_rram.faults.base import Fault, FaultModel
from keras_rram.faults.cells import SameCells
from keras_rram.faults.composed import Composed


@dataclasses.dataclass(frozen=True)
class First:
    """The first model of a composition alone, with the draws that it has there.

    Attributes:
        model: the first of the models.
    """

    model: FaultModel

    @property
    def rate(self) -> float:
        """The model's."""
        return self.model.rate

    @property
    def needs_kernel(self) -> bool:
        """The model's."""
        return self.model.needs_kernel

    def sample(
        self, shape: tuple[int, ...], rng: np.random.Generator, kernel: np.ndarray | None = None
    ) -> Fault:
        """Draws the model's fault, from the words that a composition gives to its first part."""
        words = rng.integers(1 << 32, size=4, dtype=np.uint32).tolist()
        return self.model.sample(shape, np.random.default_rng(words), kernel)


def beginnings(model: FaultModel) -> list[tuple[FaultModel, FaultModel]]:
    """Returns a fault model's parts in order, each with what it and all before it do.

    Chips of one seed and index have the same draws in each beginning, so that they show what one
    part after the other adds. The last one is the model itself, and so is the only one of a model
    without parts.

    Args:
        model: any fault model.

    Returns:
        Pairs of a part and the fault model of the parts up to it.
    """
    if not isinstance(model, Composed | SameCells):
        return [(model, model)]
    parts, kind = model.models, type(model)
    longer: list[FaultModel] = [kind(parts[:count]) for count in range(2, len(parts))]
    return list(zip(parts, [First(parts[0]), *longer, model], strict=True))
