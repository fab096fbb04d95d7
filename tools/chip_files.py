"""`--chip`: chips that are files, measured ones above all, and which of them are good enough."""

import glob
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli, metric_flag, number_flags, report

flags.disclaim_key_flags()

FLAGS = flags.FLAGS


@cli.section("chips")
def define() -> None:
    """Defines `--chip` and `--keep_above`."""
    flags.DEFINE_list(
        "chip",
        [],
        "Saved chips or measured fault maps, .npz files, in place of sampled ones; * stands for "
        "any name.",
    )
    number_flags.define(
        "keep_above",
        None,
        "With --chip: accuracy in [0, 1] that a chip must have, or its score by --metric (at most "
        "that where lower is better); verdicts.csv says which to keep.",
        "(-inf, inf)",
    )


def paths() -> list[pathlib.Path]:
    """Returns the files of `--chip`, each pattern's in the order of their names.

    Raises:
        ValueError: if a pattern fits no file, or `--keep_above` has no chips.
    """
    found: list[pathlib.Path] = []
    for pattern in FLAGS.chip:
        fitting = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not fitting:
            raise ValueError(f"--chip={pattern}: no file has such a name.")
        found += [pathlib.Path(path) for path in fitting]
    if FLAGS.keep_above is not None and not found:
        raise ValueError("--keep_above goes with --chip: sampled chips are not kept or rejected.")
    metric_flag.check_share("keep_above")
    return list(dict.fromkeys(found))


def load() -> list[Any]:
    """Returns the chips of `--chip`."""
    from keras_rram import Chip

    return [Chip.load(path) for path in paths()]


def verdicts(result: Any, folder: pathlib.Path) -> list[int]:
    """Writes which chips of a result have `--keep_above`, says so, and returns their places.

    Args:
        result: the `PopulationResult` of the chips.
        folder: gets `verdicts.csv`: chip, accuracy (or score), part of faulty weights, verdict,
            reason.
    """
    limit, sign = FLAGS.keep_above, 1 if result.higher_is_better else -1
    beyond, enough = ("below", "or more") if sign == 1 else ("above", "or less")

    def shown(value: float) -> str:
        return f"{value:.2%}" if result.is_counted else f"{value:.6g}"

    rows = []
    for chip in result.chips:
        is_good = sign * chip.accuracy >= sign * limit
        reason = f"{result.measure} {shown(chip.accuracy)} is {beyond} {shown(limit)}"
        rows.append(
            {
                "chip": chip.name or chip.index,
                "accuracy": chip.accuracy,
                "achieved_fault_rate": chip.achieved_fault_rate,
                "verdict": "pass" if is_good else "reject",
                "reason": "" if is_good else reason,
            }
        )
    table = report.table(rows)
    report.write(folder / "verdicts.csv", table.to_csv(index=False, lineterminator="\n"))
    found = result.yield_at(limit, images="test_set")
    kept = [place for place, row in enumerate(rows) if row["verdict"] == "pass"]
    print(
        f"Yield: {found.passed} of {found.chips} chips have {shown(limit)} {enough}, "
        f"{found.interval.estimate:.1%} (95% interval {found.interval.low:.1%} to "
        f"{found.interval.high:.1%}, {found.interval.question})."
    )
    for row in rows:
        if row["reason"]:
            print(f"  reject {row['chip']}: {row['reason']}.")
    return kept


def show(result: Any) -> None:
    """Prints a line for each chip of a list."""
    cells = [
        {
            "chip": chip.name or chip.index,
            "faulty": report.percent(chip.achieved_fault_rate),
            result.measure: report.value(chip.accuracy, result.is_counted),
        }
        for chip in result.chips
    ]
    what = "In percent" if result.is_counted else "Faulty in percent"
    report.show(report.table(cells), [f"{what}, faulty of the weights."])


def options(chips: Sequence[Any]) -> None:
    """Raises ValueError for flags of sampled chips where chips are given."""
    names = ("fault_model", "fault_rate", "fault_rates", "chips", "first_chip")
    given = [name for name in names if name in FLAGS and FLAGS[name].present]
    if chips and given:
        raise ValueError(f"--chip excludes --{given[0]}: chips are given, or sampled.")
