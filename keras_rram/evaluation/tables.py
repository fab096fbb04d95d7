"""Results as aligned tables of text, in percent, for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_rram.evaluation.comparison import PairedDifference, VarianceSplit
from keras_rram.evaluation.statistics.single_chips import chips_for_bound


def population_table(rows: Sequence[Mapping[str, Any]], thresholds: Sequence[float] = ()) -> str:
    """Returns the table of populations, one line for each fault rate.

    Args:
        rows: what `PopulationResult.summary(yield_at=thresholds)` returned.
        thresholds: accuracies in [0, 1] to show the yield at.

    Returns:
        Lines of text without a newline at the end. "repaired" is the fault-free model after the
        repair, where there is one; "5th pct" is the chips' percentile, "bound"
        its lower confidence bound, where there are enough chips for one.
    """
    healthy = {"fault_free": "fault-free"}
    if any(row["repair"] != "none" for row in rows):
        healthy["fault_free_repaired"] = "repaired"
    titles = ["fault rate", "chips", *healthy.values(), "mean", "95% interval", "sd", "5th pct"]
    titles += ["bound", "worst", *(f"yield >= {100 * threshold:.4g}" for threshold in thresholds)]
    lines = [titles]
    for row in rows:
        interval = "-" if row["low"] is None else f"{percent(row['low'])}-{percent(row['high'])}"
        lines.append(
            [
                f"{100 * row['rate']:.4g}",
                str(row["chips"]),
                *(percent(row[name]) for name in (*healthy, "mean")),
                interval,
                *(percent(row[name]) for name in ("sd", "q05", "q05_bound", "worst")),
                *(percent(row[f"yield_{threshold:g}"], 1) for threshold in thresholds),
            ]
        )
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
    return "\n".join([aligned(lines), *notes])


def comparison_table(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], PairedDifference]],
) -> str:
    """Returns the table of a paired comparison, one line for each fault rate.

    Args:
        rows: the summaries of both results (`PopulationResult.summary`), and their difference.
    """
    lines = [["fault rate", "chips", "mean", "other", "difference", "95% interval", "better on"]]
    for mine, other, found in rows:
        interval = found.interval
        lines.append(
            [
                f"{100 * mine['rate']:.4g}",
                str(mine["chips"]),
                percent(mine["mean"]),
                percent(other["mean"]),
                f"{100 * interval.estimate:+.2f}",
                f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}",
                f"{percent(found.wins, 0)}% of chips",
            ]
        )
    mine, other, found = rows[0]
    method = found.interval.method.split(",")[0]
    notes = [f"On the same chips, in percentage points. Interval: {method}."]
    if (mine["access_tier"], mine["repair"]) != (other["access_tier"], other["repair"]):
        notes.append(f"Not of one access tier. {_access(mine)} The other: {_access(other)}")
    return "\n".join([aligned(lines), *notes])


def variance_table(splits: Mapping[float, VarianceSplit]) -> str:
    """Returns what the spread of the accuracy is made of, one line for each source and rate.

    Args:
        splits: fault rate -> `VarianceSplit`.
    """
    lines = [["fault rate", "source", "sd", "share of variance"]]
    for rate, split in splits.items():
        total = sum(component.variance for component in split.components)
        for component in split.components:
            share = component.variance / total if total else 0.0
            lines.append(
                [
                    f"{100 * rate:.4g}",
                    component.source,
                    percent(component.variance**0.5),
                    f"{percent(share, 1)}{' (clipped)' if component.clipped else ''}",
                ]
            )
    note = "In percent, of one answer" if _has_images(splits) else "In percent, of one accuracy"
    return "\n".join([aligned(lines), f"{note}; not of a mean."])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Returns cells as text, each column as wide as its widest cell, to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def percent(value: float | None, digits: int = 2) -> str:
    """Returns a share as a number of percent, "-" for None."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _access(row: Mapping[str, Any]) -> str:
    how = {"A": "one model for all chips", "B": "unlabelled images of each chip"}
    known = how.get(row["access_tier"], "the chip's faults, or labels")
    repair = "no repair" if row["repair"] == "none" else f"repair {row['repair']}"
    return f"Access tier {row['access_tier']}: {known}, {repair}."


def _has_images(splits: Mapping[float, VarianceSplit]) -> bool:
    return any(part.source == "image" for split in splits.values() for part in split.components)
