"""The study's figures, drawn from runs, in one style: a column of a printed page wide.

Each is written twice: as vectors (`.svg`) and as pixels (`.png`).
"""

import os
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from keras_rram.files import written_whole
from keras_rram.plots.figure import COLOURS
from keras_rram.study.bottlenecks import ALL_PANELS, PAIRS
from keras_rram.study.judgement import Verdict, has_faults, row
from keras_rram.study.methods import METHODS, STUDY
from keras_rram.study.published import Published

_STUDY = "#777777"
_WIDTH = 3.5  # inches: one column
_TITLE = 56  # characters of a title over the whole width
_STYLE = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "legend.frameon": False,
    "legend.fontsize": 6.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_rram",  # equal figures are equal files
}

ARMS = {
    "chips": "scale of evaluation other than in training",
    "chips_repaired": "the same, recalibrated",
    "chips_other_scale": "one scale",
    "chips_other_scale_repaired": "one scale, recalibrated",
}
"""The populations of the 2 x 2, for a run of the protocol `published`."""

_VERDICTS = {"confirmed": "o", "refuted": "X", "open": "D", "not comparable": "|"}
_TIERS = ("tier A: chips as they are", "tier B: recalibrated")
_DECIDED = ("confirmed", "refuted")
_PROTOCOLS = {"text": "-", "published": (0, (1.5, 1))}


