"""How weights become conductances of cells, and how cells that differ change the weights.

A kernel's scale `s` is its largest magnitude, and `x = w / s` lies in [-1, 1]. A cell has a level
in [0, 1], its place between `g_min` and `g_max`: `G = g_min + level * (g_max - g_min)`.

| mapping | levels of the cells | weight |
| --- | --- | --- |
| `DifferentialPair` | `max(x, 0)` and `max(-x, 0)` | `s * (level_0 - level_1)` |
| `CentredPair` | `(1 + x) / 2` and `(1 - x) / 2` | `s * (level_0 - level_1)` |
| `ReferenceColumn` | `(1 + x) / 2` | `s * (2 * level - 1)` |

`keras_rram.faults.slices.BitSlices` holds int8 weights in cells of a few bits each.

The formulas of the first three are written once for NumPy arrays and for tensors: `xp` is `numpy`
or `keras.ops`.

The mappings are those of [Xiao et al., 2021](https://arxiv.org/abs/2109.01262), "On the accuracy of
analog neural network inference accelerators".
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from keras_rram.faults.base import Fault
from keras_rram.faults.crossbar import Crossbar

SCALINGS = ("tensor", "channel")


@dataclasses.dataclass(frozen=True)
class CellMapping:
    """Base of the mappings of weights onto cells.

    The defaults are of the order of oxide RRAM: 10 kOhm when on, 1 MOhm when off.

    Attributes:
        g_min: lowest programmed conductance in siemens, `>= 0`.
        g_max: highest programmed conductance in siemens, `> g_min`.
        scaling: "tensor", one scale for a kernel, or "channel", one for each output channel. A
            channel is a column of the crossbar; of a depthwise kernel, a pair of input channel
            and multiplier.
    """

    g_min: float = dataclasses.field(default=1e-6, kw_only=True)
    g_max: float = dataclasses.field(default=1e-4, kw_only=True)
    scaling: str = dataclasses.field(default="tensor", kw_only=True)

    cells_per_weight: ClassVar[int]

    def __post_init__(self) -> None:
        """Checks the range and the scaling."""
        for name in ("g_min", "g_max"):
            check_number(name, getattr(self, name), "a conductance in siemens")
        if not 0 <= self.g_min < self.g_max < np.inf:
            raise ValueError(
                "expected conductances 0 <= g_min < g_max in siemens. Received: "
                f"g_min={self.g_min}, g_max={self.g_max}"
            )
        if self.scaling not in SCALINGS:
            raise ValueError(
                f"`scaling` must be one of {SCALINGS}. Received: scaling={self.scaling!r}"
            )

    @property
    def span(self) -> float:
        """`g_max - g_min`, in siemens."""
        return self.g_max - self.g_min

    def scale(self, kernel: np.ndarray, shape: Sequence[int] | None = None) -> np.ndarray:
        """Returns the largest magnitude of a kernel, or of each of its channels.

        Args:
            kernel: weights of any shape.
            shape: the kernel's shape as a `KernelShape`, where the plain one does not tell a
                depthwise kernel from a dense one.

        Returns:
            float32 array that broadcasts against `kernel`.

        Raises:
            ValueError: if a weight is NaN or infinite.
        """
        kernel = np.asarray(kernel, np.float32)
        found = np.zeros((1,) * kernel.ndim, np.float32)
        if kernel.size and self.scaling == "tensor":
            found = np.maximum(kernel.max(keepdims=True), -kernel.min(keepdims=True))
        elif kernel.size:
            crossbar = Crossbar.of(kernel.shape if shape is None else shape)
            rows = tuple(
                axis for axis in range(len(crossbar.split)) if axis not in crossbar.column_axes
            )
            split = np.abs(kernel).reshape(crossbar.split).max(rows, keepdims=True)
            found = _merged(split, crossbar)
        if not np.isfinite(found).all():
            raise ValueError("expected finite weights. Received: a kernel with NaN or infinity")
        return found

    def conductances(self, kernel: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
        """Returns the programmed conductances of fault-free cells.

        Args:
            kernel: weights of any shape.
            scale: as from `scale`; weights beyond it saturate. None for the kernel's own.

        Returns:
            float64 array `(cells_per_weight, *kernel.shape)`, in siemens.
        """
        kernel = np.asarray(kernel, np.float32)
        scale = self.scale(kernel) if scale is None else np.asarray(scale)
        return self.programmed(kernel, scale.astype(np.float64))

    def programmed(self, kernel: Any, scale: Any, xp: Any = np) -> Any:
        """Returns `conductances` of arrays or tensors, see the module for `xp`."""
        return self.g_min + self._levels(kernel, scale, xp) * self.span

    def weights(self, conductances: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Returns the weights that cells stand for: the inverse of `conductances`.

        Within float32's own rounding for weights above `1e-8 * scale`; `fault` is exact for all.

        Args:
            conductances: array `(cells_per_weight, *shape)`, in siemens, of any values.
            scale: as from `scale` of the kernel that was programmed.

        Returns:
            float32 array of `shape`.
        """
        levels = (np.asarray(conductances, np.float64) - self.g_min) / self.span
        return self._weights(levels, np.asarray(scale, np.float64)).astype(np.float32)

    def fault(
        self,
        kernel: np.ndarray,
        gain: np.ndarray,
        offset: np.ndarray | None = None,
        shape: Sequence[int] | None = None,
    ) -> Fault:
        """Returns what cells whose conductances are `G * gain + offset` make of a kernel.

        Where gains are 1 and offsets 0, the mask is 1 and the offset 0 exactly.

        Args:
            kernel: the trained weights.
            gain: float32 array `(cells_per_weight, *kernel.shape)`.
            offset: likewise, in siemens; None for zeros.
            shape: see `scale`.

        Returns:
            A fault that is exact at these weights. Its mask is the derivative of the effective
            weight by the weight, at constant scale.
        """
        kernel = np.asarray(kernel, np.float32)
        expected = (self.cells_per_weight, *kernel.shape)
        for name, array in (("gain", gain), ("offset", offset)):
            if array is not None and array.shape != expected:
                raise ValueError(
                    f"`{name}` must have the shape (cells_per_weight, *kernel.shape), {expected}. "
                    f"Received: {name}.shape={array.shape}"
                )
        return self.held(kernel, gain, offset, self.scale(kernel, shape))

    def quantize(self, kernel: np.ndarray, shape: Sequence[int] | None = None) -> np.ndarray:
        """Returns the weights that the cells can hold; here, where cells are analog, all."""
        del shape
        return np.asarray(kernel, np.float32)

    def held(self, kernel: Any, gain: Any, offset: Any, scale: Any, xp: Any = np) -> Fault:
        """Returns `fault` at a scale, of arrays or tensors, see the module for `xp`."""
        raise NotImplementedError

    def _levels(self, kernel: Any, scale: Any, xp: Any = np) -> Any:
        raise NotImplementedError

    def _weights(self, levels: np.ndarray, scale: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _deviation(self, gain: Any, offset: Any, conductance: float) -> Any:
        """Returns how far cells are from the conductance that they should have, in siemens."""
        deviation = gain - np.float32(1)
        deviation *= np.float32(conductance)
        if offset is not None:
            deviation += offset
        return deviation


@dataclasses.dataclass(frozen=True)
class DifferentialPair(CellMapping):
    """Two cells for a weight, of which one is off: `w = s * (G+ - G-) / (g_max - g_min)`.

    A positive weight is in `G+`, a negative one in `G-`; the other cell is at `g_min`. It is the
    commonest mapping, and the one of least current. What stuck cells make of a weight, with `w+`
    for `max(w, 0)` and `w-` for `max(-w, 0)`:

    | | G- healthy | G- stuck off | G- stuck on |
    | --- | --- | --- | --- |
    | G+ healthy | `w` | `w+` | `w+ - s` |
    | G+ stuck off | `-w-` | 0 | `-s` |
    | G+ stuck on | `s - w-` | `s` | 0 |

    Example:

    ```python
    pair = DifferentialPair(g_min=1e-6, g_max=1e-4)
    pair.conductances(np.array([0.5, -1.0]))  # [[5.05e-05, 1e-06], [1e-06, 1e-04]]
    ```
    """

    cells_per_weight: ClassVar[int] = 2

    def _levels(self, kernel: Any, scale: Any, xp: Any = np) -> Any:
        part = _normalized(kernel, scale, xp)
        return xp.stack([xp.maximum(part, 0), xp.maximum(-part, 0)])

    def _weights(self, levels: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return (levels[0] - levels[1]) * scale

    def held(self, kernel: Any, gain: Any, offset: Any, scale: Any, xp: Any = np) -> Fault:
        """Returns what both cells of each weight make of it."""
        mask = xp.where(kernel >= 0, gain[0], gain[1])
        deviation = self._deviation(gain, offset, self.g_min)
        moved = deviation[0] - deviation[1]
        moved *= scale / np.float32(self.span)
        return Fault(mask, moved)


@dataclasses.dataclass(frozen=True)
class CentredPair(CellMapping):
    """Two cells for a weight, both moved: `G+- = (g_min + g_max) / 2 +- x (g_max - g_min) / 2`.

    The balanced pair: a stuck cell costs half of the weight, and `w = 0` needs two cells at the
    middle. With one cell stuck off, the weight becomes `(w - s) / 2` or `(w + s) / 2` (G+ or G-);
    stuck on, the other way round; two stuck cells leave 0, `s` or `-s`.
    """

    cells_per_weight: ClassVar[int] = 2

    def _levels(self, kernel: Any, scale: Any, xp: Any = np) -> Any:
        part = _normalized(kernel, scale, xp)
        return xp.stack([(1 + part) / 2, (1 - part) / 2])

    def _weights(self, levels: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return (levels[0] - levels[1]) * scale

    def held(self, kernel: Any, gain: Any, offset: Any, scale: Any, xp: Any = np) -> Fault:
        """Returns what both cells of each weight make of it."""
        mask = (gain[0] + gain[1]) * np.float32(0.5)
        deviation = self._deviation(gain, offset, (self.g_min + self.g_max) / 2)
        moved = deviation[0] - deviation[1]
        moved *= scale / np.float32(self.span)
        return Fault(mask, moved)


@dataclasses.dataclass(frozen=True)
class ReferenceColumn(CellMapping):
    """One cell for a weight, and a reference column at the middle that is subtracted.

    `w = s * (G - G_ref) / ((g_max - g_min) / 2)` with `G_ref = (g_min + g_max) / 2`. Cells stuck
    off and on become `-s` and `s`. The reference column itself is free of faults, as one of fixed
    resistors is.
    """

    cells_per_weight: ClassVar[int] = 1

    def _levels(self, kernel: Any, scale: Any, xp: Any = np) -> Any:
        return (1 + _normalized(kernel, scale, xp)[None]) / 2

    def _weights(self, levels: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return (2 * levels[0] - 1) * scale

    def held(self, kernel: Any, gain: Any, offset: Any, scale: Any, xp: Any = np) -> Fault:
        """Returns what the cell of each weight makes of it."""
        moved = self._deviation(gain, offset, (self.g_min + self.g_max) / 2)[0]
        moved *= scale * np.float32(2 / self.span)
        return Fault(gain[0], moved)


def check_number(name: str, value: Any, what: str) -> None:
    """Raises TypeError unless a value is a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"`{name}` must be {what}, a number. Received: {name}={value!r}")


def _normalized(kernel: Any, scale: Any, xp: Any) -> Any:
    """Returns weights in units of their scale, in [-1, 1]; 0 where the scale is 0."""
    return xp.clip(kernel / xp.where(scale == 0, 1.0, scale), -1.0, 1.0)


def _merged(scale: np.ndarray, crossbar: Crossbar) -> np.ndarray:
    """Returns an array that broadcasts against `split` as one that does against `shape`."""
    if crossbar.split == crossbar.shape:
        return scale
    # One axis of the kernel is split in two, over groups: the two are columns and adjacent.
    extra = len(crossbar.split) - len(crossbar.shape)
    last = crossbar.column_axes[-1]
    return scale.reshape(*scale.shape[: last - extra], -1, *scale.shape[last + 1 :])
