"""Cells that hold their weights, but not exactly: variation, drift, a finite on/off ratio.

No cell is lost, so their `rate` is 0; evaluate one population for each setting.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_rram.faults.base import Fault
from keras_rram.faults.cells import CellFault, CellModel, needed
from keras_rram.faults.mapping import check_number


@dataclasses.dataclass(frozen=True)
class LognormalVariation(CellModel):
    """Each cell's conductance is off by a lognormal factor that is fixed on a chip.

    `G' = G * exp(theta)` with `theta ~ N(0, sigma ** 2)`: the median is `G`, the mean
    `G * exp(sigma ** 2 / 2)`. Of a weight `w > 0` in a differential pair with the factors `f+` and
    `f-` this makes `w f+ + s (f+ - f-) g_min / (g_max - g_min)`: at a finite on/off ratio the off
    cell adds an error that does not shrink with the weight.

    Reference: Liu et al., "Vortex: variation-aware training for memristor X-bar", DAC 2015.

    Attributes:
        sigma: standard deviation of the logarithm of the conductance, `>= 0`.
        mapping: see `CellModel`.

    Example:

    ```python
    evaluate_population(model, LognormalVariation(0.1), dataset.arrays("test"))
    ```
    """

    sigma: float

    rate = 0.0

    def __post_init__(self) -> None:
        """Checks sigma."""
        super().__post_init__()
        _check_positive("sigma", self.sigma, allow_zero=True)

    def cells(self, shape: Sequence[int], rng: np.random.Generator) -> CellFault:
        """Draws the factor of each cell."""
        draws = rng.standard_normal((self.mapping.cells_per_weight, *shape), dtype=np.float32)
        draws *= np.float32(self.sigma)
        return CellFault(np.exp(draws, out=draws))


@dataclasses.dataclass(frozen=True)
class Drift(CellModel):
    """Conductances fall with time by a power law: `G(t) = G(t_0) * (t / t_0) ** -nu`.

    The law of phase-change cells. Each cell has its own exponent, drawn from a normal distribution
    and fixed on a chip. `nu` is a property of the device: measure it.

    Reference: [Joshi et al., 2020](https://doi.org/10.1038/s41467-020-16108-9), who also scale the
    outputs to make up for the mean drift.

    Attributes:
        seconds: time of the read after programming, `>= start`.
        nu: mean of the exponent, `>= 0`.
        nu_sd: standard deviation of the exponent over cells, `>= 0`.
        start: `t_0`, seconds from programming to the verified conductances, `> 0`.
        compensated: whether the outputs are scaled by `(t / t_0) ** nu`, so that what remains is
            the spread of the exponents. The mean `nu` is taken as known.
        mapping: see `CellModel`.

    Example:

    ```python
    Drift(seconds=86_400.0, nu=0.03, nu_sd=0.01)
    ```
    """

    seconds: float
    nu: float
    nu_sd: float = 0.0
    start: float = 1.0
    compensated: bool = False

    rate = 0.0

    def __post_init__(self) -> None:
        """Checks times and exponents."""
        super().__post_init__()
        for name in ("seconds", "start"):
            _check_positive(name, getattr(self, name))
        for name in ("nu", "nu_sd"):
            _check_positive(name, getattr(self, name), allow_zero=True)
        if self.seconds < self.start:
            raise ValueError(
                f"`seconds` must be >= start={self.start}, when the conductances were verified. "
                f"Received: seconds={self.seconds}"
            )

    def cells(self, shape: Sequence[int], rng: np.random.Generator) -> CellFault:
        """Draws the exponent of each cell."""
        exponents = rng.standard_normal((self.mapping.cells_per_weight, *shape), dtype=np.float32)
        exponents *= np.float32(self.nu_sd)
        if not self.compensated:
            exponents += np.float32(self.nu)
        exponents *= np.float32(-math.log(self.seconds / self.start))
        return CellFault(np.exp(exponents, out=exponents))


@dataclasses.dataclass(frozen=True)
class FiniteOnOff(CellModel):
    """Cells whose conductance cannot fall below `g_max / ratio`, which the mapping did not expect.

    A weight mapped with the device's own `g_min` needs none of this: differences and references
    cancel it. Where the mapping goes lower (say `g_min=0`), a cell stays at the floor. A weight of
    a differential pair with `g_min = 0` is thresholded softly, by the share `1 / ratio` of the
    scale: `sign(w) * max(|w| - s / ratio, 0)`. Nothing is random: all chips are alike.

    Reference: [Chen et al., 2018](https://doi.org/10.1109/TCAD.2018.2789723) (NeuroSim), on
    the on/off ratio and the smallest weight.

    Attributes:
        ratio: `g_max` over the lowest conductance of a cell, `> 1`.
        mapping: see `CellModel`.

    Example:

    ```python
    FiniteOnOff(10.0, mapping=DifferentialPair(g_min=0.0))
    ```
    """

    ratio: float

    rate = 0.0

    def __post_init__(self) -> None:
        """Checks the ratio."""
        super().__post_init__()
        check_number("ratio", self.ratio, "a ratio of conductances")
        if not self.ratio > 1:
            raise ValueError(f"`ratio` must be > 1. Received: ratio={self.ratio}")

    def sample(
        self, shape: tuple[int, ...], rng: np.random.Generator, kernel: np.ndarray | None = None
    ) -> Fault:
        """Returns what the floor makes of `kernel`; draws nothing."""
        del rng
        kernel = needed(kernel)
        floor = self.mapping.g_max / self.ratio
        scale = self.mapping.scale(kernel, shape)
        held = self.mapping.conductances(kernel, scale) < floor
        offset = np.where(held, np.float32(floor), np.float32(0))
        return CellFault((~held).astype(np.float32), offset).on(kernel, self.mapping, shape)


def _check_positive(name: str, value: Any, allow_zero: bool = False) -> None:
    check_number(name, value, "a finite number")
    least = ">= 0" if allow_zero else "> 0"
    if not (0 <= value < math.inf if allow_zero else 0 < value < math.inf):
        raise ValueError(f"`{name}` must be {least} and finite. Received: {name}={value}")
