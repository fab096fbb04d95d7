r"""Writes the report of a run of tools.evaluate: one HTML file to open in a browser.

  python -m tools.report_page runs/chips
  python -m tools.report_page runs/mine runs/other --out=runs/both.html

The page is RUN/report.html, or `--out`. It needs no server and no network. On top it says mean,
interval, worst chip and yield; below are the figures, a table of chips that sorts and filters, and
for each chip its accuracy by class, its achieved fault rates, its tile maps and the commands that
replay and export it; of two runs, first both side by side.

Classes and tile maps need the images' labels and the model. They are read from where the run found
them, which its `config.json` says, but for what flags say; where they are gone, or others than the
run's, the page says what it lacks. Of a run whose model was moved:

  python -m tools.report_page runs/chips --model=archive/model.keras
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from . import chip_files, cli, inputs, metric_flag, number_flags, run_report

FLAGS = flags.FLAGS

flags.DEFINE_string("out", None, "The .html file; default: report.html in the folder.")
number_flags.define(
    "required",
    None,
    "Accuracy in [0, 1], or score of another measure, that the yield is about. Default: an "
    "accuracy of 0.9.",
    "(-inf, inf)",
)
inputs.define_model(convert=True)
inputs.define_data(calibration=300)
chip_files.define()


def main(argv: Sequence[str]) -> None:
    """Writes the report of one or two folders."""
    from keras_rram.evaluation import load_run
    from keras_rram.plots.report import write_report

    folders = [pathlib.Path(name) for name in argv[1:]]
    if len(folders) not in (1, 2):
        raise ValueError(f"expected a run's folder, or two. Received: {argv[1:]}")
    run_report.check_alone(folders)
    path = pathlib.Path(FLAGS.out or folders[0] / "report.html")
    if path.suffix != ".html":
        raise ValueError(f"--out must be an .html file. Received: {path}")
    runs = []
    for folder in folders:
        results, config = load_run(folder), run_report.config_of(folder)
        if results[0].is_counted:
            metric_flag.check_share("required")
        model, labels, chips, lacks = run_report.found_by(config, results)
        if lacks:
            print(f"{folder} lacks {lacks}.", file=sys.stderr)
        runs.append(
            run_report.run_of(folder, results, config, model, labels, chips, FLAGS.required, lacks)
        )
    if len({run.name for run in runs}) < len(runs):
        runs = [
            dataclasses.replace(run, name=str(folder))
            for run, folder in zip(runs, folders, strict=True)
        ]
    write_report(path, runs)
    print(f"Report: {path} ({path.stat().st_size:,} bytes)")


if __name__ == "__main__":
    cli.run(main, takes_names=True)
