"""Figures of placements: what each layer costs, accuracy against work on faulty hardware."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_rram.placement import FrontPoint, Sensitivity
from keras_rram.plots.figure import (
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    axes_for,
    finish,
    legend_above,
    percent,
)


def sensitivity_bars(
    results: Mapping[str, Sensitivity],
    path: str | os.PathLike | None = None,
    *,
    ax: Sequence[Axes] | None = None,
) -> Figure:
    """Draws what each group of layers costs, in the order of the network, with 95% intervals.

    Left the accuracy that is lost where the group alone is faulty, right what making it exact gives
    back where all candidates are faulty.

    Args:
        results: label, such as the access tier -> sensitivities, all of the same groups.
        path: the file to write, in the format of its ending; None writes none.
        ax: two axes to draw into; None for a figure of its own.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no result, too many, or if they have other groups.
    """
    groups = [[row.group for row in result.rows] for result in results.values()]
    if not 1 <= len(groups) <= len(COLOURS) or any(names != groups[0] for names in groups):
        raise ValueError(
            f"expected 1 to {len(COLOURS)} results of the same groups. Received: {groups}"
        )
    names = groups[0]
    height = max(2.6, 0.24 * len(names) * (0.6 + 0.4 * len(groups)) + 1.2)
    figure, axes = axes_for(ax, columns=2, width=8.6, height=height)
    axes[1].sharey(axes[0])
    thickness = 0.8 / len(groups)
    for number, (label, result) in enumerate(results.items()):
        places = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * thickness
        for axis, which in zip(axes, ("alone", "gain"), strict=True):
            found = [getattr(row, which) for row in result.rows]
            reach = [[one.estimate - one.low, one.high - one.estimate] for one in found]
            axis.barh(
                places,
                [one.estimate for one in found],
                thickness,
                xerr=np.maximum(np.transpose(reach), 0),
                color=COLOURS[number],
                label=label if which == "alone" else None,
                error_kw={"linewidth": 0.9, "capsize": 1.5, "ecolor": "black"},
            )
    for axis, title in zip(
        axes, ("lost where it alone is faulty", "given back where it alone is exact"), strict=True
    ):
        axis.axvline(0, color=GREY, linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("accuracy")
        percent(axis.xaxis)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    axes[1].tick_params(labelleft=False)
    legend_above(figure, axes[0], ax is None)
    return finish(figure, path)


def placement_front(
    fronts: Mapping[str, Sequence[FrontPoint]],
    points: Sequence[FrontPoint] = (),
    path: str | os.PathLike | None = None,
    *,
    unit: str = "multiply-accumulates",
    ax: Axes | None = None,
) -> Figure:
    """Draws accuracy against the share of work on faulty hardware, with 95% intervals.

    Args:
        fronts: name, such as how they were found -> placements, joined by a line.
        points: single ones with their names beside them.
        path: the file to write, in the format of its ending; None writes none.
        unit: what the share is a share of.
        ax: axes to draw into; None for a figure of its own.

    Returns:
        The figure.

    Raises:
        ValueError: if there is nothing to draw, or too many fronts.
    """
    if len(fronts) > len(COLOURS) or not any((*fronts.values(), points)):
        raise ValueError(
            f"expected 1 to {len(COLOURS)} fronts, or points. Received: {len(fronts)} fronts, "
            f"{len(points)} points"
        )
    figure, (axes,) = axes_for(ax, width=7.0, height=4.6)
    for number, (name, front) in enumerate(fronts.items()):
        style = {"color": COLOURS[number], "marker": MARKERS[number % len(MARKERS)]}
        line = LINES[number % len(LINES)]
        _errors(axes, sorted(front, key=lambda one: one.share), label=name, linestyle=line, **style)
    for point in points:
        _errors(axes, [point], color=GREY, marker="x", linestyle="none")
        axes.annotate(
            point.name, (point.share, point.accuracy.estimate), (5, 4), fontsize=8,
            textcoords="offset points",
        )  # fmt: skip
    axes.set_xlabel(f"share of the {unit} on faulty hardware")
    axes.set_ylabel("accuracy")
    percent(axes.xaxis)
    percent(axes.yaxis)
    if any(fronts.values()):
        legend_above(figure, axes, ax is None)
    return finish(figure, path)


def _errors(axes: Any, front: Sequence[FrontPoint], **style: Any) -> None:
    found = [one.accuracy for one in front]
    reach = [[one.estimate - one.low, one.high - one.estimate] for one in found]
    axes.errorbar(
        [one.share for one in front],
        [one.estimate for one in found],
        np.maximum(np.transpose(reach), 0) if reach else None,
        capsize=2,
        linewidth=1.2,
        markersize=5,
        **style,
    )
