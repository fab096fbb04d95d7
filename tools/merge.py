"""Joins runs of tools.evaluate on other chips of the same population into one run.

  python -m tools.evaluate --model=m.keras --chips=50 --out=runs/a
  python -m tools.evaluate --model=m.keras --chips=50 --first_chip=50 --out=runs/b
  python -m tools.merge --runs=runs/a,runs/b --out=runs/both

The folder `--out` gets what tools.evaluate would have written for all chips at once.
"""

from collections.abc import Sequence

from absl import flags

from . import cli, metric_flag, report
from .population_report import write_population

FLAGS = flags.FLAGS

flags.DEFINE_list("runs", [], "Folders of the runs.")
flags.DEFINE_list(
    "yield_at", ["0.9"], "Accuracies in [0, 1], or scores of another measure, to give the yield at."
)
report.define_figures()
flags.DEFINE_string("out", None, "Folder for the results.")


def main(argv: Sequence[str]) -> None:
    """Joins as the flags say."""
    del argv
    if len(FLAGS.runs) < 2:
        raise ValueError(f"--runs must be two folders or more. Received: {FLAGS.runs}")
    cli.numbers("yield_at", "(-inf, inf)")
    from keras_rram.evaluation import load_run, merge_runs

    first, *_ = [load_run(run)[0] for run in FLAGS.runs]
    thresholds = metric_flag.thresholds(first.measure == "accuracy")
    folder = cli.output_folder(FLAGS.out)
    merge_runs(FLAGS.runs, folder)
    results = load_run(str(folder))
    write_population(results, metric_flag.meant(thresholds, results), folder)


if __name__ == "__main__":
    cli.run(main)
