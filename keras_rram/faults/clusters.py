"""Faults in clusters: a smoothed Gaussian field in each tile, cut at the fault rate."""

import dataclasses
import functools

import numpy as np
from scipy.fft import idct
from scipy.special import ndtri

from keras_rram.faults.crossbar import Crossbar
from keras_rram.faults.structure import StructuredFaults, check_positive

_LEAST = 1e-4  # of the largest factor of a filter; changes correlations by its square


@dataclasses.dataclass(frozen=True)
class ClusteredFaults(StructuredFaults):
    """Faults that come in clusters of neighbouring cells, each tile with its own.

    White Gaussian noise on the cells of a tile is smoothed with a Gaussian filter, reflected at the
    edges, and scaled to unit variance in every cell. A weight reads as zero where the field is
    below the `rate` quantile of the normal distribution, so that each weight is faulty with
    probability `rate` exactly. This is a Gaussian random field cut at a level (Adler and Taylor,
    "Random Fields and Geometry", Springer 2007).

    Away from the edges, the fields of two cells at a distance of `d` cells have the correlation
    `exp(-d^2 / (2 length^2))`; at the edges it is that of the field plus its mirror images. Two
    weights whose fields have the correlation `c` are both faulty with the probability that two
    normal variables of that correlation are both below the level.

    The field of a kernel that fills a part of a tile covers that part (see `Crossbar.blocks`).

    Attributes:
        rate: fault rate in `[0, 1)`.
        length: correlation length in cells, > 0. Clusters are some `2 * length` wide.
        exact: whether each kernel has exactly `round(rate * size)` faulty weights, those where the
            field is lowest; then chips differ in where, not in how many.
        tile: rows and columns of a tile; `mapping` and `stuck` for faults of cells, see
            `StructuredFaults`.

    Example:

    ```python
    chip = keras_rram.Chip(ClusteredFaults(0.1, length=4), seed=1)
    ```
    """

    length: float = 4.0
    exact: bool = False

    def __post_init__(self) -> None:
        """Checks the length too."""
        super().__post_init__()
        check_positive("length", self.length)

    def faulty(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Returns which weights are in a cluster."""
        crossbar = Crossbar.of(shape)
        blocks = crossbar.blocks(self.tile)
        largest = tuple(np.max([block.shape for block in blocks], axis=0))
        fields = np.zeros((len(blocks), *largest), np.float32 if self.exact else bool)
        level = ndtri(self.rate)
        for field, (height, width) in zip(fields, (block.shape for block in blocks), strict=True):
            smooth = self._field(height, width, rng)
            field[:height, :width] = smooth if self.exact else smooth < level
        values = fields[crossbar.locate(self.tile)]
        if not self.exact:
            return values.reshape(shape)
        return _lowest(values.ravel(), round(self.rate * values.size)).reshape(shape)

    def _field(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """Returns a smooth field of unit variance."""
        down, down_scale = _filter(height, self.length)
        across, across_scale = _filter(width, self.length)
        # The cosine transform of white noise is white noise: it is drawn there at once, and only
        # where the filter leaves something. In double precision, where the rounding of sums moves
        # no cell across the level.
        noise = rng.standard_normal((len(down), len(across)), dtype=np.float32)
        modes = noise * np.outer(down, across)
        field = idct(idct(modes, n=height, axis=0, norm="ortho"), n=width, axis=1, norm="ortho")
        return field * np.outer(down_scale, across_scale)


def _lowest(values: np.ndarray, count: int) -> np.ndarray:
    """Returns where the `count` lowest values are; the first ones of equal values."""
    if count == 0:
        return np.zeros(values.size, bool)
    last = np.partition(values, count - 1)[count - 1]
    lowest = values < last
    lowest[np.flatnonzero(values == last)[: count - lowest.sum()]] = True
    return lowest


@functools.lru_cache(maxsize=256)
def _filter(size: int, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns a Gaussian filter on the modes of a cosine transform.

    Returns:
        The factor of each mode that counts, and for each cell what makes the filtered noise unit
        variance.
    """
    frequency = np.pi * np.arange(size) / size
    # Filtering squares the correlation: the filter is narrower than the field by sqrt(2).
    factors = np.exp(-((length * frequency / 2) ** 2))
    factors = factors[factors > _LEAST]
    modes = idct(np.eye(size), axis=0, norm="ortho")[:, : len(factors)]
    return factors, 1 / np.sqrt(((modes * factors) ** 2).sum(axis=1))
