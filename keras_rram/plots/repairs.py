"""Figures of repairs on the same chips: each of them, and one over the images that it gets."""

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


def repair_cost(
    curves: Mapping[str, Mapping[int, PopulationResult]],
    path: str | os.PathLike | None = None,
    *,
    without: PopulationResult | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draws the accuracy of repaired chips against the images that the repair gets.

    A marker is the mean over chips, the band its 95% interval, a thin line the worst chip; the
    dashed line is the mean of the same chips without a repair.

    Args:
        curves: what a repair is called -> number of images -> its result, two or more in each.
        path: the file to write, in the format of its ending; None writes none.
        without: the result of the same chips without a repair.
        ax: the axes to draw into; None for a figure of its own.

    Returns:
        The figure.

    Raises:
        ValueError: if a curve has fewer than two points.
    """
    if not curves or any(len(curve) < 2 for curve in curves.values()):
        raise ValueError(
            "expected two numbers of images or more for each repair. Received: "
            f"{ {name: sorted(curve) for name, curve in curves.items()} }"
        )
    figure, (axes,) = axes_for(ax)
    for place, (name, curve) in enumerate(curves.items()):
        counts = sorted(curve)
        found = [curve[count] for count in counts]
        bands = [result.mean_interval() for result in found]
        colour = COLOURS[place % len(COLOURS)]
        axes.fill_between(
            counts,
            [band.low for band in bands],
            [band.high for band in bands],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
        axes.plot(
            counts,
            [result.mean for result in found],
            color=colour,
            marker=MARKERS[place % len(MARKERS)],
            markersize=4,
            label=f"{name} (tier {found[0].access_tier})",
        )
        axes.plot(counts, [result.worst.accuracy for result in found], color=colour, linewidth=0.7)
    axes.plot([], [], color=GREY, linewidth=0.7, label="worst chip")
    if without is not None:
        axes.axhline(without.mean, color=GREY, linestyle="--", linewidth=1, label="no repair")
    counts = sorted({count for curve in curves.values() for count in curve})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{count:,}" for count in counts], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("images of the repair")
    axes.set_ylabel("accuracy")
    percent(axes.yaxis)
    legend_above(figure, axes, ax is None)
    return finish(figure, path)
