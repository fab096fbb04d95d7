"""A figure of a training: loss and accuracy over the epochs."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_rram.plots.figure import COLOURS, axes_for, finish, percent


def training_curves(
    history: Any, path: str | os.PathLike | None = None, *, ax: Sequence[Axes] | None = None
) -> Figure:
    """Draws loss and accuracy over the epochs, of training and of validation.

    Validation is on chips where the history has it (`val_chip_loss`, `val_chip_accuracy`, with a
    band from the worst to the best chip), else Keras's own `val_loss` and `val_accuracy`.

    Args:
        history: one record of metrics for each epoch, or what `model.fit` returned, or its dict.
        path: the file to write, in the format of its ending; None writes none.
        ax: two axes to draw into, of loss and of accuracy; None for a figure of its own.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no epoch, or no `loss` and `accuracy`.
    """
    curves = _curves(history)
    epochs = curves.get("epoch", np.arange(1, len(curves["loss"]) + 1))
    has_chips = "val_chip_accuracy" in curves
    prefix = "val_chip_" if has_chips else "val_"
    figure, (loss, accuracy) = axes_for(ax, columns=2, width=8.0, height=3.4)
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
    percent(accuracy.yaxis)
    for axes in (loss, accuracy):
        axes.legend(fontsize=8.5, framealpha=0.8, edgecolor="none")
    return finish(figure, path)


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
