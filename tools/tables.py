"""Results of populations as tables to read, in percent."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .report import percent


def population(
    rows: Sequence[Mapping[str, Any]], thresholds: Sequence[float] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Returns the cells of populations, one row for each fault rate, and notes.

    Args:
        rows: what `PopulationResult.summary(yield_at=thresholds)` returned.
        thresholds: accuracies in [0, 1] to show the yield at.

    Returns:
        Cells and notes. "repaired" is the fault-free model after the repair, where there is one;
        "5th pct" is the chips' percentile, "bound" its lower confidence bound, where there are
        enough chips for one.
    """
    from keras_rram.evaluation.statistics.single_chips import chips_for_bound

    names = {"fault-free": "fault_free", "mean": "mean", "95% interval": "interval", "sd": "sd"}
    names |= {"5th pct": "q05", "bound": "q05_bound", "worst": "worst"}
    if any(row["repair"] != "none" for row in rows):
        names = {"fault-free": "fault_free", "repaired": "fault_free_repaired", **names}
    cells = [
        {
            "fault rate": f"{100 * row['rate']:.4g}",
            "chips": row["chips"],
            **{title: _percents(row, name) for title, name in names.items()},
            **{f"yield >= {100 * t:.4g}": percent(row[f"yield_{t:g}"], 1) for t in thresholds},
        }
        for row in rows
    ]
    notes = ["All in percent."]
    asked = {(row["method"].split(",")[0], row["question"]) for row in rows if row["method"]}
    if asked:
        notes[0] += f" Interval: {'; '.join(f'{how} ({what})' for how, what in sorted(asked))}."
    if any(row["q05"] is not None for row in rows):
        notes.append(
            "5th pct and yield are without the noise of finitely many images, worst is with it."
        )
    notes += [_access(row) for row in rows[:1]]
    if any(row["q05"] is not None and row["q05_bound"] is None for row in rows):
        notes.append(f"A bound of the 5th percentile takes {chips_for_bound()} chips.")
    return pd.DataFrame(cells), notes


def comparison(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], Any]],
) -> tuple[pd.DataFrame, list[str]]:
    """Returns the cells of a paired comparison, one row for each fault rate, and notes.

    Args:
        rows: the summaries of both results, and their `PairedDifference`.
    """
    cells = [
        {
            "fault rate": f"{100 * mine['rate']:.4g}",
            "chips": mine["chips"],
            "mean": percent(mine["mean"]),
            "other": percent(other["mean"]),
            "difference": f"{100 * found.interval.estimate:+.2f}",
            "95% interval": f"{100 * found.interval.low:+.2f} to {100 * found.interval.high:+.2f}",
            "better on": f"{percent(found.wins, 0)}% of chips",
        }
        for mine, other, found in rows
    ]
    mine, other, found = rows[0]
    method = found.interval.method.split(",")[0]
    notes = [f"On the same chips, in percentage points. Interval: {method}."]
    if (mine["access_tier"], mine["repair"]) != (other["access_tier"], other["repair"]):
        notes.append(f"Not of one access tier. {_access(mine)} The other: {_access(other)}")
    return pd.DataFrame(cells), notes


def variance(splits: Mapping[float, Any]) -> tuple[pd.DataFrame, list[str]]:
    """Returns what the spread of the accuracy is made of, one row for each source and rate.

    Args:
        splits: fault rate -> `VarianceSplit`.
    """
    cells = []
    for rate, split in splits.items():
        total = sum(component.variance for component in split.components)
        for part in split.components:
            share = part.variance / total if total else 0.0
            cells.append(
                {
                    "fault rate": f"{100 * rate:.4g}",
                    "source": part.source,
                    "sd": percent(part.variance**0.5),
                    "share of variance": percent(share, 1) + (" (clipped)" if part.clipped else ""),
                }
            )
    has_images = any(row["source"] == "image" for row in cells)
    what = "answer" if has_images else "accuracy"
    return pd.DataFrame(cells), [f"In percent, of one {what}; not of a mean."]


def _percents(row: Mapping[str, Any], name: str) -> str:
    if name != "interval":
        return percent(row[name])
    return "-" if row["low"] is None else f"{percent(row['low'])}-{percent(row['high'])}"


def _access(row: Mapping[str, Any]) -> str:
    how = {"A": "one model for all chips", "B": "unlabelled images of each chip"}
    known = how.get(row["access_tier"], "the chip's faults, or labels")
    repair = "no repair" if row["repair"] == "none" else f"repair {row['repair']}"
    return f"Access tier {row['access_tier']}: {known}, {repair}."