@matplotlib.rc_context(_STYLE)
def overview_figure(
    judged: Sequence[tuple[Verdict, Verdict]], path: str | os.PathLike[str]
) -> None:
    """Draws for each finding by how much it holds, in both tiers, with the 95% interval.

    Right of the line the finding holds, left of it the opposite. Without faults the tiers are one.
    Another way of training than the study's is named on the other side.

    Args:
        judged: each finding's verdict in tier A and in tier B.
        path: of the files to write, without a suffix.
    """
    findings = list(dict.fromkeys(pair[0].finding for pair in judged))
    figure = Figure(figsize=(_WIDTH, 0.42 * len(findings) + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for place, finding in enumerate(findings):
        axes.text(
            0.01, place - 0.36, finding.statement, transform=axes.get_yaxis_transform(), fontsize=6
        )
        tiers = 2 if has_faults(finding) else 1
        mine = [pair[:tiers] for pair in judged if pair[0].finding == finding]
        verdicts = [one for pair in mine for one in enumerate(pair)]
        for number, (tier, verdict) in enumerate(verdicts):
            at = place - 0.3 + 0.75 * (number + 1) / (len(verdicts) + 1)
            points = _verdict(axes, at, COLOURS[tier], verdict)
            if tier == 0 and verdict.kind[3] != STUDY:
                edge, side = (0.01, "left") if points > 0 else (0.99, "right")
                axes.text(edge, at, METHODS[verdict.kind[3]].title, fontsize=5, ha=side,
                          va="center", transform=axes.get_yaxis_transform())  # fmt: skip
    for tier, name in enumerate(_TIERS):
        axes.plot([], [], color=COLOURS[tier], label=name)
    axes.plot([], [], color="black", linestyle=_PROTOCOLS["published"], label="protocol published")
    for verdict_name, marker in _VERDICTS.items():
        face = "black" if verdict_name in _DECIDED else "white"
        axes.plot([], [], marker, color="black", markersize=3.5, markerfacecolor=face,
                  label=verdict_name)  # fmt: skip
    axes.set_yticks([])
    axes.set_ylim(len(findings) - 0.4, -0.7)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlabel("points by which it holds (logarithmic beyond 1)")
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=2)
    _save(figure, path)


def _verdict(axes: Any, at: float, colour: str, verdict: Verdict) -> float:
    """Draws a verdict at a height, and returns by how many points it holds."""
    finding, found = verdict.finding, verdict.interval
    bound = finding.margin if finding.value is None else finding.value
    ends = 100 * (np.array([found.low, found.estimate, found.high]) - bound)
    low, middle, high = -ends[::-1] if finding.is_below else ends
    style = _PROTOCOLS[verdict.kind[1]]
    axes.plot([low, high], [at, at], color=colour, linewidth=0.9, linestyle=style)
    face = colour if verdict.verdict in _DECIDED else "white"
    axes.plot(middle, at, _VERDICTS[verdict.verdict], color=colour, markersize=3.5,
              markerfacecolor=face, markeredgewidth=0.7)  # fmt: skip
    return float(middle)


@matplotlib.rc_context(_STYLE)
def equal_cost_figure(
    runs: Sequence[Published],
    judged: Sequence[tuple[Verdict, Verdict]],
    path: str | os.PathLike[str],
) -> None:
    """Draws the networks of equal cost over the fault rate: tier A left, tier B right.

    Above the mean accuracy of the chips of both, below their difference; with 95% intervals.

    Args:
        runs: finished runs, among them those that were judged.
        judged: verdicts about equal cost, in tier A and in tier B, of one network, protocol and
            scale; those of one method have one colour.
        path: of the files to write, without a suffix.
    """
    methods = list(dict.fromkeys(pair[0].kind[3] for pair in judged))
    figure = Figure(figsize=(_WIDTH, 3.5), layout="constrained")
    cells = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 2))
    for tier, population in enumerate(("chips", "chips_repaired")):
        means, differences = cells[:, tier]
        means.set_title(_TIERS[tier])
        differences.axhline(0, color="black", linewidth=0.8)
        for number, method in enumerate(methods):
            verdicts = [pair[tier] for pair in judged if pair[tier].kind[3] == method]
            rates = np.array([100 * ALL_PANELS[one.finding.panel].fault_rate for one in verdicts])
            at = rates + 1.2 * (number - (len(methods) - 1) / 2)
            for side, line in enumerate(("-", "--")):
                rows = [_row(runs, one, side, population) for one in verdicts]
                _ranges(means, at, np.array(rows), number, line, "os"[side])
            found = [(one.interval.low, one.interval.estimate, one.interval.high)
                     for one in verdicts]  # fmt: skip
            _ranges(differences, at, 100 * np.array(found), number, "none", "D")
        differences.set_xlabel("weights at zero (%)")
        ticks = sorted(100 * ALL_PANELS[name].fault_rate for name in PAIRS)
        differences.set_xticks(ticks)
        differences.set_xlim(ticks[0] - 4, ticks[-1] + 4)
    cells[0, 0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    cells[0, 0].set_ylabel("accuracy, mean of chips")
    cells[1, 0].set_ylabel("difference (points)")
    for number, method in enumerate(methods):
        cells[0, 0].plot([], [], color=COLOURS[number], label=METHODS[method].title)
    for label, line, marker in (("basic blocks", "--", "s"), ("linear bottlenecks", "-", "o")):
        cells[0, 0].plot([], [], line, marker=marker, color="black", markersize=3, label=label)
    figure.legend(loc="outside lower center", ncols=2)
    _save(figure, path)


def _row(runs: Sequence[Published], judged: Verdict, side: int, population: str) -> np.ndarray:
    """Returns lower bound, mean and upper bound of one of the two panels, averaged over seeds."""
    panel = (judged.finding.panel, judged.finding.other)[side]
    behind = [run for run in runs if run.kind == judged.kind and run.panel.name == panel]
    found = [row(run, population) for run in behind if run.record["seed"] in judged.seeds]
    return np.mean(found, axis=0)


def _ranges(
    axes: Any, at: np.ndarray, found: np.ndarray, number: int, line: str, marker: str
) -> None:
    """Draws means, shape (points, 3) of lower bound, mean and upper bound, as a curve."""
    low, mean, high = found.T
    axes.errorbar(at, mean, (mean - low, high - mean), color=COLOURS[number], marker=marker,
                  linestyle=line, markersize=3, capsize=1.5, elinewidth=0.8)  # fmt: skip


@matplotlib.rc_context(_STYLE)
def study_figure(runs: Sequence[Published], path: str | os.PathLike[str]) -> None:
    """Draws loss (left) and accuracy (right) over the epochs, a row for each panel.

    The first chip is what the study plots. The grey band is what it reports, the diamonds are the
    final population: mean with its 5th to 95th percentile, as it is and recalibrated.

    Args:
        runs: finished runs, one for each panel.
        path: of the files to write, without a suffix.
    """
    figure = Figure(figsize=(_WIDTH, 1.25 * len(runs) + 0.6), layout="constrained")
    rows = figure.subplots(len(runs), 2, squeeze=False, sharex="row", width_ratios=(2, 3))
    for (loss, accuracy), run in zip(rows, runs, strict=True):
        _losses(loss, run)
        _accuracies(accuracy, run)
        # Over both axes: a title of one of them, which keeps the place, would push the other away.
        title = textwrap.fill(f"{run.panel.name}: {run.panel.title}", _TITLE)
        place = loss.set_title(" " + "\n " * title.count("\n"), loc="left")
        size = place.get_fontsize()
        heading = loss.text(0, 1.04, title, transform=loss.transAxes, va="bottom", fontsize=size)
        heading.set_in_layout(False)
        loss.set_ylabel("loss")
        accuracy.set_ylabel("accuracy")
    for axes in rows[-1]:
        axes.set_xlabel("epoch")
    for axes in rows.flat:
        # Few, since two axes share the width: more labels of 80 epochs would touch.
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10), integer=True))
    lowest = min(axes.get_ylim()[0] for axes in rows[:, 1])
    for axes in rows[:, 1]:
        axes.set_ylim(max(lowest, 0), 1.01)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    # Of the last panel: the first, without faults, may have fewer curves.
    handles, labels = rows[-1][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
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
    count = sum(re.fullmatch(r"val_chip_\d+_accuracy", name) is not None for name in curves)
    if panel.fault_rate:
        axes.plot(
            epochs, curves["val_chip_accuracy"], "--", color=COLOURS[1], label=f"mean of {count}"
        )
        axes.fill_between(
            epochs,
            curves["val_chip_accuracy_min"],
            curves["val_chip_accuracy_max"],
            color=COLOURS[1],
            alpha=0.15,
            linewidth=0,
            label=f"worst to best of {count}",
        )
    width = max(epochs[-1] * 0.04, 0.3)
    for place, name, colour, label in (
        (1, "chips", COLOURS[1], "population"),
        (2, "chips_repaired", COLOURS[2], "recalibrated"),
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
                markersize=3,
                capsize=1.5,
                label=label,
            )


@matplotlib.rc_context(_STYLE)
def collapse_figure(runs: Sequence[Published], path: str | os.PathLike[str]) -> None:
    """Draws the 2 x 2 of evaluation scale and statistics: mean over chips, and each chip.

    Args:
        runs: finished runs that have all four populations.
        path: of the files to write, without a suffix.
    """
    figure = Figure(figsize=(max(_WIDTH, 0.6 * len(runs) + 0.6), 2.6), layout="constrained")
    axes = figure.subplots()
    for number, (name, label) in enumerate(ARMS.items()):
        places = np.arange(len(runs)) + 0.19 * (number - 1.5)
        colour = COLOURS[number]
        for place, run in zip(places, runs, strict=True):
            values = run.chips[name]
            jitter = 0.12 * ((np.arange(len(values)) * 0.618) % 1 - 0.5)
            axes.plot(place + jitter, values, ".", color=colour, markersize=1.5, alpha=0.35,
                      rasterized=True)  # fmt: skip
        means = [run.chips[name].mean() for run in runs]
        axes.bar(places, means, 0.17, color=colour, alpha=0.45, label=label)
    axes.set_xticks(range(len(runs)), [_place(run) for run in runs])
    axes.set_xlabel("panel: number of bottlenecks")
    axes.set_ylabel("accuracy of chips")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside lower center", ncols=2)
    _save(figure, path)


def _place(run: Published) -> str:
    count = len(run.panel.options.get("replaced", ())) or run.panel.options.get("bottlenecks")
    return f"{run.panel.name}: {count}"


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    for form, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        with written_whole(f"{os.fspath(path)}.{form}") as temporary:
            figure.savefig(temporary, format=form, dpi=200, metadata=metadata)
