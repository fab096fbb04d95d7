"""Compares two models on the same chips: two runs of tools.evaluate, chip by chip.

  python -m tools.evaluate --model=a.keras --out=runs/a
  python -m tools.evaluate --model=b.keras --out=runs/b
  python -m tools.compare --runs=runs/a,runs/b --out=runs/a_against_b

The runs have the same chips and test images (`--seed`, `--fault_model`, `--fault_rates`, `--chips`,
`--images`), which then cancel from the difference, the first minus the second. The folder `--out`
gets `comparison.json` (see `keras_rram.evaluation.PairedDifference`) and the figure `comparison`.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli, report, tables

FLAGS = flags.FLAGS

flags.DEFINE_list("runs", [], "Folders of the two runs.")
flags.DEFINE_list(
    "labels", None, "Names of the two in the figure; default: the models', or else the folders'."
)
report.define_figures()
flags.DEFINE_string("out", None, "Folder for the results.")


def main(argv: Sequence[str]) -> None:
    """Compares as the flags say."""
    del argv
    if len(FLAGS.runs) != 2:
        raise ValueError(f"--runs must be two folders. Received: {FLAGS.runs}")
    if len(set(FLAGS.labels or FLAGS.runs)) != 2:
        raise ValueError(
            f"--labels must be two different names. Received: {FLAGS.labels or FLAGS.runs}"
        )
    from keras_rram import plots
    from keras_rram.evaluation import load_run, paired_difference
    from keras_rram.evaluation.comparison import matched

    pairs = matched(*(load_run(run) for run in FLAGS.runs))
    labels = FLAGS.labels or _names(pairs[0])
    rows = [(a.summary(), b.summary(), paired_difference(a, b)) for a, b in pairs]
    folder = cli.output_folder(FLAGS.out)
    report.show(*tables.comparison(rows, pairs[0][0].is_counted))
    content = {
        "schema": "keras_rram.comparison/1",
        "command": cli.command(),
        "runs": FLAGS.runs,
        "comparisons": [
            {"rate": a["rate"], "summary": a, "other": b, **dataclasses.asdict(difference)}
            for a, b, difference in rows
        ],
    }
    report.write_json(folder / "comparison.json", content)
    (mine, others), (first, second) = zip(*pairs, strict=True), labels
    figure = folder / f"comparison.{FLAGS.figures}"
    plots.comparison(mine, others, figure, labels=(first, second))
    print(f"Results: {folder}/")


def _names(pair: Sequence[Any]) -> list[str]:
    """Returns what tells two models apart: their names, their folders' names, or their order."""
    for names in ([one.name for one in pair], [pathlib.Path(run).name for run in FLAGS.runs]):
        if all(names) and len(set(names)) == 2:
            return names
    return ["first", "second"]


if __name__ == "__main__":
    cli.run(main)
