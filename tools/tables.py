"""Results of populations as tables to read, in percent."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .report import percent, value


def population(
    rows: Sequence[Mapping[str, Any]], thresholds: Sequence[float] = (), is_counted: bool = True
) -> tuple[pd.DataFrame, list[str]]:
    """Returns the cells of populations, one row for each fault rate, and notes.

    Args:
        rows: what `PopulationResult.summary(yield_at=thresholds)` returned.
        thresholds: accuracies in [0, 1], or scores, to show the yield at.
        is_counted: whether they are of a measure that counts right answers.

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
            **{title: _shown(row, name, is_counted) for title, name in names.items()},
            **{
                f"yield at {value(t, is_counted)}"
                if not is_counted
                else f"yield >= {100 * t:.4g}": percent(row[f"yield_{t:g}"], 1)
                for t in thresholds
            },
        }
        for row in rows
    ]
    notes = [
        "All in percent."
        if is_counted
        else f"Rates and yields in percent, all else {rows[0]['measure']}."
    ]
    asked = {(row["method"].split(",")[0], row["question"]) for row in rows if row["method"]}
    if asked:
        notes[0] += f" Interval: {'; '.join(f'{how} ({what})' for how, what in sorted(asked))}."
    if any(row["q05"] is not None and "new images" in str(row["question"]) for row in rows):
        notes.append(
            "5th pct and yield are without the noise of finitely many images, worst is with it."
        )
    notes += [_access(row) for row in rows[:1]]
    if any(row["q05"] is not None and row["q05_bound"] is None for row in rows):
        notes.append(f"A bound of the 5th percentile takes {chips_for_bound()} chips.")
    return pd.DataFrame(cells), notes


def comparison(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], Any]], is_counted: bool = True
) -> tuple[pd.DataFrame, list[str]]:
    """Returns the cells of a paired comparison, one row for each fault rate, and notes.

    Args:
        rows: the summaries of both results, and their `PairedDifference`.
        is_counted: see `population`.
    """

    def signed(number: float) -> str:
        return f"{100 * number:+.2f}" if is_counted else f"{number:+.4g}"

    cells = [
        {
            "fault rate": f"{100 * mine['rate']:.4g}",
            "chips": mine["chips"],
            "mean": value(mine["mean"], is_counted),
            "other": value(other["mean"], is_counted),
            "difference": signed(found.interval.estimate),
            "95% interval": f"{signed(found.interval.low)} to {signed(found.interval.high)}",
            "better on": f"{percent(found.wins, 0)}% of chips",
        }
        for mine, other, found in rows
    ]
    mine, other, found = rows[0]
    method = found.interval.method.split(",")[0]
    unit = "in percentage points" if is_counted else mine["measure"]
    notes = [f"On the same chips, {unit}. Interval: {method} ({found.interval.question})."]
    if (mine["access_tier"], mine["repair"]) != (other["access_tier"], other["repair"]):
        notes.append(f"Not of one access tier. {_access(mine)} The other: {_access(other)}")
    return pd.DataFrame(cells), notes


def variance(
    splits: Mapping[float, Any], is_counted: bool = True
) -> tuple[pd.DataFrame, list[str]]:
    """Returns what the spread of the accuracy is made of, one row for each source and rate.

    Args:
        splits: fault rate -> `VarianceSplit`.
        is_counted: see `population`.
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
                    "sd": value(part.variance**0.5, is_counted),
                    "share of variance": percent(share, 1) + (" (clipped)" if part.clipped else ""),
                }
            )
    has_images = any(row["source"] == "image" for row in cells)
    what = "answer" if has_images else "accuracy"
    note = f"In percent, of one {what}; not of a mean." if is_counted else "Of one score."
    return pd.DataFrame(cells), [note]


def _shown(row: Mapping[str, Any], name: str, is_counted: bool) -> str:
    if name != "interval":
        return value(row[name], is_counted)
    if row["low"] is None:
        return "-"
    between = "-" if is_counted else " to "
    return between.join(value(row[end], is_counted) for end in ("low", "high"))


def _access(row: Mapping[str, Any]) -> str:
    how = {"A": "one model for all chips", "B": "unlabelled images of each chip"}
    known = how.get(row["access_tier"], "the chip's faults, or labels")
    repair = "no repair" if row["repair"] == "none" else f"repair {row['repair']}"
    return f"Access tier {row['access_tier']}: {known}, {repair}."
