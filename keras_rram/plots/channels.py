"""Pictures of what chips do to a layer's channels."""

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from keras_rram.evaluation.channel_shifts import ChannelShifts
from keras_rram.files import written_whole

_COLOUR = "#0072B2"
_INCHES = 3.0


def channel_clouds(shifts: Mapping[str, ChannelShifts], path: str | os.PathLike) -> None:
    """Draws the shift and the scale of each channel on each chip, a panel for each network.

    Every dot is one channel on one chip; were all chips alike, all would lie on the cross.

    Args:
        shifts: title -> what was measured.
        path: the PNG file to write.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not shifts:
        raise ValueError("expected at least one network. Received none")
    figure = Figure(figsize=(_INCHES * len(shifts) + 0.6, _INCHES + 0.7), layout="constrained")
    axes = figure.subplots(1, len(shifts), squeeze=False, sharex=True, sharey=True)[0]
    for one, (title, found) in zip(axes, shifts.items(), strict=True):
        one.plot(
            found.shifts.ravel(),
            found.scales.ravel(),
            ".",
            color=_COLOUR,
            markersize=2.5,
            alpha=0.35,
            markeredgewidth=0,
        )
        one.axvline(0, color="#999999", linewidth=0.7, zorder=0)
        one.axhline(1, color="#999999", linewidth=0.7, zorder=0)
        one.set_title(
            f"{title}\nshift {found.shift:.2f} rms, spread of scale {found.spread:.0%}", fontsize=9
        )
        one.tick_params(labelsize=8)
    # A few channels of tiny deviation would set the axes for all others.
    everything = [
        np.concatenate([getattr(f, n).ravel() for f in shifts.values()])
        for n in ("shifts", "scales")
    ]
    width = 1.15 * float(np.quantile(np.abs(everything[0]), 0.995)) or 1.0
    axes[0].set_xlim(-width, width)
    axes[0].set_ylim(0, 1.1 * max(1.0, float(np.quantile(everything[1], 0.995))))
    axes[0].set_ylabel("deviation on the chip / average over chips", fontsize=8.5)
    figure.supxlabel(
        "shift of the mean on the chip from its average over chips, in deviations", fontsize=8.5
    )
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
