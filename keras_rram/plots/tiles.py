"""Pictures of the tiles of a chip: which cells are stuck, and where.

A function returns a figure, and writes it if there is a path, in the format of its ending.
"""

import math
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from keras_rram.hardware.tile_maps import CODES, HEALTHY, STUCK_OFF, STUCK_ON, UNUSED, checked_tiles
from keras_rram.plots.figure import finish

# Of Okabe and Ito: blue and vermilion can be told apart by colour-blind people.
_COLOURS = {UNUSED: "#FFFFFF", HEALTHY: "#DDDDDD", STUCK_OFF: "#0072B2", STUCK_ON: "#D55E00"}
_INCHES = 2.6


def tile_maps(
    tiles: Sequence[np.ndarray],
    path: str | os.PathLike | None = None,
    titles: Sequence[str] = (),
    columns: int = 4,
) -> Figure:
    """Draws the fault map of each tile: a pixel for each cell, word lines down, bit lines across.

    Above each map is its title, or the tile's number, and the share of its cells in use that are
    stuck.

    Args:
        tiles: codes (see `keras_rram.hardware.tile_maps`), or conductances in siemens,
            drawn on one scale; `tiles_from_chip` makes them from a chip.
        path: the file to write, in the format of its ending; None writes none.
        titles: a title for each tile.
        columns: maps side by side.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no tile, a tile is no map, codes and conductances are mixed, or
            there are not as many titles as tiles.

    Example:

    ```python
    tile_maps(tiles_from_chip(chip, model, place(model)), "tiles.png")
    ```
    """
    tiles = checked_tiles(tiles, "`tiles`")
    if titles and len(titles) != len(tiles):
        raise ValueError(f"expected {len(tiles)} titles. Received: {len(titles)}")
    if len({tile.dtype.kind for tile in tiles}) > 1:
        raise ValueError("expected tiles of codes or tiles of conductances. Received: both")
    across = min(columns, len(tiles))
    down = math.ceil(len(tiles) / across)
    height = _INCHES * max(min(tiles[0].shape[0] / tiles[0].shape[1], 2.0), 0.3) + 0.5
    figure = Figure(figsize=(_INCHES * across + 0.6, height * down + 0.5), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    is_codes = tiles[0].dtype.kind == "i"
    if is_codes:
        style = {
            "cmap": ListedColormap([_COLOURS[code] for code in CODES.values()]),
            "norm": BoundaryNorm(np.arange(-1.5, 3), len(CODES)),
        }
    else:
        highest = max((np.nanmax(tile) for tile in tiles if np.isfinite(tile).any()), default=1.0)
        style = {"cmap": "viridis", "vmin": 0.0, "vmax": 1e6 * highest}
    for number, one in enumerate(axes):
        if number >= len(tiles):
            one.set_axis_off()
            continue
        tile = tiles[number]
        image = one.imshow(tile if is_codes else 1e6 * tile, interpolation="nearest", **style)
        title = titles[number] if titles else f"tile {number}"
        one.set_title(f"{title}\n{_share(tile)}", fontsize=8.5)
        one.tick_params(labelsize=7)
        one.set_facecolor(_COLOURS[HEALTHY])
    axes[0].set_xlabel("bit line", fontsize=8)
    axes[0].set_ylabel("word line", fontsize=8)
    if is_codes:
        drawn = np.unique(np.stack(tiles))
        handles = [
            Patch(facecolor=_COLOURS[code], edgecolor="#555555", linewidth=0.5, label=name)
            for name, code in CODES.items()
            if code in drawn
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8.5)
    else:
        bar = figure.colorbar(image, ax=axes.tolist(), shrink=0.8)
        bar.set_label("stuck at, microsiemens (grey: healthy)", fontsize=8.5)
    return finish(figure, path)


def _share(tile: np.ndarray) -> str:
    if tile.dtype.kind == "f":
        return f"{np.isfinite(tile).mean():.1%} stuck"
    used = (tile != UNUSED).sum()
    return f"{np.isin(tile, (STUCK_OFF, STUCK_ON)).sum() / used:.1%} stuck" if used else "empty"
