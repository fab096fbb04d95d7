"""What to program into each cell of a real chip: tile, row, column, conductance in siemens.

The inverse of `tile_maps`: from a trained model to the programmer of an array. The file is a CSV
table of one line for each cell in use, in the order of tiles, rows and columns:

    tile,row,column,kernel,siemens
    0,0,0,conv/kernel,5.05e-05
"""

import csv
import os
from dataclasses import dataclass

import keras
import numpy as np

from keras_rram.chips.unrolling import kernel_shape
from keras_rram.faults import CellMapping
from keras_rram.files import written_whole
from keras_rram.hardware.tile_maps import places
from keras_rram.hardware.tile_placement import TilePlacement, cells_of
from keras_rram.layers import faulty_layers

COLUMNS = ("tile", "row", "column", "kernel", "siemens")


@dataclass(frozen=True, eq=False)
class ProgrammingMap:
    """Target conductances of a model's cells.

    Attributes:
        tiles: one float array for each tile, its rows (word lines) by its columns (bit lines), in
            siemens; NaN where a cell is not in use.
        kernels: one array of texts for each tile, the name of the kernel that a cell belongs to;
            empty where it is not in use.
    """

    tiles: tuple[np.ndarray, ...]
    kernels: tuple[np.ndarray, ...]

    def rows(self) -> list[tuple[int, int, int, str, float]]:
        """Returns tile, row, column, kernel and siemens of each cell in use."""
        found = []
        for number, (tile, names) in enumerate(zip(self.tiles, self.kernels, strict=True)):
            for row, column in np.argwhere(np.isfinite(tile)).tolist():
                found.append((number, row, column, names[row, column], float(tile[row, column])))
        return found

    def save(self, path: str | os.PathLike) -> None:
        """Writes the map as a CSV file, see the module."""
        with (
            written_whole(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            table.writerows((*cell, f"{siemens:.9g}") for *cell, siemens in self.rows())


def programming_map(
    model: keras.Model, placement: TilePlacement, mapping: CellMapping
) -> ProgrammingMap:
    """Returns the conductance that each cell must be programmed to, to hold a model's weights.

    Reference columns, which hold no weight, are not in it; a chip's faults have no part in it: it
    says what is wanted of a cell, stuck or not.

    Args:
        model: the model that the placement was made for.
        placement: which tile holds what.
        mapping: how weights become conductances, as the placement was made with.

    Raises:
        ValueError: if placement, mapping and model do not fit.

    Example:

    ```python
    mapping = DifferentialPair(g_min=1e-6, g_max=1e-4)
    programming_map(model, place(model, mapping), mapping).save("program.csv")
    ```
    """
    if cells_of(mapping) != (placement.cells_per_weight, placement.reference_columns):
        raise ValueError(
            f"The placement has {placement.cells_per_weight} cells in a weight and "
            f"{placement.reference_columns} reference columns, the mapping {cells_of(mapping)}: "
            "give `place` the same mapping."
        )
    shape = (placement.tiles, *placement.tile)
    siemens, names = np.full(shape, np.nan), np.full(shape, "", object)
    for name, where in places(model, placement).items():
        layer, _, slot = name.rpartition("/")
        owner = faulty_layers(model)[layer]
        kernel = keras.ops.convert_to_numpy(owner.kernels[slot])
        scale = mapping.scale(kernel, kernel_shape(owner, slot))
        siemens[where] = np.moveaxis(mapping.conductances(kernel, scale), 0, -1)
        names[where] = name
    return ProgrammingMap(tuple(siemens), tuple(names))
