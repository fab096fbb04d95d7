"""Measured maps of tiles: which cells of a real chip are stuck, tile by tile.

A map is one array for each tile, of the tile's rows (word lines) and columns (bit lines), in one of
two forms:

- codes, an array of integers: 0 healthy, 1 stuck_off (low conductance), 2 stuck_on (high
  conductance), -1 not in use;
- conductances, an array of floats: what a stuck cell is stuck at, in siemens, and NaN where a cell
  is healthy or not in use.

As files:

- `.npz`: one array for each tile, in the order of their names, numbers in them by their value:
  `arr_2` comes before `arr_10`;
- `.csv`: one tile, a line for each row, values between commas, codes or conductances and `nan`; a
  file of codes alone is one of codes, any other one of conductances;
- `.png`: one tile, a pixel for each cell, grey levels 128 healthy, 0 (dark) stuck_off, 255 (bright)
  stuck_on, 64 not in use;
- a folder of `.csv` or of `.png` files: one for each tile, in the order of their names as above.

The literature calls these faults SA0 and SA1, of either polarity; here conductance names them.
"""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from matplotlib.image import imread, imsave

from keras_rram.chips.chip import Chip
from keras_rram.chips.unrolling import kernel_shape
from keras_rram.faults import CellFault, CellMapping, Fault
from keras_rram.files import read_sealed_npz, write_npz, written_whole
from keras_rram.files.schemas import TILES
from keras_rram.hardware.tile_placement import TilePlacement, cells_of, crossbars_of
from keras_rram.layers import faulty_layers

UNUSED, HEALTHY, STUCK_OFF, STUCK_ON = -1, 0, 1, 2
CODES = {"not in use": UNUSED, "healthy": HEALTHY, "stuck_off": STUCK_OFF, "stuck_on": STUCK_ON}
_RECORD = "__tiles__"
_GREYS = {128: HEALTHY, 0: STUCK_OFF, 255: STUCK_ON, 64: UNUSED}


