"""Joins runs of tools.evaluate on other chips of the same population into one run.

  python -m tools.evaluate --model=m.keras --chips=50 --out=runs/a
  python -m tools.evaluate --model=m.keras --chips=50 --first_chip=50 --out=runs/b
  python -m tools.merge --runs=runs/a,runs/b --out=runs/both

The folder `--out` gets what tools.evaluate would have written for all chips at once.
"""

from collections.abc import Sequence

from absl import flags

from . import cli, report
from .population_report import write_population

FLAGS = flags.FLAGS

flags.DEFINE_list("runs", [], "Folders of the runs.")
flags.DEFINE_list("yield_at", ["0.9"], "Accuracies in [0, 1] to give the yield at.")
report.define_figures()
flags.DEFINE_string("out", None, "Folder for the results.")


def main(argv: Sequence[str]) -> None:
    """Joins as the flags say."""
    del argv
    if len(FLAGS.runs) < 2:
        raise ValueError(f"--runs must be two folders or more. Received: {FLAGS.runs}")
    thresholds = cli.numbers("yield_at", "[0, 1]")
    from keras_rram.evaluation import load_run, merge_runs

    for run in FLAGS.runs:
        load_run(run)
    folder = cli.output_folder(FLAGS.out)
    merge_runs(FLAGS.runs, folder)
    write_population(load_run(str(folder)), thresholds, folder)


if __name__ == "__main__":
    cli.run(main)
