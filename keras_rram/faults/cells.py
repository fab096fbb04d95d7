"""Faults of cells: which cells of a chip are broken, and what that makes of its weights."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_rram.faults.base import Fault
from keras_rram.faults.mapping import (
    CellMapping,
    CentredPair,
    DifferentialPair,
    ReferenceColumn,
    check_number,
)
from keras_rram.faults.rates import at_rate
from keras_rram.faults.slices import BitSlices

MAPPINGS: dict[str, CellMapping] = {
    "differential_pair": DifferentialPair(),
    "centred_pair": CentredPair(),
    "reference_column": ReferenceColumn(),
    "bit_slices": BitSlices(),
}
"""Name -> the mapping with its defaults, for flags."""

_MOST_VALUES = 10_000  # what a text can say of them
_PUBLISHED = (0.0904, 0.0175)


@dataclasses.dataclass(frozen=True, eq=False)
class CellFault:
    """What a chip does to the cells of one kernel: `G * gain + offset`, whatever is programmed.

    It belongs to the chip and not to the weights: `on` gives the `Fault` of a kernel at any time,
    say after retraining has changed the sign of a weight.

    Attributes:
        gain: float32 array, or tensor, `(cells_per_weight, *kernel.shape)`; 1 for a healthy cell, 0
            for a stuck one.
        offset: likewise, in siemens: the conductance of a stuck cell; None for zeros.

    Example:

    ```python
    stuck = StuckCells(stuck_on=0.1).cells((3, 3, 16, 32), np.random.default_rng(0))
    fault = stuck.on(kernel, DifferentialPair())
    ```
    """

    gain: np.ndarray
    offset: np.ndarray | None = None

    def on(
        self, kernel: np.ndarray, mapping: CellMapping, shape: Sequence[int] | None = None
    ) -> Fault:
        """Returns the fault of a kernel that is programmed into these cells.

        Args:
            kernel: the weights.
            mapping: how they become conductances.
            shape: the kernel's shape as a `KernelShape`, see `CellMapping.scale`.
        """
        return mapping.fault(kernel, self.gain, self.offset, shape)

    def apply(self, conductances: np.ndarray) -> np.ndarray:
        """Returns what programmed conductances, in siemens, are on this chip."""
        found = conductances * self.gain
        return found if self.offset is None else found + self.offset

    def then(self, later: "CellFault") -> "CellFault":
        """Returns both faults on the same cells, this one first."""
        offset = later.offset
        if self.offset is not None:
            moved = self.offset * later.gain
            offset = moved if offset is None else moved + offset
        return CellFault(self.gain * later.gain, offset)


@dataclasses.dataclass(frozen=True)
class CellModel:
    """Base of the fault models of cells; a subclass draws them in `cells`.

    Attributes:
        mapping: how weights become conductances; or its name in `MAPPINGS`.
    """

    mapping: CellMapping = dataclasses.field(default=MAPPINGS["differential_pair"], kw_only=True)

    needs_kernel = True

    def __post_init__(self) -> None:
        """Checks the mapping."""
        given: Any = self.mapping
        found = MAPPINGS.get(given) if isinstance(given, str) else given
        if not isinstance(found, CellMapping):
            raise ValueError(
                f"`mapping` must be a `CellMapping` or one of {sorted(MAPPINGS)}. "
                f"Received: mapping={given!r}"
            )
        object.__setattr__(self, "mapping", found)

    def cells(self, shape: Sequence[int], rng: np.random.Generator) -> CellFault:
        """Draws the cells of a kernel of `shape`, using nothing but `rng`'s randomness."""
        raise NotImplementedError

    def sample(
        self, shape: tuple[int, ...], rng: np.random.Generator, kernel: np.ndarray | None = None
    ) -> Fault:
        """Draws the cells and returns what they make of `kernel`."""
        return self.cells(shape, rng).on(needed(kernel), self.mapping, shape)


