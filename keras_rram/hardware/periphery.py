"""The circuits around an array, between its cells and the digital part of a chip."""

import dataclasses
import math
from typing import Any

from keras import ops

from keras_rram.faults.grammar import read_fields
from keras_rram.faults.mapping import check_number

Tensor = Any


@dataclasses.dataclass(frozen=True)
class Analog:
    """What an array's periphery does.

    Attributes:
        adc_bits: bits `b` of the converters, 2 to 24; None for exact partial sums. The codes are
            the integers from `-(2 ** (b - 1) - 1)` to `2 ** (b - 1) - 1`, with zero among them.
        tile_rows: rows of a tile, whose products one converter sees summed.
        read_noise: standard deviation of each weight's Gaussian noise, anew for every image and
            every output position, as a share of the layer's largest weight (see
            `keras_rram.WeightNoise` for the definition's source); it is added before
            the converter.
        coverage: share of the partial sums of the calibration images, by magnitude, that a layer's
            converters do not clip, in `(0, 1]`; 1 sets the range to the largest.
    """

    adc_bits: int | None = 8
    tile_rows: int = 128
    read_noise: float = 0.0
    coverage: float = 1.0

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, value, low, high in (
            ("adc_bits", self.adc_bits, 2, 24),
            ("tile_rows", self.tile_rows, 1, math.inf),
        ):
            if value is None and name == "adc_bits":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"`{name}` must be an integer from {low} to {high}"
                    f"{', or None' if name == 'adc_bits' else ''}. Received: {name}={value!r}"
                )
        check_number("read_noise", self.read_noise, "a share of the largest weight")
        check_number("coverage", self.coverage, "a share of the partial sums")
        if not 0.0 <= self.read_noise < math.inf:
            raise ValueError(
                f"`read_noise` must be >= 0 and finite. Received: read_noise={self.read_noise}"
            )
        if not 0.0 < self.coverage <= 1.0:
            raise ValueError(f"`coverage` must be in (0, 1]. Received: coverage={self.coverage}")

    @classmethod
    def parse(cls, text: str) -> "Analog":
        """Returns the periphery that a text of keys and values describes.

        Args:
            text: `key=value` pairs between commas; keys are the attributes, those left out have
                their defaults, and `adc_bits=none` is an exact sum.

        Raises:
            ValueError: if a key is unknown or given twice, or a value is no number or out of range.

        Example:

        ```python
        Analog.parse("adc_bits=6,read_noise=0.01") == Analog(adc_bits=6, read_noise=0.01)
        ```
        """
        return read_fields(cls, text, "Array")


def convert(partial: Tensor, limit: Tensor, bits: int) -> Tensor:
    """Returns partial sums as a converter of `bits` bits and range `[-limit, limit]` reads them.

    `step * clip(round(partial / step), -n, n)` with `n = 2 ** (bits - 1) - 1` and
    `step = limit / n`; halves round to the even code.

    Reference: clipping to a calibrated range and uniform rounding of each array's sum, as in
    [CrossSim](https://github.com/sandialabs/cross-sim).

    Args:
        partial: tensor of any shape.
        limit: scalar, `> 0`.
        bits: integer `>= 2`.
    """
    codes = 2 ** (bits - 1) - 1
    step = limit / codes
    return step * ops.clip(ops.round(partial / step), -codes, codes)
