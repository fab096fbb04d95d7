"""A figure of several fault models at matched rates: the mean of the chips, and the poor ones."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from keras_rram.evaluation.results import PopulationResult
from keras_rram.plots.figure import COLOURS, axes_for, finish, percent

_LINES = ("-", "--", "-.", (0, (1, 1.2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_COLOURS = (*COLOURS, "#888888")
_MOST_CURVES = len(_COLOURS)
_LOW = 0.05


def fault_model_curves(
    results: Mapping[str, Sequence[PopulationResult]],
    path: str | os.PathLike | None = None,
    *,
    ax: Sequence[Axes] | None = None,
) -> Figure:
    """Draws the accuracy of one model against the fault rate, a curve for each fault model.

    Left the mean over chips with its 95% interval, right the 5th percentile of the chips, which
    tells fault models apart that have one mean. Rates are on a log scale.

    Args:
        results: name of a fault model -> its results, one for each fault rate above 0, of two
            chips or more that answered all images.
        path: the file to write, in the format of its ending; None writes none.
        ax: two axes to draw into; None for a figure of its own.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no curve or too many, or one without a result, with a rate of 0, one
            chip or a part of the images.
    """
    if not 1 <= len(results) <= _MOST_CURVES:
        raise ValueError(f"expected 1 to {_MOST_CURVES} curves. Received: {len(results)}")
    for name, curve in results.items():
        if not curve or any(not one.rate or len(one.chips) < 2 or one.folds > 1 for one in curve):
            raise ValueError(
                "expected results of rates above 0, of two chips or more on all images. Received: "
                f"'{name}' without them"
            )
    figure, (left, right) = axes_for(ax, columns=2, width=8.6, height=4.5)
    right.sharey(left)
    for number, (name, curve) in enumerate(results.items()):
        ordered = sorted(curve, key=lambda result: result.rate)
        rates = np.array([result.rate for result in ordered])
        style: dict[str, Any] = {
            "color": _COLOURS[number],
            "linestyle": _LINES[number % len(_LINES)],
            "marker": _MARKERS[number],
            "markersize": 4.5,
            "linewidth": 1.5,
        }
        means = np.array([result.mean for result in ordered])
        found = [result.mean_interval() for result in ordered]
        reach = [[one.estimate - one.low, one.high - one.estimate] for one in found]
        left.errorbar(rates, means, np.maximum(np.transpose(reach), 0), capsize=2, **style)
        right.plot(rates, [result.quantile(_LOW) for result in ordered], label=name, **style)
    every = [result for curve in results.values() for result in curve]
    ticks = sorted({result.rate for result in every})
    for axes, title in ((left, "mean over chips, 95% interval"), (right, "5th percentile")):
        for height in sorted({result.fault_free for result in every}):
            axes.axhline(height, color="#555555", linestyle=":", linewidth=1, zorder=1)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{100 * rate:.3g}" for rate in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("faulty cells, percent")
        axes.set_title(title, fontsize=10)
    right.plot([], [], color="#555555", linestyle=":", linewidth=1, label="fault-free")
    left.set_ylim(0, 1.01)
    left.set_ylabel("accuracy")
    percent(left.yaxis)
    right.tick_params(labelleft=False)
    handles, labels = right.get_legend_handles_labels()
    columns = 3 if max(map(len, labels)) <= 36 else 2
    if ax is None:
        figure.legend(
            handles, labels, loc="outside upper center", ncols=columns, fontsize=8.5, frameon=False
        )
    else:
        right.legend(fontsize=8.5, framealpha=0.8, edgecolor="none")
    return finish(figure, path)
