"""Splits the spread of runs of several training seeds: training seed, chip, test images.

  python -m tools.variance --runs=runs/seed0,runs/seed1,runs/seed2 --out=runs/variance

Each run is one of tools.evaluate, of a model trained with another seed. The folder `--out` gets
`variance.json`, see `keras_rram.evaluation.VarianceSplit`.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from . import cli, report, tables

FLAGS = flags.FLAGS

flags.DEFINE_list("runs", [], "Folders of the runs, one for each training seed.")
flags.DEFINE_string("out", None, "Folder for the results.")


def main(argv: Sequence[str]) -> None:
    """Splits the variance of the runs at each of their fault rates."""
    del argv
    if not FLAGS.runs:
        raise ValueError("--runs is missing: name the folders of two runs or more.")
    from keras_rram.evaluation import load_run, variance_split
    from keras_rram.evaluation.comparison import matched

    first, *others = [load_run(run) for run in FLAGS.runs]
    pairs = [matched(first, other) for other in others]
    splits = {
        result.rate: variance_split(
            dict(enumerate([result, *(other[place][1] for other in pairs)]))
        )
        for place, result in enumerate(first)
    }
    folder = cli.output_folder(FLAGS.out)
    report.show(*tables.variance(splits, first[0].is_counted))
    content = {
        "schema": "keras_rram.variance/1",
        "command": cli.command(),
        "runs": FLAGS.runs,
        "splits": [{"rate": rate, **dataclasses.asdict(split)} for rate, split in splits.items()],
    }
    report.write_json(folder / "variance.json", content)
    print(f"Results: {folder}/")


if __name__ == "__main__":
    cli.run(main)
