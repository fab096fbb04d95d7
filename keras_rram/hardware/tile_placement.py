"""Which tile of a chip holds which part of which kernel."""

import dataclasses
from typing import Any

import keras

from keras_rram.chips.unrolling import kernel_shape
from keras_rram.faults import BitSlices, CellMapping, ReferenceColumn
from keras_rram.faults.crossbar import TILE, Block, Crossbar, checked_tile
from keras_rram.layers import faulty_layers


@dataclasses.dataclass(frozen=True)
class Part:
    """A rectangle of a kernel's unrolled matrix of cells, and where it is on the chip.

    Attributes:
        kernel: kernel name, `layer/kernel`.
        block: rows and columns of the kernel's matrix (see `Crossbar`).
        tile: number of the tile, from 0.
        row: first word line of the part in the tile.
        column: first bit line of the part in the tile.
    """

    kernel: str
    block: Block
    tile: int
    row: int
    column: int


@dataclasses.dataclass(frozen=True)
class TilePlacement:
    """A model's kernels on the tiles of a chip, as `place` made it.

    Attributes:
        tile: rows and columns of a tile.
        cells_per_weight: cells of a weight, side by side on a word line.
        reference_columns: bit lines at the right end of every tile that hold no weight.
        parts: the parts of all kernels, in the order of the model.
    """

    tile: tuple[int, int]
    cells_per_weight: int
    reference_columns: int
    parts: tuple[Part, ...]

    @property
    def tiles(self) -> int:
        """How many tiles are in use."""
        return 1 + max(part.tile for part in self.parts)

    @property
    def kernels(self) -> dict[str, tuple[Part, ...]]:
        """Kernel name -> its parts, in the order of `Crossbar.blocks`."""
        found: dict[str, list[Part]] = {}
        for part in self.parts:
            found.setdefault(part.kernel, []).append(part)
        return {name: tuple(parts) for name, parts in found.items()}

    @property
    def room(self) -> tuple[int, int]:
        """Rows and columns of a tile that can hold weights."""
        return self.tile[0], self.tile[1] - self.reference_columns


def place(
    model: keras.Model,
    mapping: CellMapping | None = None,
    tile: tuple[int, int] | int = TILE,
    share: bool = False,
) -> TilePlacement:
    """Places the kernels of a model's Drop-Connect layers onto tiles, first fit in layer order.

    Each kernel's matrix of cells is cut into parts no larger than a tile. Each part goes to a tile
    of its own, or with `share=True` to the first tile with enough word lines and bit lines that no
    other part uses: parts on one tile touch at corners, so that all can compute at once
    (the staircase of [Haensch, 2024](https://arxiv.org/abs/2411.04814)).

    Args:
        model: a built model with Drop-Connect layers.
        mapping: how weights become conductances of cells; None for one cell in a weight.
        tile: rows (word lines) and columns (bit lines) of a tile.
        share: whether several parts can be on one tile.

    Raises:
        ValueError: if the model has no Drop-Connect layer, or a tile has no room for a weight.

    Example:

    ```python
    placement = place(model, tile=(128, 128))
    placement.tiles, placement.kernels["head/kernel"]
    ```
    """
    tile = checked_tile(tile)
    cells, references = cells_of(mapping)
    room = (tile[0], tile[1] - references)
    if room[1] < 1:
        raise ValueError(f"A tile of {tile} has no room beside {references} reference columns.")
    parts: list[Part] = []
    used: list[tuple[int, int]] = []  # word lines and bit lines of each tile that are taken
    for name, crossbar in crossbars_of(model, cells).items():
        for block in crossbar.blocks(room):
            number = _first_fit(used, block.shape, room) if share else len(used)
            if number == len(used):
                used.append((0, 0))
            row, column = used[number]
            used[number] = (row + block.shape[0], column + block.shape[1])
            parts.append(Part(name, block, number, row, column))
    return TilePlacement(tile, cells, references, tuple(parts))


def crossbars_of(model: keras.Model, cells: int) -> dict[str, Crossbar]:
    """Returns kernel name -> the crossbar of the kernel's cells, for all Drop-Connect layers.

    Raises:
        ValueError: if the model has none.
    """
    found = {
        f"{name}/{slot}": kernel_shape(layer, slot).crossbar.with_cells(cells)
        for name, layer in faulty_layers(model).items()
        for slot in layer.kernels
    }
    if not found:
        raise ValueError(
            f"Model '{model.name}' has no Drop-Connect layer to put on a crossbar. Convert it with "
            "`to_drop_connect(model, rate)`; rate 0 is enough."
        )
    return found


def cells_of(mapping: CellMapping | None) -> tuple[int, int]:
    """Returns a mapping's cells per weight and its reference columns per tile.

    One bit line of each tile is the reference of `ReferenceColumn` and of offset-binary
    `BitSlices`.

    Raises:
        TypeError: if it is no mapping.
    """
    if mapping is None:
        return 1, 0
    given: Any = mapping
    if not isinstance(given, CellMapping):
        raise TypeError(f"`mapping` must be a `CellMapping` or None. Received: mapping={given!r}")
    is_offset = isinstance(mapping, BitSlices) and mapping.encoding == "offset_binary"
    return mapping.cells_per_weight, int(is_offset or isinstance(mapping, ReferenceColumn))


def _first_fit(used: list[tuple[int, int]], shape: tuple[int, int], room: tuple[int, int]) -> int:
    for number, (rows, columns) in enumerate(used):
        if rows + shape[0] <= room[0] and columns + shape[1] <= room[1]:
            return number
    return len(used)
