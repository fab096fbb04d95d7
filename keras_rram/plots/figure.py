"""What all figures share: axes of one look, legends, and files in the format of their ending.

Without `pyplot`: no global state of matplotlib is changed. Colours are those of Okabe and Ito,
which can be told apart by colour-blind people (https://jfly.uni-koeln.de/color/); line styles and
markers differ too.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from keras_rram.files import written_whole

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#555555"
# Without dates and versions in the file: equal figures are equal files.
_PLAIN = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".svg": {"Date": None, "Creator": None},
}


def axes_for(
    ax: Axes | Sequence[Axes] | None, columns: int = 1, width: float = 6.0, height: float = 3.9
) -> tuple[Figure, list[Any]]:
    """Returns a figure and its axes: those of the caller, or new ones.

    Args:
        ax: axes to draw into, as many as there are columns; None for a figure of its own.
        columns: axes side by side.
        width: of a new figure, in inches.
        height: likewise.

    Raises:
        ValueError: if there are not as many axes as columns.
    """
    if ax is None:
        figure = Figure(figsize=(width, height), layout="constrained")
        found = list(figure.subplots(1, columns, squeeze=False)[0])
    else:
        found = [ax] if isinstance(ax, Axes) else list(ax)
        if len(found) != columns:
            raise ValueError(f"expected {columns} axes in ax=. Received: {len(found)}")
        root = found[0].get_figure(root=True)
        if root is None:
            raise ValueError("expected axes of a figure in ax=. Received: axes without one")
        figure = root
    for one in found:
        one.grid(color="#DDDDDD", linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, found


def finish(figure: Figure, path: str | os.PathLike | None) -> Figure:
    """Writes a figure, if there is a path, in the format of its ending, and returns it.

    Args:
        figure: the figure.
        path: a `.png`, `.pdf` or `.svg` file, or any other format that matplotlib has; written
            whole or not at all. PDF and SVG are vectors.

    Raises:
        ValueError: if matplotlib has no such format.
    """
    if path is None:
        return figure
    suffix = pathlib.Path(path).suffix.lower()
    known = figure.canvas.get_supported_filetypes()
    if suffix[1:] not in known:
        raise ValueError(
            f"expected a file of a figure, one of {sorted(known)}. Received: path='{path}'"
        )
    with written_whole(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "keras_rram"}):
        figure.savefig(temporary, format=suffix[1:], dpi=130, metadata=_PLAIN.get(suffix))
    return figure


def percent(axis: Any) -> None:
    """Labels an axis of shares in percent."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: in_percent(value)))


def in_percent(share: float) -> str:
    """Returns a share as a number of percent."""
    return f"{100 * share:.4g}%"


def legend_above(figure: Figure, axes: Axes, is_own: bool) -> None:
    """Puts the legend where it can cover no chip; in axes of the caller within them."""
    handles, labels = axes.get_legend_handles_labels()
    if not is_own:
        axes.legend(fontsize=8.5, framealpha=0.8, edgecolor="none")
        return
    longest = max(map(len, labels))
    columns = min(len(labels), 3 if longest <= 24 else 2 if longest <= 40 else 1)
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, fontsize=8.5, frameon=False
    )
