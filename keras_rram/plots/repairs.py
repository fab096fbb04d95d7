"""A figure of several repairs on the same chips: mean, interval and worst chip of each."""

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_rram.evaluation.results import PopulationResult
from keras_rram.plots.figure import COLOURS, GREY, MARKERS, axes_for, finish, legend_above, percent

_TIERS = "ABC"


def repair_dots(
    results: Mapping[str, PopulationResult],
    path: str | os.PathLike | None = None,
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draws the accuracy of repaired chips, a line for each repair, coloured by access tier.

    A marker is the mean over chips with its 95% interval, a small bar the worst chip; the dotted
    line is the model without faults.

    Args:
        results: what a repair is called -> its result on the same chips, two or more.
        path: the file to write, in the format of its ending; None writes none.
        ax: the axes to draw into; None for a figure of its own.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no result, or one of fewer than two chips.
    """
    if not results or any(len(result.chips) < 2 for result in results.values()):
        raise ValueError(
            "expected results of two chips or more. Received: "
            f"{ {name: len(result.chips) for name, result in results.items()} }"
        )
    figure, (axes,) = axes_for(ax, width=7.2, height=0.28 * len(results) + 1.5)
    seen = set()
    for place, result in enumerate(results.values()):
        tier = _TIERS.index(result.access_tier)
        found = result.mean_interval()
        reach = [[result.mean - found.low], [found.high - result.mean]]
        axes.errorbar(
            result.mean,
            place,
            xerr=np.maximum(reach, 0),
            color=COLOURS[tier],
            marker=MARKERS[tier],
            markersize=5,
            linestyle="none",
            capsize=2,
            label=None if tier in seen else f"tier {result.access_tier}",
        )
        axes.plot(result.worst.accuracy, place, color=COLOURS[tier], marker="|", markersize=9)
        seen.add(tier)
    axes.plot([], [], color=GREY, marker="|", markersize=9, linestyle="none", label="worst chip")
    fault_free = next(iter(results.values())).fault_free
    axes.axvline(fault_free, color=GREY, linestyle=":", linewidth=1, label="without faults")
    axes.set_yticks(range(len(results)), list(results), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy")
    percent(axes.xaxis)
    legend_above(figure, axes, ax is None)
    return finish(figure, path)
