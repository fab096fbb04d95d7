"""Tile maps of a chip as small pictures: a pixel for each cell, or for a block of cells."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from keras_rram.hardware.tile_maps import STUCK_OFF, STUCK_ON, UNUSED, tiles_from_chip
from keras_rram.hardware.tile_placement import TilePlacement

BLOCKS = (1, 2, 4, 8, 16, 32)
"""Sides of the blocks of cells that a pixel may stand for."""

_GAP = 2
_WIDTH = 512
_SHADES = 12  # of a block's share of faulty cells
# Not in use, healthy, stuck off, stuck on: blue and vermilion, for colour-blind people too.
_CODES = ((255, 255, 255), (221, 221, 221), (0, 114, 178), (213, 94, 0))


def chip_pictures(
    chip: Any, model: Any, placement: TilePlacement, block: int = 1
) -> dict[str, bytes]:
    """Returns kernel name -> PNG file of its tiles on a chip, side by side, word lines down.

    Args:
        chip: the `Chip`.
        model: the model that the placement was made for.
        placement: which tile holds what, each part on a tile of its own.
        block: side of the square of cells that a pixel stands for. With 1 a pixel is a cell: white
            not in use, grey healthy, blue stuck off, vermilion stuck on. Above, its blue is the
            share of the cells in use that are faulty, full from one half on.
    """
    tiles = tiles_from_chip(chip, model, placement)
    found = {}
    for kernel, parts in placement.kernels.items():
        cut = []
        for part in parts:
            height = part.block.shape[0]
            width = part.block.shape[1] + part.column
            rows = slice(part.row, part.row + height)
            cut.append(_coded(tiles[part.tile][rows, part.column : width], block))
        found[kernel] = _png(_side_by_side(cut), block)
    return found


def data_uri(png: bytes) -> str:
    """Returns a PNG file as a URI that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def fitting_block(sizes: Mapping[int, int], limit: int) -> int:
    """Returns the smallest block whose pictures have at most `limit` bytes, else the largest.

    Args:
        sizes: block -> bytes of all pictures.
        limit: bytes.
    """
    return min((one for one, size in sizes.items() if size <= limit), default=max(sizes))


def _coded(tile: np.ndarray, block: int) -> np.ndarray:
    """Returns the colours of a part of a tile, as places in the palette."""
    if block == 1:
        return (tile - UNUSED).astype(np.uint8)
    padded = [(0, -size % block) for size in tile.shape]
    cells = np.pad(tile, padded, constant_values=UNUSED)
    down, across = cells.shape[0] // block, cells.shape[1] // block
    blocks = cells.reshape(down, block, across, block)
    used = (blocks != UNUSED).sum((1, 3))
    faulty = np.isin(blocks, (STUCK_OFF, STUCK_ON)).sum((1, 3))
    share = np.divide(faulty, used, out=np.zeros(used.shape), where=used > 0)
    shade = 1 + np.minimum(np.round(2 * share * (_SHADES - 1)), _SHADES - 1)
    return np.where(used > 0, shade, 0).astype(np.uint8)


def _side_by_side(parts: list[np.ndarray]) -> np.ndarray:
    """Puts pictures in rows no wider than a page, with gaps."""
    rows: list[list[np.ndarray]] = [[]]
    width = 0
    for part in parts:
        if rows[-1] and width + _GAP + part.shape[1] > _WIDTH:
            rows.append([])
            width = 0
        width += part.shape[1] + (_GAP if rows[-1] else 0)
        rows[-1].append(part)
    whole = max(sum(one.shape[1] for one in row) + _GAP * (len(row) - 1) for row in rows)
    heights = [max(one.shape[0] for one in row) for row in rows]
    picture = np.zeros((sum(heights) + _GAP * (len(rows) - 1), whole), np.uint8)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for one in row:
            picture[top : top + one.shape[0], left : left + one.shape[1]] = one
            left += one.shape[1] + _GAP
        top += height + _GAP
    return picture


def _png(picture: np.ndarray, block: int) -> bytes:
    if block == 1:
        colours: Any = _CODES
    else:
        healthy, stuck = np.array(_CODES[1]), np.array(_CODES[2])
        steps = np.linspace(0, 1, _SHADES)[:, None]
        colours = [_CODES[0], *np.round(healthy + steps * (stuck - healthy)).astype(int).tolist()]
    image = Image.fromarray(picture, mode="P")
    image.putpalette([value for colour in colours for value in colour])
    file = io.BytesIO()
    image.save(file, format="PNG", bits=2 if block == 1 else 4, optimize=True)
    return file.getvalue()
