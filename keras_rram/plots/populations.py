"""Figures of populations of chips.

Every function draws into the axes of `ax=`, or makes a figure; returns the figure; and writes it
if there is a path, in the format of its ending.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_rram.evaluation.comparison import matched, paired_difference
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.statistics.scores import score_interval
from keras_rram.evaluation.statistics.two_way import chip_interval
from keras_rram.plots.figure import (
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    axes_for,
    finish,
    in_percent,
    legend_above,
    percent,
)

_LEAST_CHIPS = 2
_SETTLED_CHIPS = 8
_MOST_TICKS = 8


def accuracy_against_rate(
    results: Sequence[PopulationResult] | Mapping[str, Sequence[PopulationResult]],
    path: str | os.PathLike | None = None,
    *,
    ax: Axes | None = None,
    label: str | None = None,
) -> Figure:
    """Draws the mean accuracy against the fault rate, with its interval and the spread of chips.

    A dotted line is what the model has without faults, after the same repair where there is one.

    Args:
        results: one result for each fault rate, or several such curves by name.
        path: the file to write, in the format of its ending; None writes none.
        ax: axes to draw into; None for a figure of its own.
        label: name of the model, where it is one curve.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no result.
    """
    if label is not None and isinstance(results, Mapping):
        raise ValueError("expected label= with one curve. Received: curves that have names")
    named = results if isinstance(results, Mapping) else {label or "mean": results}
    for curve in named.values() or [()]:
        _check(curve)
    figure, (axes,) = axes_for(ax)
    is_single = len(named) == 1
    for number, (name, curve) in enumerate(named.items()):
        colour = COLOURS[number % len(COLOURS)]
        ordered = sorted(curve, key=lambda result: result.rate)
        rates = np.array([result.rate for result in ordered])
        means = np.array([result.mean for result in ordered])
        full = [result for result in ordered if result.folds == 1 and len(result.chips) > 1]
        if full:
            band = np.array([[result.quantile(q) for result in full] for q in (0.05, 0.95)])
            at = [result.rate for result in full]
            of_band = "5th to 95th percentile of chips" if number == 0 else None
            if len(full) > 1:
                axes.fill_between(at, *band, color=colour, alpha=0.18, linewidth=0, label=of_band)
            else:
                axes.vlines(at, *band, color=colour, alpha=0.3, linewidth=6, label=of_band)
        axes.errorbar(
            rates,
            means,
            _reaches(ordered),
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            linestyle=LINES[number % len(LINES)],
            markersize=4.5,
            linewidth=1.6,
            capsize=3,
            label=f"{name}, 95% interval" if is_single else name,
        )
        if is_single and full:
            worst = [result.worst.accuracy for result in full]
            axes.plot([result.rate for result in full], worst, "v", color=GREY, markersize=4.5,
                      label="worst chip")  # fmt: skip
        axes.axhline(
            _without_faults(ordered[0]),
            color=GREY if is_single else colour,
            linewidth=1,
            linestyle=":",
            label="fault-free" if number == 0 else None,
        )
    if not is_single:
        axes.errorbar([], [], [], color=GREY, marker=".", capsize=3, label="mean, 95% interval")
    axes.set_xlabel("fault rate")
    _value_axis(axes.yaxis, next(iter(named.values()))[0], "{}")
    percent(axes.xaxis)
    swept = sorted({result.rate for curve in named.values() for result in curve})
    if len(swept) <= _MOST_TICKS and np.min(np.diff(swept), initial=1) > 0.06 * swept[-1]:
        axes.set_xticks(swept)
    legend_above(figure, axes, ax is None)
    return finish(figure, path)


def chip_distribution(
    results: Sequence[PopulationResult],
    path: str | os.PathLike | None = None,
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draws the accuracy of every chip, with a box of the quartiles, for each fault rate.

    Args:
        results: one result for each fault rate.
        path: the file to write, in the format of its ending; None writes none.
        ax: axes to draw into; None for a figure of its own.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no result, or if chips answered a part of the images only.
    """
    ordered = _full(results, "the distribution over chips")
    figure, (axes,) = axes_for(ax, width=max(4.0, 2.2 + 1.0 * len(ordered)))
    counts = sorted({len(result.chips) for result in ordered})
    said = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    # A fixed pattern instead of random jitter: the same result gives the same file.
    for place, result in enumerate(ordered):
        count = len(result.chips)
        shift = 0.5 * ((np.arange(count) * 0.6180339887) % 1 - 0.5)
        axes.plot(
            place + shift,
            result.accuracies,
            "o",
            color=COLOURS[0],
            markersize=3.2,
            alpha=max(0.25, min(0.8, 30 / count)),
            markeredgewidth=0,
            zorder=2,
            label=f"chip ({said} at each rate)" if place == 0 else None,
        )
    line = {"color": COLOURS[1], "linewidth": 1.5}
    axes.boxplot(
        [result.accuracies for result in ordered],
        positions=range(len(ordered)),
        widths=0.6,
        showfliers=False,
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        medianprops={**line, "linewidth": 2.2},
        zorder=3,
    )
    axes.plot([], [], color=COLOURS[1], label="quartiles, 1.5 IQR whiskers")
    if len(heights := {_without_faults(result) for result in ordered}) == 1:
        axes.axhline(heights.pop(), color=GREY, linewidth=1, linestyle=":", label="fault-free")
    axes.set_xticks(range(len(ordered)), [in_percent(result.rate) for result in ordered])
    axes.set_xlim(-0.6, len(ordered) - 0.4)
    axes.set_xlabel("fault rate")
    _value_axis(axes.yaxis, ordered[0], "{} of a chip")
    legend_above(figure, axes, ax is None)
    return finish(figure, path)


