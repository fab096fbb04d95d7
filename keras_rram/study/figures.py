"""The study's figures, drawn from runs: loss and accuracy over the epochs, and the 2 x 2."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from keras_rram.files import written_whole
from keras_rram.plots.populations import COLOURS
from keras_rram.study.published import Published

_STUDY = "#777777"

ARMS = {
    "chips": "scale of evaluation other than in training, running statistics",
    "chips_repaired": "the same, statistics recalibrated on the chip",
    "chips_other_scale": "one scale in training and evaluation, running statistics",
    "chips_other_scale_repaired": "the same, statistics recalibrated on the chip",
}
"""The populations of the 2 x 2, for a run of the protocol `published`."""


def study_figure(runs: Sequence[Published], path: str | os.PathLike[str]) -> None:
    """Draws loss (above) and accuracy (below) over the epochs, a column for each panel.

    The first chip is what the study plots. The grey band is what it reports, the diamonds are the
    final population: mean with its 5th to 95th percentile, as it is and recalibrated.

    Args:
        runs: finished runs, one for each panel.
        path: PNG file to write.
    """
    figure = Figure(figsize=(2.9 * len(runs) + 0.6, 5.2), layout="constrained")
    rows = figure.subplots(2, len(runs), squeeze=False, sharex="col")
    for column, run in enumerate(runs):
        loss, accuracy = rows[0][column], rows[1][column]
        _losses(loss, run)
        _accuracies(accuracy, run)
        loss.set_title(f"{run.panel.name}: {run.panel.title}", fontsize=9)
        accuracy.set_xlabel("epoch")
    rows[0][0].set_ylabel("loss")
    rows[1][0].set_ylabel("accuracy")
    lowest = min(axes.get_ylim()[0] for axes in rows[1])
    for axes in rows[1]:
        axes.set_ylim(max(lowest, 0), 1.01)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in rows.ravel():
        axes.grid(color="#DDDDDD", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    # Of the last panel: the first, without faults, may have fewer curves.
    handles, labels = rows[1][-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    _save(figure, path)


def _losses(axes: Any, run: Published) -> None:
    epochs = run.history["epoch"]
    axes.plot(epochs, run.history["loss"], color=COLOURS[0])
    if "val_chip_loss" in run.history:
        axes.plot(epochs, run.history["val_chip_loss"], color=COLOURS[1], linestyle="--")
    axes.set_ylim(bottom=0)


def _accuracies(axes: Any, run: Published) -> None:
    curves, panel = run.history, run.panel
    epochs = curves["epoch"]
    if panel.curve is not None:
        low, high = panel.curve
        spread = 0.005 if panel.dataset == "mnist" else 0.01  # as read from the study's figure
        axes.axhspan(low - spread, high + spread, color=_STUDY, alpha=0.25, label="the study")
    axes.plot(epochs, curves["accuracy"], color=COLOURS[0], label="training")
    axes.plot(epochs, curves["val_chip_0_accuracy"], ":", color=COLOURS[1], label="first chip")
    if panel.fault_rate:
        axes.plot(epochs, curves["val_chip_accuracy"], "--", color=COLOURS[1], label="mean of 5")
        axes.fill_between(
            epochs,
            curves["val_chip_accuracy_min"],
            curves["val_chip_accuracy_max"],
            color=COLOURS[1],
            alpha=0.15,
            linewidth=0,
            label="worst to best of 5",
        )
    width = max(epochs[-1] * 0.04, 0.3)
    for place, name, colour, label in (
        (1, "chips", COLOURS[1], "population"),
        (2, "chips_repaired", COLOURS[2], "population, recalibrated"),
    ):
        if name in run.chips:
            values = run.chips[name]
            reach = np.abs(np.quantile(values, [[0.05], [0.95]]) - values.mean())
            at = epochs[-1] + place * width
            axes.errorbar(
                at,
                values.mean(),
                reach,
                fmt="D",
                color=colour,
                markersize=4,
                capsize=2,
                label=label,
            )


def collapse_figure(runs: Sequence[Published], path: str | os.PathLike[str]) -> None:
    """Draws the 2 x 2 of evaluation scale and statistics: mean over chips, and each chip.

    Args:
        runs: finished runs that have all four populations.
        path: PNG file to write.
    """
    figure = Figure(figsize=(max(6.5, 1.7 * len(runs) + 1.5), 4.4), layout="constrained")
    axes = figure.subplots()
    for number, (name, label) in enumerate(ARMS.items()):
        places = np.arange(len(runs)) + 0.19 * (number - 1.5)
        colour = COLOURS[number]
        for place, run in zip(places, runs, strict=True):
            values = run.chips[name]
            jitter = 0.12 * ((np.arange(len(values)) * 0.618) % 1 - 0.5)
            axes.plot(place + jitter, values, ".", color=colour, markersize=2.5, alpha=0.35)
        means = [run.chips[name].mean() for run in runs]
        axes.bar(places, means, 0.17, color=colour, alpha=0.45, label=label)
    axes.set_xticks(
        range(len(runs)), [f"{run.panel.name}\n{run.panel.title}" for run in runs], fontsize=8
    )
    axes.set_ylabel("accuracy of chips")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
