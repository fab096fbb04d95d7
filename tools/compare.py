"""Compares models on the same chips: runs of tools.evaluate, chip by chip.

  python -m tools.evaluate --model=a.keras --out=runs/a
  python -m tools.evaluate --model=b.keras --out=runs/b
  python -m tools.compare --runs=runs/a,runs/b --out=runs/a_against_b

The runs have the same chips and test images (`--seed`, `--fault_model`, `--fault_rates`, `--chips`,
`--images`), which then cancel from the difference, the first minus another. The folder `--out` gets
`comparison.json` (see `keras_rram.evaluation.PairedDifference`) and the figure `comparison`: of two
runs their curves and the differences of the chips, of more the curves of all.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli, report, tables

FLAGS = flags.FLAGS

_MOST_RUNS = 7  # as many as a figure has colours

flags.DEFINE_list("runs", [], "Folders of two runs or more; each is compared with the first.")
flags.DEFINE_list(
    "labels", None, "Names of these in the figure; default: the models', or else the folders'."
)
report.define_figures()
flags.DEFINE_string("out", None, "Folder for the results.")


def main(argv: Sequence[str]) -> None:
    """Compares as the flags say."""
    del argv
    count = len(FLAGS.runs)
    if not 2 <= count <= _MOST_RUNS:
        raise ValueError(f"--runs must be two to {_MOST_RUNS} folders. Received: {FLAGS.runs}")
    labels = FLAGS.labels or FLAGS.runs
    if len(labels) != count or len(set(labels)) != count:
        raise ValueError(f"--labels must be {count} different names. Received: {labels}")
    from keras_rram import plots
    from keras_rram.evaluation import load_run, paired_difference
    from keras_rram.evaluation.comparison import matched

    first, *others = (load_run(run) for run in FLAGS.runs)
    against = [matched(first, other) for other in others]
    labels = FLAGS.labels or _names([first[0], *(other[0] for other in others)])
    found = [
        [(a.summary(), b.summary(), paired_difference(a, b)) for a, b in pairs] for pairs in against
    ]
    folder = cli.output_folder(FLAGS.out)
    comparisons: list[dict[str, Any]] = []
    for label, run, pairs, rows in zip(labels[1:], FLAGS.runs[1:], against, found, strict=True):
        if count > 2:
            print(f"{labels[0]} against {label}:")
        report.show(*tables.comparison(rows, pairs[0][0].is_counted))
        comparisons += [
            {"rate": a["rate"], "other_run": run, "summary": a, "other": b}
            | dataclasses.asdict(difference)
            for a, b, difference in rows
        ]
    content = {
        "schema": "keras_rram.comparison/1",
        "command": cli.command(),
        "runs": FLAGS.runs,
        "comparisons": comparisons,
    }
    report.write_json(folder / "comparison.json", content)
    figure = folder / f"comparison.{FLAGS.figures}"
    if count == 2:
        mine, other = zip(*against[0], strict=True)
        plots.comparison(mine, other, figure, labels=tuple(labels))
    else:
        plots.accuracy_against_rate(dict(zip(labels, [first, *others], strict=True)), figure)
    print(f"Results: {folder}/")


def _names(results: Sequence[Any]) -> list[str]:
    """Returns what tells models apart: their names, their folders' names, or their order."""
    for names in ([one.name for one in results], [pathlib.Path(run).name for run in FLAGS.runs]):
        if all(names) and len(set(names)) == len(names):
            return names
    return [f"run {number}" for number in range(1, len(results) + 1)]


if __name__ == "__main__":
    cli.run(main)