def load_tiles(path: str | os.PathLike) -> tuple[np.ndarray, ...]:
    """Loads a map of tiles, see the module for the forms of files.

    Args:
        path: an `.npz`, `.csv` or `.png` file, or a folder of `.csv` or `.png` files.

    Returns:
        One array for each tile, of integers (codes) or floats (siemens).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no map, or has codes or grey levels that mean nothing.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no map of tiles at '{path}'.")
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix in (".csv", ".png")]
        found.sort(key=lambda one: _numbered(one.name))
        if not found or len({p.suffix for p in found}) > 1:
            raise ValueError(
                f"Expected a folder of `.csv` or of `.png` files, one for each tile. Received: "
                f"'{path}' with {[p.name for p in found]}"
            )
        return checked_tiles([tile for one in found for tile in load_tiles(one)], path)
    readers = {".npz": _read_npz, ".csv": _read_csv, ".png": _read_png}
    if path.suffix not in readers:
        raise ValueError(f"A map of tiles is {sorted(readers)} or a folder. Received: '{path}'")
    return checked_tiles(readers[path.suffix](path), path)


def save_tiles(
    path: str | os.PathLike, tiles: Sequence[np.ndarray], form: str | None = None
) -> None:
    """Saves a map of tiles as an `.npz` file, or as a folder of files.

    Args:
        path: the `.npz` file, or the folder, which is made if there is none.
        tiles: one array for each tile.
        form: "csv" or "png" for a folder of such files; "npz" or None for an `.npz` file. Pictures
            hold codes only.

    Raises:
        ValueError: if a tile is no map, `form` is unknown, or a picture is to hold conductances.
    """
    path, tiles = pathlib.Path(path), checked_tiles(tiles, "`tiles`")
    width = len(str(len(tiles) - 1))
    named = {f"tile_{number:0{width}}": tile for number, tile in enumerate(tiles)}
    if form in (None, "npz") and path.suffix == ".npz":
        write_npz(path, named, _RECORD, TILES, {"tiles": len(tiles)})
        return
    if form not in ("csv", "png") or path.suffix:
        raise ValueError(
            "Expected an `.npz` file, or a folder and form='csv' or 'png'. "
            f"Received: path='{path}', form={form!r}"
        )
    if form == "png" and any(tile.dtype.kind == "f" for tile in tiles):
        raise ValueError("A picture holds codes, not conductances: save them as csv or `.npz`.")
    path.mkdir(exist_ok=True)
    for name, tile in named.items():
        with written_whole(path / f"{name}.{form}") as temporary:
            if form == "csv":
                text = "%d" if tile.dtype.kind == "i" else "%.9g"
                np.savetxt(temporary, tile, fmt=text, delimiter=",")
            else:
                greys = np.full(tile.shape, 128, np.uint8)
                for grey, code in _GREYS.items():
                    greys[tile == code] = grey
                # Without the library's version in the file: equal maps are equal files.
                plain: dict[str, Any] = {"Software": None}
                imsave(temporary, np.stack([greys] * 3, axis=-1), metadata=plain)


def checked_tiles(tiles: Sequence[Any], where: Any) -> tuple[np.ndarray, ...]:
    """Returns tiles as arrays of int8 codes or float64 conductances.

    Raises:
        ValueError: if there is none, or one is no matrix of the first one's shape, or has codes or
            conductances that mean nothing.
    """
    arrays = [np.asarray(tile) for tile in tiles]
    if not arrays:
        raise ValueError(f"{where} holds no tile.")
    checked = []
    for number, array in enumerate(arrays):
        if array.ndim != 2 or array.shape != arrays[0].shape or not array.size:
            raise ValueError(
                f"Tiles must be matrices of one shape. Received: {array.shape} for tile {number} of"
                f" {where}, where tile 0 has {arrays[0].shape}"
            )
        if array.dtype.kind in "biu":
            unknown = sorted(set(np.unique(array).tolist()) - set(CODES.values()))
            if unknown:
                raise ValueError(
                    f"Tile {number} of {where} has the codes {unknown[:5]}. Known: {CODES}"
                )
            checked.append(array.astype(np.int8))
        elif array.dtype.kind == "f" and not np.isinf(array).any() and not (array < 0).any():
            checked.append(array.astype(float))
        else:
            raise ValueError(
                f"Tile {number} of {where} must have integer codes, or conductances >= 0 in "
                "siemens and NaN. Received: "
                f"{array.dtype}{', infinite or negative' if array.dtype.kind == 'f' else ''}"
            )
    return tuple(checked)


def chip_from_tiles(
    model: keras.Model,
    tiles: Sequence[np.ndarray],
    placement: TilePlacement,
    mapping: CellMapping | None = None,
    name: str = "",
) -> Chip:
    """Returns the measured chip that tiles make of a model.

    Args:
        model: the model that the placement was made for; with a mapping also its weights count.
        tiles: one array for each tile, as `load_tiles` returns them; more than the placement uses
            are no error.
        placement: which tile holds what.
        mapping: how cells make a weight; codes stand for its `g_min` and `g_max`. The faults are
            those of the kernels as they are now, so make the chip anew after retraining. None where
            one cell is one weight and stuck_off is zero; a cell stuck elsewhere is then an error.
        name: what the chip is called in results and files.

    Returns:
        A `Chip` with a fault for each kernel; `Chip.save` and `Chip.load` keep it.

    Raises:
        ValueError: if there are too few tiles, their shape or the placement does not fit, or a code
            is unknown.

    Example:

    ```python
    placement = place(model)
    chip = chip_from_tiles(model, load_tiles("tiles.npz"), placement)
    chip.save("chip.npz")
    ```
    """
    tiles = checked_tiles(tiles, "`tiles`")
    if len(tiles) < placement.tiles:
        raise ValueError(f"The placement needs {placement.tiles} tiles. Received: {len(tiles)}")
    if tiles[0].shape != placement.tile:
        raise ValueError(
            f"The placement is of tiles of {placement.tile}. Received: {tiles[0].shape}"
        )
    if cells_of(mapping) != (placement.cells_per_weight, placement.reference_columns):
        raise ValueError(
            f"The placement has {placement.cells_per_weight} cells in a weight and "
            f"{placement.reference_columns} reference columns, the mapping {cells_of(mapping)}: "
            "give `place` the same mapping."
        )
    stack = np.stack([_conductances(tile, mapping, n) for n, tile in enumerate(tiles)])
    faults = {}
    for kernel_name, where in places(model, placement).items():
        layer, _, slot = kernel_name.rpartition("/")
        cells = stack[where]
        if mapping is None:
            stuck = ~np.isnan(cells[..., 0])
            faults[kernel_name] = Fault((~stuck).astype(np.float32))
            continue
        owner = faulty_layers(model)[layer]
        kernel = keras.ops.convert_to_numpy(owner.kernels[slot])
        cells = np.moveaxis(cells, -1, 0).astype(np.float32)
        stuck = CellFault(np.isnan(cells).astype(np.float32), np.nan_to_num(cells))
        faults[kernel_name] = stuck.on(kernel, mapping, kernel_shape(owner, slot))
    return Chip(measured=faults, name=name)


def tiles_from_chip(
    chip: Chip, model: keras.Model, placement: TilePlacement
) -> tuple[np.ndarray, ...]:
    """Returns a chip's faults as maps of tiles, the inverse of `chip_from_tiles`.

    A faulty weight that reads as zero is stuck_off, one that reads as another value stuck_on. With
    one cell in a weight that is exact. Of several, a mask does not tell which are stuck: all cells
    of the weight are drawn.

    Returns:
        One array of codes for each tile.
    """
    tiles = np.full((placement.tiles, *placement.tile), UNUSED, np.int8)
    faults = chip.faults(model)
    for name, where in places(model, placement).items():
        fault = faults.get(name)
        if fault is None:
            tiles[where] = HEALTHY
            continue
        codes = np.where(fault.faulty, STUCK_OFF, HEALTHY)
        if fault.offset is not None:
            codes[fault.faulty & (fault.offset != 0)] = STUCK_ON
        tiles[where] = codes[..., None]
    return tuple(tiles)


def places(
    model: keras.Model, placement: TilePlacement
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns for each kernel the tile, row and column of its cells, `(*kernel.shape, cells)`."""
    crossbars = crossbars_of(model, placement.cells_per_weight)
    kernels = placement.kernels
    found = {}
    for name, crossbar in crossbars.items():
        parts = kernels.get(name, ())
        if [part.block for part in parts] != crossbar.blocks(placement.room):
            raise ValueError(
                f"The placement does not fit kernel '{name}' of model '{model.name}': make it with "
                "`place` for this model."
            )
        number, row, column = crossbar.locate(placement.room)
        offsets = np.array([(part.tile, part.row, part.column) for part in parts])
        where = (offsets[number, 0], row + offsets[number, 1], column + offsets[number, 2])
        tile, row, column = (
            np.broadcast_to(one, crossbar.split).reshape(crossbar.shape) for one in where
        )
        found[name] = (tile, row, column)
    unknown = sorted(set(kernels) - set(found))
    if unknown:
        raise ValueError(f"The placement has {unknown}, which model '{model.name}' has not.")
    return found