def yield_curve(
    results: Sequence[PopulationResult],
    path: str | os.PathLike | None = None,
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draws the share of chips that reach an accuracy, against that accuracy.

    The shares are about new images, with their 95% intervals (`PopulationResult.yield_at`): the
    noise of the tested images is taken out of the chips' accuracies.

    Args:
        results: one result for each fault rate.
        path: the file to write, in the format of its ending; None writes none.
        ax: axes to draw into; None for a figure of its own.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no result, or if chips answered a part of the images only.
    """
    ordered = _full(results, "a yield curve")
    everything = np.concatenate([result.accuracies for result in ordered])
    margin = max(0.02 * np.ptp(everything), 0.002 if ordered[0].is_counted else 1e-9)
    ends = everything.min() - margin, everything.max() + margin
    if ordered[0].is_counted:
        ends = max(ends[0], 0.0), min(ends[1], 1.0)
    figure, (axes,) = axes_for(ax)
    for number, result in enumerate(ordered):
        steps = np.unique(np.concatenate([np.linspace(*ends, 120), result.accuracies]))
        found = [result.yield_at(float(threshold)).interval for threshold in steps]
        colour = COLOURS[number % len(COLOURS)]
        low, high = np.array([(one.low, one.high) for one in found]).T
        band = {"color": colour, "alpha": 0.15, "linewidth": 0, "step": "pre"}
        axes.fill_between(steps, low, high, label=None if number else "95% interval", **band)
        axes.step(
            steps,
            [one.estimate for one in found],
            where="pre",
            color=colour,
            linewidth=1.7,
            linestyle=LINES[number % len(LINES)],
            label=f"{in_percent(result.rate)} faults ({len(result.chips)} chips)",
        )
    axes.set_xlim(*ends)
    axes.set_ylim(-0.02, 1.02)
    images = "new" if "new images" in ordered[0].single_chips().question else "these"
    _value_axis(axes.xaxis, ordered[0], f"required {{}} on {images} images")
    axes.set_ylabel("yield: chips that reach it")
    percent(axes.yaxis)
    legend_above(figure, axes, ax is None)
    return finish(figure, path)


def convergence(
    results: Sequence[PopulationResult],
    path: str | os.PathLike | None = None,
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draws the mean accuracy against the number of chips so far, with its 95% interval.

    The interval is that over chips, given the test images; a stop rule's own is at the end of its
    run only.

    Args:
        results: one result for each fault rate, each of at least two chips.
        path: the file to write, in the format of its ending; None writes none.
        ax: axes to draw into; None for a figure of its own.

    Returns:
        The figure.

    Raises:
        ValueError: if no result has two chips.
    """
    several = [result for result in _check(results) if len(result.chips) >= _LEAST_CHIPS]
    if not several:
        raise ValueError("expected a result of two chips or more for a convergence figure.")
    figure, (axes,) = axes_for(ax)
    limits: list[float] = []
    for number, result in enumerate(sorted(several, key=lambda one: one.rate)):
        count = len(result.chips)
        steps = np.unique(np.geomspace(_LEAST_CHIPS, count, 60).round().astype(int))
        found = [_interval_so_far(result, k) for k in steps]
        colour = COLOURS[number % len(COLOURS)]
        style = LINES[number % len(LINES)]
        low, high = np.array([(one.low, one.high) for one in found]).T
        # The wide intervals of the first chips would press all else into a line.
        settled = steps >= min(_SETTLED_CHIPS, count)
        limits += [low[settled].min(), high[settled].max()]
        of_band = None if number else "95% interval, over chips on this test set"
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0, label=of_band)
        axes.plot(
            steps,
            [one.estimate for one in found],
            color=colour,
            linewidth=1.7,
            linestyle=style,
            label=f"{in_percent(result.rate)} faults",
        )
    if several[0].is_counted:
        margin = max(0.25 * np.ptp(limits), 0.002)
        axes.set_ylim(max(min(limits) - margin, 0), min(max(limits) + margin, 1.005))
    axes.set_xscale("log")
    _chip_ticks(axes, max(len(result.chips) for result in several))
    axes.set_xlabel("chips evaluated")
    _value_axis(axes.yaxis, several[0], "mean {}")
    legend_above(figure, axes, ax is None)
    return finish(figure, path)


