"""What a network costs in cells and tiles of a crossbar chip."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras

from keras_rram.faults import CellMapping
from keras_rram.faults.cells import MAPPINGS as CELL_MAPPINGS
from keras_rram.faults.crossbar import TILE, checked_tile
from keras_rram.hardware.tile_placement import cells_of, crossbars_of

MAPPINGS: dict[str, CellMapping | None] = {"single_cell": None, **CELL_MAPPINGS}
"""Name -> mapping, for `hardware_cost` and `summary_table`."""


@dataclass(frozen=True)
class KernelCost:
    """One kernel of a `HardwareCost`.

    Attributes:
        kernel: kernel name, `layer/kernel`.
        rows: word lines of the unrolled kernel.
        columns: bit lines of the unrolled kernel, those of all cells of its weights.
        weights: number of weights.
        cells: cells that hold weights or references.
        tiles: tiles that hold a part of the kernel.
        utilization: `cells` over the cells of these tiles, in `[0, 1]`.
    """

    kernel: str
    rows: int
    columns: int
    weights: int
    cells: int
    tiles: int
    utilization: float


@dataclass(frozen=True)
class HardwareCost:
    """Cells and tiles of a network under one mapping; `str()` prints a table.

    Attributes:
        mapping: name of the mapping.
        tile: rows and columns of a tile.
        rows: one row for each kernel on the chip, in the order of the network.
    """

    mapping: str
    tile: tuple[int, int]
    rows: tuple[KernelCost, ...]

    @property
    def cells(self) -> int:
        """Cells that hold weights or references."""
        return sum(row.cells for row in self.rows)

    @property
    def tiles(self) -> int:
        """Tiles of all kernels, where no tile holds parts of two."""
        return sum(row.tiles for row in self.rows)

    @property
    def utilization(self) -> float:
        """Share of the tiles' cells that are in use, in `[0, 1]`."""
        return self.cells / (self.tiles * self.tile[0] * self.tile[1]) if self.rows else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the totals and, under "rows", one dict for each kernel: plain values for JSON."""
        return {
            "mapping": self.mapping,
            "tile": list(self.tile),
            "cells": self.cells,
            "tiles": self.tiles,
            "utilization": self.utilization,
            "rows": [asdict(row) for row in self.rows],
        }

    def __str__(self) -> str:
        """Returns the table as aligned text."""
        title = f"{self.mapping}, tiles of {self.tile[0]} x {self.tile[1]}"
        lines = [(title, "matrix", "cells", "tiles", "used")]
        for row in self.rows:
            counts = (f"{row.rows} x {row.columns}", f"{row.cells:,}", f"{row.tiles:,}")
            lines.append((row.kernel, *counts, f"{row.utilization:.1%}"))
        totals = ("", f"{self.cells:,}", f"{self.tiles:,}", f"{self.utilization:.1%}")
        lines.append(("total", *totals))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])


def hardware_cost(
    model: keras.Model, mapping: Any = "differential_pair", tile: tuple[int, int] | int = TILE
) -> HardwareCost:
    """Counts the cells and tiles of a model's Drop-Connect layers, those on faulty hardware.

    Every part of a kernel has a tile of its own; `place(model, share=True)` of
    `keras_rram.hardware` says how many tiles remain where parts share them. A reference
    column has one cell for each word line in use. How kernels are unrolled is documented at
    `keras_rram.faults.Crossbar`; of a depthwise kernel most cells of a tile stay unused.

    Args:
        model: a built model with Drop-Connect layers.
        mapping: how weights become conductances of cells: a key of `MAPPINGS`, or a `CellMapping`.
        tile: rows (word lines) and columns (bit lines) of a tile.

    Raises:
        ValueError: if the mapping is unknown, the model has no Drop-Connect layer, or a tile has no
            room for a weight.

    Example:

    ```python
    cost = hardware_cost(model, "differential_pair")
    cost.tiles, cost.utilization
    ```
    """
    height, width = tile = checked_tile(tile)
    name, cells, references = _resolve(mapping)
    if width <= references:
        raise ValueError(f"A tile of {tile} has no room beside {references} reference columns.")
    rows = []
    for kernel, crossbar in crossbars_of(model, cells).items():
        blocks = crossbar.blocks((height, width - references))
        used = crossbar.size + references * sum(block.shape[0] for block in blocks)
        rows.append(
            KernelCost(
                kernel=kernel,
                rows=crossbar.rows,
                columns=crossbar.columns,
                weights=crossbar.size // cells,
                cells=used,
                tiles=len(blocks),
                utilization=used / (len(blocks) * height * width),
            )
        )
    return HardwareCost(name, tile, tuple(rows))


def hardware_costs(
    model: keras.Model, mappings: Any, tile: tuple[int, int] | int = TILE
) -> tuple[HardwareCost, ...]:
    """Returns the cost under several mappings: names, mappings, or a dict of mappings by name."""
    if isinstance(mappings, Mapping):
        named = (hardware_cost(model, mapping, tile) for mapping in mappings.values())
        return tuple(
            HardwareCost(name, cost.tile, cost.rows)
            for name, cost in zip(mappings, named, strict=True)
        )
    several = mappings if isinstance(mappings, list | tuple) else (mappings,)
    return tuple(hardware_cost(model, mapping, tile) for mapping in several)


def _resolve(mapping: Any) -> tuple[str, int, int]:
    if not isinstance(mapping, str):
        return type(mapping).__name__, *cells_of(mapping)
    if mapping not in MAPPINGS:
        raise ValueError(
            f"`mapping` must be one of {sorted(MAPPINGS)}, or a `CellMapping`. "
            f"Received: mapping={mapping!r}"
        )
    return mapping, *cells_of(MAPPINGS[mapping])
