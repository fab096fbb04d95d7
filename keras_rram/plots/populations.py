"""Figures of training and of populations of chips, as small PNG files.

Every function writes one file, whole or not at all, with the Agg canvas and without `pyplot`: no
global state of matplotlib is read or changed. Colours are those of Okabe and Ito, which can be told
apart by colour-blind people (https://jfly.uni-koeln.de/color/); line styles and markers differ too.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.statistics.two_way import chip_interval
from keras_rram.files import written_whole

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#555555"
_LEAST_CHIPS = 2
_SETTLED_CHIPS = 8
_MOST_TICKS = 8


def training_curves(history: Any, path: str | os.PathLike) -> None:
    """Draws loss and accuracy over the epochs, of training and of validation.

    Validation is on chips where the history has it (`val_chip_loss`, `val_chip_accuracy`, with a
    band from the worst to the best chip), else Keras's own `val_loss` and `val_accuracy`.

    Args:
        history: one record of metrics for each epoch, or what `model.fit` returned, or its dict.
        path: the PNG file to write.

    Raises:
        ValueError: if there is no epoch, or no `loss` and `accuracy`.
    """
    curves = _curves(history)
    epochs = curves.get("epoch", np.arange(1, len(curves["loss"]) + 1))
    has_chips = "val_chip_accuracy" in curves
    prefix = "val_chip_" if has_chips else "val_"
    figure, (loss, accuracy) = _figure(columns=2, width=8.0, height=3.4)
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        style = {"markersize": 3.5, "linewidth": 1.6}
        axes.plot(epochs, curves[name], "-o", color=COLOURS[0], label="training", **style)
        if prefix + name in curves:
            label = "validation on faulty chips" if has_chips else "validation"
            axes.plot(epochs, curves[prefix + name], "--s", color=COLOURS[1], label=label, **style)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if len(epochs) == 1:
            axes.set_xticks(epochs)
        axes.set_ylabel(name)
    low, high = (curves.get(f"val_chip_accuracy_{end}") for end in ("min", "max"))
    if low is not None and high is not None and np.nanmax(high - low) > 0:
        band = {"color": COLOURS[1], "alpha": 0.15, "linewidth": 0}
        accuracy.fill_between(epochs, low, high, label="worst to best chip", **band)
    highest = max(np.nanmax(curves[name]) for name in ("loss", prefix + "loss") if name in curves)
    accuracy.margins(y=0.12)
    loss.set_ylim(0, 1.05 * highest if np.isfinite(highest) and highest > 0 else 1)
    _percent(accuracy.yaxis)
    for axes in (loss, accuracy):
        _legend(axes)
    _save(figure, path)


def accuracy_against_rate(
    results: Sequence[PopulationResult] | Mapping[str, Sequence[PopulationResult]],
    path: str | os.PathLike,
) -> None:
    """Draws the mean accuracy against the fault rate, with its interval and the spread of chips.

    Args:
        results: one result for each fault rate, or several such curves by name.
        path: the PNG file to write.

    Raises:
        ValueError: if there is no result.
    """
    named = results if isinstance(results, Mapping) else {"mean": results}
    _check(result for curve in named.values() for result in curve)
    figure, (axes,) = _figure()
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
            label = "5th to 95th percentile of chips" if is_single else None
            if len(full) > 1:
                axes.fill_between(at, *band, color=colour, alpha=0.18, linewidth=0, label=label)
            else:
                axes.vlines(at, *band, color=colour, alpha=0.3, linewidth=6, label=label)
        axes.errorbar(
            rates,
            means,
            _reaches(ordered),
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)],
            linestyle=_LINES[number % len(_LINES)],
            markersize=4.5,
            linewidth=1.6,
            capsize=3,
            label="mean, 95% interval" if is_single else f"{name} (95% interval)",
        )
        if is_single and full:
            worst = [result.worst.accuracy for result in full]
            axes.plot([result.rate for result in full], worst, "v", color=_GREY, markersize=4.5,
                      label="worst chip")  # fmt: skip
        axes.axhline(
            ordered[0].fault_free,
            color=_GREY if is_single else colour,
            linewidth=1,
            linestyle=":",
            label="fault-free" if is_single else None,
        )
    axes.set_xlabel("fault rate")
    axes.set_ylabel("accuracy")
    _percent(axes.xaxis)
    swept = sorted({result.rate for curve in named.values() for result in curve})
    if len(swept) <= _MOST_TICKS and np.min(np.diff(swept), initial=1) > 0.06 * swept[-1]:
        axes.set_xticks(swept)
    _percent(axes.yaxis)
    _legend_above(figure)
    _save(figure, path)


def chip_distribution(results: Sequence[PopulationResult], path: str | os.PathLike) -> None:
    """Draws the accuracy of every chip, with a box of the quartiles, for each fault rate.

    Args:
        results: one result for each fault rate.
        path: the PNG file to write.

    Raises:
        ValueError: if there is no result, or if chips answered a part of the images only.
    """
    ordered = _full(results, "the distribution over chips")
    figure, (axes,) = _figure(width=max(4.0, 2.2 + 1.0 * len(ordered)))
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
            label=f"chip ({count} at each rate)" if place == 0 else None,
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
    if len({result.fault_free for result in ordered}) == 1:
        axes.axhline(
            ordered[0].fault_free, color=_GREY, linewidth=1, linestyle=":", label="fault-free"
        )
    axes.set_xticks(range(len(ordered)), [_name(result.rate) for result in ordered])
    axes.set_xlim(-0.6, len(ordered) - 0.4)
    axes.set_xlabel("fault rate")
    axes.set_ylabel("accuracy of a chip")
    _percent(axes.yaxis)
    _legend_above(figure)
    _save(figure, path)


def yield_curve(results: Sequence[PopulationResult], path: str | os.PathLike) -> None:
    """Draws the share of chips that reach an accuracy, against that accuracy.

    The shares are about new images, with their 95% intervals (`PopulationResult.yield_at`): the
    noise of the tested images is taken out of the chips' accuracies.

    Args:
        results: one result for each fault rate.
        path: the PNG file to write.

    Raises:
        ValueError: if there is no result, or if chips answered a part of the images only.
    """
    ordered = _full(results, "a yield curve")
    everything = np.concatenate([result.accuracies for result in ordered])
    margin = max(0.02 * np.ptp(everything), 0.002)
    ends = max(everything.min() - margin, 0.0), min(everything.max() + margin, 1.0)
    figure, (axes,) = _figure()
    for number, result in enumerate(ordered):
        steps = np.unique(np.concatenate([np.linspace(*ends, 120), result.accuracies]))
        found = [result.yield_at(float(threshold)).interval for threshold in steps]
        colour = COLOURS[number % len(COLOURS)]
        low, high = np.array([(one.low, one.high) for one in found]).T
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0, step="pre")
        axes.step(
            steps,
            [one.estimate for one in found],
            where="pre",
            color=colour,
            linewidth=1.7,
            linestyle=_LINES[number % len(_LINES)],
            label=f"{_name(result.rate)} faults ({len(result.chips)} chips)",
        )
    axes.set_xlim(*ends)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("required accuracy on new images")
    axes.set_ylabel("yield: chips that reach it")
    _percent(axes.xaxis)
    _percent(axes.yaxis)
    _legend_above(figure)
    _save(figure, path)


def convergence(results: Sequence[PopulationResult], path: str | os.PathLike) -> None:
    """Draws the mean accuracy against the number of chips so far, with its 95% interval.

    The interval is that over chips, given the test images; a stop rule's own is at the end of its
    run only.

    Args:
        results: one result for each fault rate, each of at least two chips.
        path: the PNG file to write.

    Raises:
        ValueError: if no result has two chips.
    """
    several = [result for result in _check(results) if len(result.chips) >= _LEAST_CHIPS]
    if not several:
        raise ValueError("expected a result of two chips or more for a convergence figure.")
    figure, (axes,) = _figure()
    limits: list[float] = []
    for number, result in enumerate(sorted(several, key=lambda one: one.rate)):
        count = len(result.chips)
        steps = np.unique(np.geomspace(_LEAST_CHIPS, count, 60).round().astype(int))
        counts = np.array([(chip.correct, chip.total) for chip in result.chips])
        correct, total = counts.T
        found = [chip_interval(correct[:k], total[:k], images="test_set") for k in steps]
        colour = COLOURS[number % len(COLOURS)]
        style = _LINES[number % len(_LINES)]
        low, high = np.array([(one.low, one.high) for one in found]).T
        # The wide intervals of the first chips would press all else into a line.
        settled = steps >= min(_SETTLED_CHIPS, count)
        limits += [low[settled].min(), high[settled].max()]
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            steps,
            [one.estimate for one in found],
            color=colour,
            linewidth=1.7,
            linestyle=style,
            label=f"{_name(result.rate)} faults",
        )
    margin = max(0.25 * np.ptp(limits), 0.002)
    axes.set_ylim(max(min(limits) - margin, 0), min(max(limits) + margin, 1.005))
    axes.set_xscale("log")
    _chip_ticks(axes, max(len(result.chips) for result in several))
    axes.set_xlabel("chips evaluated")
    axes.set_ylabel("mean accuracy")
    _percent(axes.yaxis)
    _legend_above(figure)
    _save(figure, path)


def _chip_ticks(axes: Axes, count: int) -> None:
    numbers = [base * 10**power for power in range(7) for base in (1, 2, 5)]
    ticks = [number for number in numbers if _LEAST_CHIPS <= number <= count]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def _curves(history: Any) -> dict[str, np.ndarray]:
    """Returns metric -> one value for each epoch, from any form of a history."""
    held = getattr(history, "history", history)
    if not isinstance(held, Mapping):
        records = list(held)
        names = {name: None for record in records for name in record}
        held = {name: [record.get(name, np.nan) for record in records] for name in names}
    curves = {name: np.asarray(values, float) for name, values in held.items()}
    if not len(curves.get("loss", ())) or "accuracy" not in curves:
        raise ValueError(
            f"expected a history with `loss` and `accuracy` of one epoch or more. Received: "
            f"{sorted(curves)} (compile the model with metrics=['accuracy'])"
        )
    return curves


def _reaches(results: Sequence[PopulationResult]) -> np.ndarray:
    """Returns how far the mean's interval reaches down and up; NaN where there is none."""
    reaches = []
    for result in results:
        if len(result.chips) < _LEAST_CHIPS:
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


def _figure(columns: int = 1, width: float = 6.0, height: float = 3.9) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.grid(color="#DDDDDD", linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _percent(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: _name(value)))


def _name(share: float) -> str:
    return f"{100 * share:.4g}%"


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=8.5, framealpha=0.8, edgecolor="none")


def _legend_above(figure: Figure) -> None:
    """Puts the legend where it can cover no chip."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    longest = max(map(len, labels))
    columns = min(len(labels), 3 if longest <= 24 else 2 if longest <= 44 else 1)
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, fontsize=8.5, frameon=False
    )


def _save(figure: Figure, path: str | os.PathLike) -> None:
    with written_whole(path) as temporary:
        # Without the library's version in the file: equal figures are equal files.
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