def comparison(
    a: Sequence[PopulationResult],
    b: Sequence[PopulationResult],
    path: str | os.PathLike | None = None,
    *,
    labels: tuple[str, str] = ("a", "b"),
    ax: Sequence[Axes] | None = None,
) -> Figure:
    """Draws two models on the same chips: their means, and the paired difference of each chip.

    Left `accuracy_against_rate` of both. Right the difference, the first minus the second: of each
    chip a dot, and its mean with the interval of `paired_difference`, which is narrower than those
    of the two curves, since chips and images cancel.

    Args:
        a: one result for each fault rate.
        b: those of the other model, at these rates or more.
        path: the file to write, in the format of its ending; None writes none.
        labels: names of the two models.
        ax: two axes to draw into; None for a figure of its own.

    Returns:
        The figure.

    Raises:
        ValueError: if the results are not of the same chips and images, or of one chip.
    """
    pairs = sorted(matched(_check(a), _check(b)), key=lambda pair: pair[0].rate)
    if len(set(labels)) != 2:
        raise ValueError(f"expected two different labels. Received: {labels}")
    found = [paired_difference(one, other) for one, other in pairs]
    figure, (left, right) = axes_for(ax, columns=2, width=9.0, height=4.2)
    accuracy_against_rate(dict(zip(labels, zip(*pairs, strict=True), strict=True)), ax=left)
    for place, difference in enumerate(found):
        values = np.array(difference.differences)
        shift = 0.5 * ((np.arange(len(values)) * 0.6180339887) % 1 - 0.5)
        right.plot(place + shift, values, "o", color=COLOURS[5], markersize=3.2, markeredgewidth=0,
                   alpha=0.6, label=None if place else "one chip")  # fmt: skip
    means = [one.interval.estimate for one in found]
    reach = np.maximum([(m - one.interval.low, one.interval.high - m)
                        for m, one in zip(means, found, strict=True)], 0).T  # fmt: skip
    bar = f"mean, 95% interval ({found[0].interval.question})"
    right.errorbar(range(len(found)), means, reach, color=COLOURS[6], marker="D", linestyle="none",
                   markersize=5, capsize=4, label=bar, zorder=3)  # fmt: skip
    right.axhline(0, color=GREY, linewidth=1)
    right.set_xticks(range(len(found)), [in_percent(one.rate) for one, _ in pairs])
    right.set_xlim(-0.6, len(found) - 0.4)
    right.set_xlabel("fault rate")
    right.set_ylabel(f"{labels[0]} minus {labels[1]}")
    if pairs[0][0].is_counted:
        percent(right.yaxis)
    right.legend(fontsize=8.5, framealpha=0.8, edgecolor="none")
    return finish(figure, path)


def _without_faults(result: PopulationResult) -> float:
    """Returns what the model has without faults, repaired as the chips are."""
    repaired = result.fault_free_repaired
    return result.fault_free if repaired is None else repaired


def _value_axis(axis: Any, result: PopulationResult, text: str) -> None:
    """Labels an axis of accuracies in percent, of other scores by the measure's name."""
    axis.set_label_text(text.format(result.measure))
    if result.is_counted:
        percent(axis)


def _interval_so_far(result: PopulationResult, count: int) -> Any:
    chips = result.chips[:count]
    if not result.is_counted:
        return score_interval(np.array([chip.accuracy for chip in chips]), None)
    correct, total = np.array([(chip.correct, chip.total) for chip in chips]).T
    return chip_interval(correct, total, images="test_set")


def _chip_ticks(axes: Axes, count: int) -> None:
    numbers = [base * 10**power for power in range(7) for base in (1, 2, 5)]
    ticks = [number for number in numbers if _LEAST_CHIPS <= number <= count]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def _reaches(results: Sequence[PopulationResult]) -> np.ndarray:
    """Returns how far the mean's interval reaches down and up; NaN where there is none."""
    reaches = []
    for result in results:
        if not result.has_interval:
            reaches.append((np.nan, np.nan))
            continue
        interval = result.mean_interval()
        reaches.append((interval.estimate - interval.low, interval.high - interval.estimate))
    return np.maximum(np.array(reaches).T, 0)


def _check(results: Any) -> list[PopulationResult]:
    found = list(results)
    if not found:
        raise ValueError("expected at least one result to draw. Received: none")
    return found


def _full(results: Sequence[PopulationResult], what: str) -> list[PopulationResult]:
    found = sorted(_check(results), key=lambda result: result.rate)
    if any(result.folds > 1 for result in found):
        raise ValueError(
            f"expected chips that answered all images, for {what}. Received: chips on a part of "
            "them (evaluate without a stop rule)"
        )
    return found
