"""Int8 weights in slices: several cells of a few bits hold the digits of one weight."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_rram.faults.base import Fault
from keras_rram.faults.mapping import CellMapping

ENCODINGS = ("differential", "offset_binary")
_LIMIT = 127
_OFFSET = 128


@dataclasses.dataclass(frozen=True)
class BitSlices(CellMapping):
    """Int8 weights as digits to the base `2 ** bits`, one digit in a cell.

    The integer is `q = round(127 * w / s)`, symmetric as TFLite's int8 weights are. Digit `k` has
    the significance `2 ** (bits * k)`, and a cell with digit `d` the conductance
    `g_min + d / (2 ** bits - 1) * (g_max - g_min)`. What `g_min` adds to a column is subtracted.

    - "differential": the 7 bits of `|q|` in the positive cells or, for a negative weight, in the
      negative ones: `2 * ceil(7 / bits)` cells.
    - "offset_binary": the 8 bits of `q + 128`, and a reference without faults subtracts 128, as in
      [ISAAC, ISCA 2016](https://doi.org/10.1109/ISCA.2016.12): `ceil(8 / bits)` cells.

    The cells hold `quantize(kernel)`, so quantize a model first, with
    `keras_rram.hardware.precision.quantize_to_cells`: then a fault-free chip is the model exactly.
    Of other kernels the chip holds the quantized weights too, and those that quantization moves
    count as changed.

    The mask of a faulty weight, its slope in retraining, is the share of the weight's range that
    its healthy cells hold. Rounding has slope 1 (straight-through).

    Attributes:
        bits: bits of a cell, 1 to 4.
        encoding: one of `ENCODINGS`.
        g_min: see `CellMapping`, likewise `g_max` and `scaling`. With "channel" the grid is that of
            an int8 TFLite file without batch normalization behind the layer.
    """

    bits: int = 2
    encoding: str = "differential"

    def __post_init__(self) -> None:
        """Checks bits and encoding too."""
        super().__post_init__()
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            raise TypeError(f"`bits` must be an integer, 1 to 4. Received: bits={self.bits!r}")
        if not 1 <= self.bits <= 4:
            raise ValueError(f"`bits` must be 1 to 4. Received: bits={self.bits}")
        if self.encoding not in ENCODINGS:
            raise ValueError(
                f"`encoding` must be one of {ENCODINGS}. Received: encoding={self.encoding!r}"
            )

    @property
    def slices(self) -> int:
        """Number of digits."""
        return -(-(7 if self._is_pair else 8) // self.bits)

    @property
    def cells_per_weight(self) -> int:  # type: ignore[override]
        """Number of cells: the digits, or twice as many in differential pairs."""
        return self.slices * (2 if self._is_pair else 1)

    @property
    def significances(self) -> tuple[int, ...]:
        """What one step of each cell counts in units of `s / 127`, negative cells last."""
        positive = tuple(1 << (self.bits * k) for k in range(self.slices))
        return positive + tuple(-value for value in positive) if self._is_pair else positive

    @property
    def _is_pair(self) -> bool:
        return self.encoding == "differential"

    @property
    def _top(self) -> int:
        return (1 << self.bits) - 1

    def quantize(self, kernel: np.ndarray, shape: Sequence[int] | None = None) -> np.ndarray:
        """Returns the weights that the cells hold, float32, at most half a step from `kernel`.

        Twice is once: the largest weight of each scale stays what it is.
        """
        kernel = np.asarray(kernel, np.float32)
        scale = self.scale(kernel, shape)
        return _held(_integers(kernel, scale), scale)

    def _levels(self, kernel: Any, scale: Any, xp: Any = np) -> Any:
        return self._digits(_integers(kernel, scale)) / self._top

    def _digits(self, integers: np.ndarray) -> np.ndarray:
        parts: list[np.ndarray]
        if self._is_pair:
            parts = [np.maximum(integers, 0), np.maximum(-integers, 0)]
        else:
            parts = [integers + _OFFSET]
        shifts = [self.bits * k for k in range(self.slices)]
        return np.stack([(part >> shift) & self._top for part in parts for shift in shifts])

    def _weights(self, levels: np.ndarray, scale: np.ndarray) -> np.ndarray:
        total = np.tensordot(np.array(self.significances, np.float64) * self._top, levels, 1)
        return (total if self._is_pair else total - _OFFSET) * (scale / _LIMIT)

    def held(self, kernel: Any, gain: Any, offset: Any, scale: Any, xp: Any = np) -> Fault:
        """Returns what the cells of each weight make of it; digits are no tensors."""
        integers = _integers(kernel, scale)
        digits = self._digits(integers)
        moved = np.zeros(kernel.shape)
        lost = np.zeros((2, *kernel.shape))
        for cell, weight in enumerate(self.significances):
            # Rounded to float32 like the offsets, so that a cell stuck at its own level changes
            # nothing to the last bit.
            nominal = np.float32(self.g_min + digits[cell] * (self.span / self._top))
            missing = 1.0 - gain[cell].astype(np.float64)
            deviation = -missing * nominal
            if offset is not None:
                deviation += offset[cell]
            moved += weight * deviation
            lost[int(weight < 0)] += abs(weight) * missing
        moved *= self._top / self.span
        side = np.where(integers >= 0, lost[0], lost[1]) if self._is_pair else lost[0]
        slope_lost = side / sum(weight for weight in self.significances if weight > 0)
        mask = (1.0 - slope_lost).astype(np.float32)
        # The effective weight is the held one and what moved; all that the mask leaves out.
        moved = moved * (np.asarray(scale, np.float64) / _LIMIT)
        change = (_held(integers, scale) - kernel) + moved + (1.0 - mask) * kernel
        return Fault(mask, change.astype(np.float32))


def _integers(kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    scale = np.asarray(scale, np.float64)
    steps = np.rint(kernel / np.where(scale == 0, 1.0, scale) * _LIMIT)
    return np.clip(steps, -_LIMIT, _LIMIT).astype(np.int16)


def _held(integers: np.ndarray, scale: np.ndarray) -> Any:
    return (integers * (np.asarray(scale, np.float64) / _LIMIT)).astype(np.float32)
