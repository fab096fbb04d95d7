"""The fault of one kernel, and the protocol of the models that draw it."""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Fault:
    """What a chip does to one kernel: `effective = kernel * mask * scale + offset`.

    Faults are equal if their arrays and scales are.

    Attributes:
        mask: float32 array, or tensor, of the kernel's shape; 1 where a weight is healthy, 0 where
            it is lost.
        offset: likewise, the value of a weight stuck elsewhere than at zero; None where a fault
            model has none.
        scale: factor on the weights that are not stuck, which a chip sets where a layer rescales;
            fault models leave it at 1.
    """

    mask: np.ndarray
    offset: np.ndarray | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Checks that the offset fits the mask."""
        if self.offset is not None and self.offset.shape != self.mask.shape:
            raise ValueError(
                f"`offset` must have the shape of `mask`, {self.mask.shape}. "
                f"Received: offset.shape={self.offset.shape}"
            )

    def __eq__(self, other: object) -> bool:
        """Returns whether both do the same to every weight."""
        if not isinstance(other, Fault):
            return NotImplemented
        if self.scale != other.scale or not np.array_equal(self.mask, other.mask):
            return False
        if self.offset is None or other.offset is None:
            return self.offset is other.offset
        return np.array_equal(self.offset, other.offset)

    def __hash__(self) -> int:
        """Returns a hash that agrees with `==`."""
        return hash((self.mask.shape, self.rate))

    @property
    def factors(self) -> np.ndarray:
        """float32 array: the factor on each weight, `mask * scale`."""
        return self.mask if self.scale == 1 else self.mask * np.float32(self.scale)

    @property
    def faulty(self) -> np.ndarray:
        """Boolean array: which weights are not what was trained, but for the scale."""
        faulty = self.mask != 1
        return faulty if self.offset is None else faulty | (self.offset != 0)

    @property
    def rate(self) -> float:
        """Achieved fault rate: the share of faulty weights, in `[0, 1]`."""
        return float(np.mean(self.faulty)) if self.mask.size else 0.0

    def apply(self, kernel: np.ndarray) -> np.ndarray:
        """Returns the kernel as this chip holds it."""
        effective = kernel * self.factors
        return effective if self.offset is None else effective + self.offset


@runtime_checkable
class FaultModel(Protocol):
    """Draws the fault of one kernel. Implementations are frozen dataclasses of plain values.

    Attributes:
        rate: fault rate, in `[0, 1)`: the expected share of faulty weights, or of faulty cells for
            models of cells. Either way it is the share of a weight's signal that is lost on
            average, and layers that rescale make up for it by `1 / (1 - rate)`.
        needs_kernel: whether `sample` needs the kernel's values, as models of a cell do, where
            what a stuck cell means depends on the weight's scale and sign.
    """

    @property
    def rate(self) -> float: ...  # noqa: D102

    @property
    def needs_kernel(self) -> bool: ...  # noqa: D102

    def sample(
        self, shape: tuple[int, ...], rng: np.random.Generator, kernel: np.ndarray | None = None
    ) -> Fault:
        """Draws the fault of a kernel of `shape`, using nothing but `rng`'s randomness."""
        ...
