"""Faults that come in lines and in tiles, at the same mean rate as independent ones."""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy.special import betaincinv

from keras_rram.faults.base import Fault
from keras_rram.faults.cells import MAPPINGS, CellFault, needed
from keras_rram.faults.crossbar import TILE, Crossbar, KernelShape, checked_tile
from keras_rram.faults.mapping import CellMapping

_STUCK = ("off", "on", "open")


@dataclasses.dataclass(frozen=True)
class StructuredFaults:
    """Base of the fault models that know which weights share a line or a tile.

    A subclass says in `faulty` what fails. Without a mapping that is weights, which read as zero.
    With a mapping it is cells: those of a weight stand side by side on a word line, so that a lost
    bit line costs one cell of each pair, and `rate` is the share of faulty cells.

    In every subclass each weight, or cell, is faulty with probability `rate` exactly, those of
    partial tiles included, so results compare with `StuckAtZero(rate)`, or `StuckCells`; what
    differs is how faults stand together. Of `n` weights of which any two are faulty together with
    the correlation `r_ij`, the variance of the number of faults is
    `rate (1 - rate) (n + sum over i != j of r_ij)`, where independent faults have
    `n rate (1 - rate)`. Faults of one generator are nested: at a higher rate the same weights are
    faulty, and more.

    Attributes:
        rate: fault rate in `[0, 1)`.
        tile: rows (word lines) and columns (bit lines) of a tile; one number for both.
        mapping: how weights become conductances of cells, or its name in
            `keras_rram.faults.cells.MAPPINGS`; None for faults of weights.
        stuck: what faulty cells are stuck at, with a mapping: "off" for its `g_min`, "on" for its
            `g_max`, "open" for no conductance at all.
    """

    rate: float
    tile: tuple[int, int] = dataclasses.field(default=TILE, kw_only=True)
    mapping: CellMapping | None = dataclasses.field(default=None, kw_only=True)
    stuck: str = dataclasses.field(default="off", kw_only=True)

    def __post_init__(self) -> None:
        """Checks the fields."""
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float):
            raise TypeError(f"`rate` must be a number in [0, 1). Received: rate={self.rate!r}")
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"`rate` must be in [0, 1). Received: rate={self.rate}")
        object.__setattr__(self, "tile", checked_tile(self.tile))
        given: Any = self.mapping
        mapping = MAPPINGS.get(given) if isinstance(given, str) else given
        if not isinstance(mapping, CellMapping) and given is not None:
            raise ValueError(
                f"`mapping` must be a `CellMapping`, one of {sorted(MAPPINGS)}, or None. "
                f"Received: mapping={given!r}"
            )
        object.__setattr__(self, "mapping", mapping)
        if self.stuck not in _STUCK or (self.stuck != "off" and mapping is None):
            raise ValueError(
                f"`stuck` must be one of {_STUCK}, and needs a `mapping` unless it is 'off'. "
                f"Received: stuck={self.stuck!r}, mapping={given!r}"
            )

    @property
    def needs_kernel(self) -> bool:
        """Whether what fails is cells, whose meaning depends on the weights."""
        return self.mapping is not None

    def faulty(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Returns which weights, or cells, fail.

        Args:
            shape: the kernel's shape, best a `KernelShape`; or that of an array of cells (see
                `Crossbar.with_cells`).
            rng: the only source of randomness.

        Returns:
            Boolean array of `shape`.
        """
        raise NotImplementedError

    def cells(self, shape: tuple[int, ...], rng: np.random.Generator) -> CellFault:
        """Draws the cells of a kernel of `shape`; only with a mapping."""
        if self.mapping is None:
            raise ValueError(f"expected a fault model with a `mapping`. Received: {self}")
        crossbar = Crossbar.of(shape).with_cells(self.mapping.cells_per_weight)
        stuck = np.moveaxis(self.faulty(KernelShape(crossbar), rng), -1, 0)
        levels = {"off": self.mapping.g_min, "on": self.mapping.g_max, "open": 0.0}
        gain = np.ascontiguousarray(~stuck, np.float32)
        return CellFault(gain, (1 - gain) * np.float32(levels[self.stuck]))

    def sample(
        self, shape: tuple[int, ...], rng: np.random.Generator, kernel: np.ndarray | None = None
    ) -> Fault:
        """Draws what a kernel of `shape` becomes."""
        if self.mapping is None:
            return Fault((~self.faulty(shape, rng)).astype(np.float32))
        return self.cells(shape, rng).on(needed(kernel), self.mapping, shape)


@dataclasses.dataclass(frozen=True)
class RowFaults(StructuredFaults):
    """Each word line of a tile fails with probability `rate`: all its weights read as zero.

    An input of the layer is lost to the outputs of one tile. Weights of one line fail together
    (correlation 1), all others independently, so that the variance of the number of faults is
    `rate (1 - rate)` times the sum of the squared lengths of the lines.

    Attributes:
        rate: fault rate in `[0, 1)`, of lines and so of weights.
        tile: rows and columns of a tile; `mapping` and `stuck` for faults of cells, see
            `StructuredFaults`.

    Example:

    ```python
    chip = keras_rram.Chip(RowFaults(0.1, tile=(128, 128)), seed=1)
    ```
    """

    def faulty(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Returns which weights are on a failed word line."""
        crossbar = Crossbar.of(shape)
        row, column = crossbar.positions()
        failed = rng.random((crossbar.rows, crossbar.grid(self.tile)[1])) < self.rate
        return failed[row, column // self.tile[1]].reshape(shape)


@dataclasses.dataclass(frozen=True)
class ColumnFaults(StructuredFaults):
    """Each bit line of a tile fails with probability `rate`: all its weights read as zero.

    An output of the layer loses the part of its sum that the tile computes: of a depthwise kernel
    that is a whole channel, but for those that two tiles share. The variance of the number of
    faults is that of `RowFaults`.

    Attributes:
        rate: fault rate in `[0, 1)`, of lines and so of weights.
        tile: rows and columns of a tile; `mapping` and `stuck` for faults of cells, see
            `StructuredFaults`.
    """

    def faulty(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Returns which weights are on a failed bit line."""
        crossbar = Crossbar.of(shape)
        row, column = crossbar.positions()
        failed = rng.random((crossbar.grid(self.tile)[0], crossbar.columns)) < self.rate
        return failed[row // self.tile[0], column].reshape(shape)


@dataclasses.dataclass(frozen=True)
class SpreadFaults(StructuredFaults):
    """Independent faults, at a rate of its own in each tile: some tiles are better than others.

    The rate of a tile is drawn from the beta distribution with `a = rate * concentration` and
    `b = (1 - rate) * concentration`, so its mean is `rate` and its standard deviation
    `sqrt(rate (1 - rate) / (concentration + 1))`. Two weights of one tile are faulty together with
    the correlation `1 / (concentration + 1)`; the number of faults in a tile is beta-binomial
    (Skellam, "A probability distribution derived from the binomial distribution by regarding the
    probability of success as variable between the sets of trials", Journal of the Royal Statistical
    Society B 10 (1948), 257-261), the usual model of defects that differ from die to die.

    Attributes:
        rate: mean fault rate in `[0, 1)`.
        concentration: `a + b > 0`; the larger, the more alike are the tiles. At the default of 10
            and a rate of 10%, the rates of tiles have a standard deviation of 9%.
        tile: rows and columns of a tile; `mapping` and `stuck` for faults of cells, see
            `StructuredFaults`.
    """

    concentration: float = 10.0

    def __post_init__(self) -> None:
        """Checks the concentration too."""
        super().__post_init__()
        check_positive("concentration", self.concentration)

    def faulty(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Returns which weights fail, at the rates of their tiles."""
        crossbar = Crossbar.of(shape)
        row, column = crossbar.positions()
        draws = rng.random(crossbar.split, dtype=np.float32)
        quantiles = rng.random(crossbar.grid(self.tile))
        if self.rate == 0:
            return np.zeros(shape, bool)
        # The quantile function rises with the rate, and so faults are nested.
        a, b = self.rate * self.concentration, (1 - self.rate) * self.concentration
        rates = betaincinv(a, b, quantiles).astype(np.float32)
        return (draws < rates[row // self.tile[0], column // self.tile[1]]).reshape(shape)


def check_positive(name: str, value: Any) -> None:
    """Raises TypeError or ValueError unless `value` is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"`{name}` must be a number > 0. Received: {name}={value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be a number > 0. Received: {name}={value}")