def _conductances(tile: np.ndarray, mapping: CellMapping | None, number: int) -> np.ndarray:
    """Returns what stuck cells are stuck at, NaN elsewhere."""
    if mapping is None and (
        tile.dtype.kind == "f" and (tile > 0).any() or (tile == STUCK_ON).any()
    ):
        raise ValueError(
            f"Tile {number} has cells that are not stuck_off: give the `mapping` that says what "
            "weight they make."
        )
    if tile.dtype.kind == "f":
        return tile
    found = np.full(tile.shape, np.nan)
    found[tile == STUCK_OFF] = 0.0 if mapping is None else mapping.g_min
    if mapping is not None:
        found[tile == STUCK_ON] = mapping.g_max
    return found


def _numbered(name: str) -> tuple[list[str | int], str]:
    """Returns what names of tiles are sorted by: their numbers by value, 2 before 10."""
    parts = re.split("([0-9]+)", name)
    # Every second part is a number; the name itself tells `tile_1` and `tile_01` apart.
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _read_npz(path: pathlib.Path) -> list[np.ndarray]:
    _, arrays = read_sealed_npz(path, _RECORD, TILES, "an `.npz` file of arrays")
    return [arrays[name] for name in sorted(arrays, key=_numbered)]


def _read_csv(path: pathlib.Path) -> list[np.ndarray]:
    try:
        values = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"'{path}' is not a table of numbers: {error}") from error
    is_codes = np.isin(values, list(CODES.values())).all()
    return [values.astype(np.int8) if is_codes else values]


def _read_png(path: pathlib.Path) -> list[np.ndarray]:
    try:
        picture = imread(path)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # of the picture's reader, which has many
        raise ValueError(f"'{path}' is no PNG picture, or damaged: {error}") from None
    if picture.dtype.kind == "f":
        picture = np.round(picture * 255)
    channels = picture[..., None] if picture.ndim == 2 else picture[..., :3]
    greys = channels[..., 0].astype(int)
    unknown = sorted(set(np.unique(greys).tolist()) - set(_GREYS))
    if (channels != channels[..., :1]).any() or unknown:
        raise ValueError(
            f"'{path}' must be grey, of the levels {sorted(_GREYS)}. Received: "
            f"{unknown[:5] or 'colours'}"
        )
    codes = np.zeros(greys.shape, np.int8)
    for grey, code in _GREYS.items():
        codes[greys == grey] = code
    return [codes]
