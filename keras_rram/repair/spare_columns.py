"""RepairStep by spare columns: each tile has a few bit lines more than it needs."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from keras_rram.chips.chip import Chip
from keras_rram.faults.crossbar import TILE, Crossbar, KernelShape, checked_tile
from keras_rram.repair.hand import Hand, Response
from keras_rram.repair.protocol import Tier
from keras_rram.repair.remapping import distance
from keras_rram.repair.steps import RepairStep


@dataclasses.dataclass(frozen=True, eq=False)
class SpareColumns(RepairStep):
    """Lets the spare columns of each tile take over those that lose most to faults.

    Access tier C: it needs the chip's map. A column of a tile is the part of an output channel's
    sum that the tile computes. What it loses is the squared distance of its weights from what their
    places can hold, relative to the energy of the output channel; the spare columns have faults
    too, drawn like all others. Which spare takes over which column is an assignment. In the end
    weights are written as close to their values as their places allow, as by `Remapping`.

    Joined with `Remapping`, spare columns come first.

    Attributes:
        columns: spare columns of a tile, `>= 1`.
        tile: rows and columns of a tile that weights are in; the spare ones come on top.

    Example:

    ```python
    with chip.program(model), SpareColumns(4)(model, chip):
        model.evaluate(test_images, test_labels)
    ```
    """

    name: ClassVar[str] = "spare_columns"
    access_tier: ClassVar[Tier] = "C"

    columns: int = 4
    tile: tuple[int, int] = TILE

    def __post_init__(self) -> None:
        """Checks the options."""
        if isinstance(self.columns, bool) or not isinstance(self.columns, int) or self.columns < 1:
            raise ValueError(
                f"`columns` must be an integer >= 1. Received: columns={self.columns!r}"
            )
        object.__setattr__(self, "tile", checked_tile(self.tile))

    def apply(self, hand: Hand) -> None:
        """Moves the worst columns of each kernel, and writes all weights."""
        for name, response in hand.responses.items():
            kernel, crossbar = hand.kernel(name), hand.crossbar(name)
            if hand.chip is None:  # for the type checker: `responses` has raised
                continue
            hand.responses[name] = self.taken_over(name, kernel, response, crossbar, hand.chip)
            hand.write(name, hand.responses[name].write(kernel))

    def taken_over(
        self, name: str, kernel: np.ndarray, response: Response, crossbar: Crossbar, chip: Chip
    ) -> Response:
        """Returns the response of a kernel's places after columns were taken over."""
        row, column = (np.broadcast_to(one, crossbar.split).ravel() for one in crossbar.positions())
        positive, negative, offset, limit = (
            np.array(np.broadcast_to(one, kernel.shape)).ravel()
            for one in (response.positive, response.negative, response.offset, response.limit)
        )
        weights = kernel.ravel()
        energy = np.bincount(column, weights.astype(np.float64) ** 2, crossbar.columns)
        worth = 1 / np.maximum(energy[column], 1e-30)
        number = row // self.tile[0] * crossbar.grid(self.tile)[1] + column // self.tile[1]
        for tile in np.unique(number):
            inside = np.flatnonzero(number == tile)
            spare = self._spares(f"{name}/spare/{tile}", chip, float(limit.max()))
            line, at = column[inside] % self.tile[1], row[inside] % self.tile[0]

            def cost(gain: Any, loss: Any, moved: Any, inside: Any = inside) -> np.ndarray:
                low, high = moved - loss * limit[inside], moved + gain * limit[inside]
                return distance(weights[inside], low, high) * worth[inside]

            stay = cost(positive[inside], negative[inside], offset[inside])
            gains = np.stack(
                [
                    np.bincount(line, stay - cost(*(part[at, one] for part in spare)), self.tile[1])
                    for one in range(self.columns)
                ],
                axis=1,
            )
            for taken, one in zip(*linear_sum_assignment(-gains), strict=True):
                if gains[taken, one] <= 0:
                    continue
                moved = line == taken
                places = inside[moved]
                for held, part in zip((positive, negative, offset), spare, strict=True):
                    held[places] = part[at[moved], one]
        parts = (part.reshape(kernel.shape) for part in (positive, negative, offset, limit))
        return Response(*parts)

    def _spares(self, name: str, chip: Chip, limit: float) -> tuple[np.ndarray, ...]:
        """Returns gains and offsets of the spare places of a tile, `(rows, spare columns)`."""
        shape = KernelShape(Crossbar.dense((self.tile[0], self.columns)))
        largest = np.full(shape, limit, np.float32)
        above, below = chip.draw(name, shape, largest), chip.draw(name, shape, -largest)
        offset = np.zeros(shape, np.float32) if above.offset is None else above.offset
        return above.mask, below.mask, offset