@dataclasses.dataclass(frozen=True)
class StuckCells(CellModel):
    """Each cell is stuck off (low conductance) or on (high conductance), independently.

    The literature calls this stuck-at-0 and stuck-at-1, abbreviated SA0 and SA1, with both
    meanings. Look for the resistance that a paper gives with them:

    | here | cell stays at | one usage | the other |
    | --- | --- | --- | --- |
    | `stuck_off` | low conductance, high resistance (HRS) | SA0 | SA1 |
    | `stuck_on` | high conductance, low resistance (LRS) | SA1 | SA0 |

    The first is that of "Zero-space cost fault tolerance for transformer-based language models on
    ReRAM" ([2024](https://arxiv.org/abs/2401.11664)), the second that of Chen et al.,
    "Accelerator-friendly neural-network training: learning variations and defects in RRAM
    crossbar" ([DATE 2017](https://doi.org/10.23919/DATE.2017.7926952)).

    `rate` is the share of faulty *cells*, which is how it is published, and for every mapping the
    expected share of the weights' signal that is lost: the expected mask is `1 - rate`. More
    *weights* are changed, since each has several cells: of a differential pair
    `1 - (1 - rate) * (1 - stuck_on)` (the off cell of a pair may well be stuck off), of a centred
    pair `1 - (1 - rate) ** 2`. `keras_rram.chips.audit` counts these.

    Cells of one generator are nested: at higher rates the same cells are stuck at the same level,
    and more.

    Attributes:
        stuck_off: probability that a cell is stuck at `off_conductance`.
        stuck_on: probability that it is stuck at `on_conductance`; the sum is below 1.
        off_conductance: in siemens, as measured; None for the mapping's `g_min`. Zero for cells
            that are open or were never formed.
        on_conductance: likewise; None for `g_max`.
        mapping: see `CellModel`.

    Example:

    ```python
    chip = keras_rram.Chip(StuckCells(stuck_off=0.02, stuck_on=0.01), seed=1)
    StuckCells.published("on", mapping="centred_pair")
    ```
    """

    stuck_off: float = 0.0
    stuck_on: float = 0.0
    off_conductance: float | None = None
    on_conductance: float | None = None

    def __post_init__(self) -> None:
        """Checks rates and conductances."""
        super().__post_init__()
        for name in ("stuck_off", "stuck_on"):
            check_share(name, getattr(self, name))
        if self.stuck_off + self.stuck_on >= 1:
            raise ValueError(
                "`stuck_off` + `stuck_on` must be in [0, 1). Received: "
                f"stuck_off={self.stuck_off}, stuck_on={self.stuck_on}"
            )
        for name in ("off_conductance", "on_conductance"):
            if getattr(self, name) is not None:
                check_conductance(name, getattr(self, name))

    @classmethod
    def published(cls, mostly: str, mapping: Any = "differential_pair") -> "StuckCells":
        """Returns the fault rates of a measured 4 Mbit HfO2 chip: 9.04% and 1.75% of the cells.

        Reference: Chen et al., "RRAM defect modeling and failure analysis based on march test and a
        novel squeeze-search scheme", [IEEE Transactions on Computers 64 (2015), 180-190](
        https://doi.org/10.1109/TC.2014.12). They are cited as 9.04% stuck-at-1 and 1.75%
        stuck-at-0, which papers read with either polarity, see `StuckCells`.

        Args:
            mostly: "on" for 9.04% stuck on and 1.75% stuck off; "off" for the other polarity.
            mapping: see `CellModel`.
        """
        if mostly not in ("on", "off"):
            raise ValueError(f"`mostly` must be 'on' or 'off'. Received: mostly={mostly!r}")
        many, few = _PUBLISHED
        off, on = (many, few) if mostly == "off" else (few, many)
        return cls(off, on, mapping=mapping)

    @property
    def rate(self) -> float:
        """Share of stuck cells: `stuck_off + stuck_on`."""
        return round(self.stuck_off + self.stuck_on, 12)

    def with_rate(self, rate: float) -> "StuckCells":
        """Returns the model with another share of stuck cells, in the same proportions."""
        if rate == self.rate:
            return self
        if not self.rate:
            raise ValueError(
                "expected a model with stuck cells, whose proportions another rate keeps. "
                f"Received: {self} (give `stuck_off` or `stuck_on` a small rate)"
            )
        on = rate * (self.stuck_on / (self.stuck_off + self.stuck_on))
        return dataclasses.replace(self, stuck_off=rate - on, stuck_on=on)

    def cells(self, shape: Sequence[int], rng: np.random.Generator) -> CellFault:
        """Draws which cells are stuck, and where."""
        draws = rng.random((self.mapping.cells_per_weight, *shape), dtype=np.float32)
        # From both ends of one draw: each kind is nested by itself.
        off = draws < np.float32(self.stuck_off)
        on = draws >= np.float32(1 - self.stuck_on)
        low = self.mapping.g_min if self.off_conductance is None else self.off_conductance
        high = self.mapping.g_max if self.on_conductance is None else self.on_conductance
        offset = np.multiply(off, np.float32(low), dtype=np.float32)
        np.copyto(offset, np.float32(high), where=on)
        return CellFault(np.logical_not(np.logical_or(off, on, out=off)).astype(np.float32), offset)


@dataclasses.dataclass(frozen=True)
class StuckAtValues(CellModel):
    """Each cell is stuck with probability `rate`, at one of several measured conductances.

    For a device whose broken cells were measured: the values are a sample of their distribution,
    each as likely as the others (repeat one to make it likelier). Cells are nested as those of
    `StuckCells`.

    Attributes:
        rate: share of stuck cells, in `[0, 1)`.
        values: conductances in siemens, 1 to 10,000; an array is taken flat.
        mapping: see `CellModel`.

    Example:

    ```python
    StuckAtValues(0.05, values=(0.0, 2e-6, 2e-6, 8e-5))
    ```
    """

    rate: float
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks rate and values."""
        super().__post_init__()
        check_share("rate", self.rate)
        given: Any = self.values
        if isinstance(given, np.ndarray):
            given = given.ravel().tolist()
        values = tuple(given) if isinstance(given, list | tuple) else (given,)
        if not 1 <= len(values) <= _MOST_VALUES:
            raise ValueError(
                f"`values` must hold 1 to {_MOST_VALUES} conductances in siemens. Received: "
                f"{len(values)} (of more, draw a sample)"
            )
        for value in values:
            check_conductance("values", value)
        # Python's own numbers, also of a list of NumPy's: a text can say no others.
        object.__setattr__(self, "values", tuple(map(float, values)))

    def cells(self, shape: Sequence[int], rng: np.random.Generator) -> CellFault:
        """Draws which cells are stuck, and at which of the values."""
        size = (self.mapping.cells_per_weight, *shape)
        stuck = rng.random(size, dtype=np.float32) < np.float32(self.rate)
        chosen = rng.integers(len(self.values), size=size, dtype=np.uint16)
        levels = np.array(self.values, np.float32)[chosen]
        return CellFault((~stuck).astype(np.float32), levels * stuck)


@dataclasses.dataclass(frozen=True)
class SameCells:
    """Several things that happen to the same cells, in order: say variation, then stuck cells.

    `Composed` joins fault models by what they make of the weights, as if each had cells of its own;
    here a stuck cell of a pair no longer varies, which only the cells know. Each model draws from a
    generator of its own, so that the draws of one do not depend on the parameters of the others.

    Attributes:
        models: two models of cells or more, all of one mapping.

    Example:

    ```python
    SameCells((LognormalVariation(0.1), StuckCells(0.02, 0.01)))
    ```
    """

    models: tuple[Any, ...]

    needs_kernel = True

    def __post_init__(self) -> None:
        """Checks that the models are of cells, and of one mapping."""
        given: Any = self.models
        models = tuple(given) if isinstance(given, list | tuple) else (given,)
        for one in models:
            # A model whose cells depend on what is programmed has only `sample`.
            if not isinstance(one, CellModel) or type(one).cells is CellModel.cells:
                raise TypeError(
                    "`models` must be models of cells that do not depend on the kernel, as "
                    f"`StuckCells` and `LognormalVariation`. Received: {one!r}"
                )
        if len(models) < 2 or len({one.mapping for one in models}) > 1:
            raise ValueError(
                "`models` must be two or more that have one mapping, since they are about the same "
                f"cells. Received: models={given!r}"
            )
        object.__setattr__(self, "models", models)

    @property
    def mapping(self) -> CellMapping:
        """The mapping of all models."""
        return self.models[0].mapping

    @property
    def rate(self) -> float:
        """Expected share of cells that any of the models makes faulty."""
        return round(1.0 - math.prod(1.0 - model.rate for model in self.models), 12)

    def with_rate(self, rate: float) -> "SameCells":
        """Returns the models with another rate; only one of them may have a rate above 0."""
        faulty = [model for model in self.models if model.rate > 0]
        if len(faulty) != 1:
            raise ValueError(
                "expected exactly one model with a rate above 0 to sweep. Received: "
                f"{len(faulty)} in {self}"
            )
        return SameCells(
            tuple(at_rate(model, rate) if model is faulty[0] else model for model in self.models)
        )

    def cells(self, shape: Sequence[int], rng: np.random.Generator) -> CellFault:
        """Draws the cells of each model and joins them in order."""
        drawn = []
        for model in self.models:
            words = rng.integers(1 << 32, size=4, dtype=np.uint32).tolist()
            drawn.append(model.cells(shape, np.random.default_rng(words)))
        return functools.reduce(CellFault.then, drawn)

    def sample(
        self, shape: tuple[int, ...], rng: np.random.Generator, kernel: np.ndarray | None = None
    ) -> Fault:
        """Draws the cells and returns what they make of `kernel`."""
        return self.cells(shape, rng).on(needed(kernel), self.mapping, shape)


def check_share(name: str, value: Any) -> None:
    """Raises unless a value is a number in `[0, 1)`."""
    check_number(name, value, "a share in [0, 1)")
    if not 0 <= value < 1:
        raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={value}")


def check_conductance(name: str, value: Any) -> None:
    """Raises unless a value is a finite conductance, `>= 0`."""
    check_number(name, value, "a conductance in siemens")
    if not 0 <= value < np.inf:
        raise ValueError(f"`{name}` must be >= 0 and finite, in siemens. Received: {value}")


def needed(kernel: np.ndarray | None) -> np.ndarray:
    """Returns the kernel, or raises ValueError where there is none."""
    if kernel is None:
        raise ValueError(
            "expected the kernel: what a cell does depends on its weight. Received: kernel=None"
        )
    return kernel
