r"""Evaluates a trained model on a population of faulty chips.

A hundred chips at each of three fault rates:

  python -m tools.evaluate --model=runs/digits/model.keras --fault_rates=0.1,0.2,0.3 \
      --out=runs/chips

To a half-width of half a percent, with at most 1,000 chips; and a plain Keras model whose
convolutions are put on faulty hardware:

  python -m tools.evaluate --model=runs/digits/model.keras --chips=1000 --target_half_width=0.005 \
      --out=runs/precise
  python -m tools.evaluate --model=plain.keras --convert --where=convolutions --out=runs/plain

Two runs of other chips of the same population (`--first_chip`) become one:

  python -m tools.evaluate --merge=runs/a,runs/b --out=runs/both

The folder `--out` gets a line in `chips.jsonl` after each chip, so that a run that was killed goes
on with `--resume` and the same flags; then `results.json`, `summary.csv`, `chips.csv` and figures.
"""

import csv
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from tools import cli

FLAGS = flags.FLAGS

flags.DEFINE_string("model", None, "Trained model, a .keras file.")
flags.DEFINE_bool("convert", False, "Turn a plain Keras model into one whose weights can fail.")
flags.DEFINE_list("where", None, "With --convert: scope or roles on faulty hardware; default all.")
flags.DEFINE_string("data", "digits", "digits (offline), mnist, cifar10, or an .npz file.")
flags.DEFINE_string("data_dir", None, "Folder of tensorflow-datasets.")
flags.DEFINE_bool("download", False, "Download the dataset if it is not in --data_dir.")
flags.DEFINE_integer("images", None, "Use this many test images, a stratified part.", lower_bound=2)
flags.DEFINE_integer("chips", 100, "Chips at each fault rate; a cap with --target_half_width.")
flags.DEFINE_integer("first_chip", 0, "Index of the first chip.")
flags.DEFINE_list("fault_rates", ["0.1"], "Fault rates in [0, 1).")
flags.DEFINE_bool("exact", False, "Exactly this share of each kernel, not independent faults.")
flags.DEFINE_integer("seed", 0, "Seed of the population of chips.", lower_bound=0)
flags.DEFINE_enum(
    "engine", "auto", ["auto", "keras", "litert"], "What computes; auto takes the faster."
)
flags.DEFINE_enum("quantization", "float32", ["float32", "int8"], "Numbers of the litert engine.")
flags.DEFINE_integer("calibration_images", 300, "Training images for int8.", lower_bound=1)
flags.DEFINE_float(
    "target_half_width", None, "Stop when the interval of the mean accuracy is that narrow."
)
flags.DEFINE_list("yield_at", ["0.9"], "Accuracies in [0, 1] to give the yield at.")
flags.DEFINE_integer("jobs", 1, "Processes; -1 for one on each core.")
flags.DEFINE_enum("parallel", "processes", ["processes", "dask"], "Where chips are evaluated.")
flags.DEFINE_string("scheduler", None, "Address of the Dask scheduler, tcp://host:8786.")
flags.DEFINE_list("merge", None, "Join the runs in these folders instead of evaluating.")
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("resume", False, "Go on with the run in --out, or begin one.")

_FIGURES = ("accuracy.png", "chips.png", "yield.png", "convergence.png")
_NEEDS_MODEL = ("model", "target_half_width", "convert", "where", "resume")


def main(argv: Sequence[str]) -> None:
    """Evaluates, or merges, as the flags say and writes the results."""
    del argv
    thresholds, rates = _numbers("yield_at"), _numbers("fault_rates")
    if any(not 0 <= threshold <= 1 for threshold in thresholds):
        raise ValueError(f"--yield_at must be accuracies in [0, 1]. Received: {FLAGS.yield_at}")
    if any(not 0 <= rate < 1 for rate in rates):
        raise ValueError(f"--fault_rates must be in [0, 1). Received: {FLAGS.fault_rates}")
    if FLAGS.merge:
        _merge(thresholds)
        return
    model = _model()
    from keras_rram import StuckAtZero
    from keras_rram.evaluation.arguments import check_data
    from keras_rram.evaluation.population import run_population
    from keras_rram.files import written_whole

    data, calibration = _data()
    check_data(model, data)
    folder = cli.output_folder(FLAGS.out, FLAGS.resume)
    found = run_population(
        model,
        StuckAtZero(rates[0], exact=FLAGS.exact),
        FLAGS.chips,
        data,
        FLAGS.engine,
        FLAGS.seed,
        rates,
        first_chip=FLAGS.first_chip,
        stop=FLAGS.target_half_width,
        out=str(folder),
        resume=FLAGS.resume,
        jobs=FLAGS.jobs,
        parallel=FLAGS.parallel,
        scheduler=FLAGS.scheduler,
        quantization=FLAGS.quantization,
        calibration=calibration,
    )
    with written_whole(folder / "config.json") as temporary:
        config = {"command": cli.command(), "commit": cli.commit(), "model": FLAGS.model}
        temporary.write_text(json.dumps(config, indent=2) + "\n")
    for result, reason in zip(found.results, found.reasons, strict=True):
        answers = sum(chip.total for chip in result.chips)
        print(
            f"{result.rate:.4g}: {len(result.chips):,} chips, {answers:,} answers ({reason}), "
            f"engine {found.engine}."
        )
    _report(found.results, thresholds, folder)
    if found.interrupted:
        cli.fail("interrupted; --resume goes on where it stopped.", code=130)


def _model() -> Any:
    """Returns the model, with Drop-Connect layers."""
    if FLAGS.where is not None and not FLAGS.convert:
        raise ValueError("--where goes with --convert.")
    model = cli.load_model(FLAGS.model)
    from keras_rram import faulty_layers, to_drop_connect

    if FLAGS.convert:
        return to_drop_connect(model, 0.0, FLAGS.where)
    if not faulty_layers(model):
        raise ValueError(
            f"--model='{FLAGS.model}' has no Drop-Connect layer that faults could go to. Give "
            "--convert to put its weights on faulty hardware (--where=blocks for a part of them)."
        )
    return model


def _data() -> tuple[tuple[Any, Any], Any]:
    """Returns the test images and labels, and the calibration images or None."""
    from keras_rram import data

    dataset = data.load(FLAGS.data, FLAGS.data_dir, FLAGS.download)
    calibration = None
    if FLAGS.quantization == "int8":
        count = min(FLAGS.calibration_images, len(dataset.train_labels))
        calibration, _ = dataset.arrays("train", count)
    return dataset.arrays("test", FLAGS.images), calibration


def _merge(thresholds: list[float]) -> None:
    given = [name for name in _NEEDS_MODEL if FLAGS[name].present]
    if given:
        raise ValueError(f"--merge evaluates nothing: leave out --{given[0]}.")
    from keras_rram.evaluation.population import load_run
    from keras_rram.evaluation.records import merge_runs, read_run

    for part in FLAGS.merge:
        read_run(part)
    folder = cli.output_folder(FLAGS.out)
    merge_runs(FLAGS.merge, folder)
    _report(tuple(load_run(str(folder))), thresholds, folder)


def _report(results: Sequence[Any], thresholds: list[float], folder: pathlib.Path) -> None:
    """Prints the table and writes everything that is made of the chips' records."""
    from keras_rram.files import written_whole

    rows = [result.summary(yield_at=thresholds) for result in results]
    print(_table(rows, thresholds))
    populations = [json.loads(result.to_json()) for result in results]
    content = {
        "schema": "keras_rram.evaluation/1",
        "summary": rows,
        "populations": populations,
    }
    with written_whole(folder / "results.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with written_whole(folder / "summary.csv") as temporary:
        temporary.write_text(text.getvalue())
    tables = [result.to_csv() for result in results]
    with written_whole(folder / "chips.csv") as temporary:
        temporary.write_text(tables[0] + "".join(table.partition("\n")[2] for table in tables[1:]))
    _draw(results, folder)
    print(f"Results: {folder}/")


def _draw(results: Sequence[Any], folder: pathlib.Path) -> None:
    from keras_rram import plots

    drawn = ["accuracy.png"]
    plots.accuracy_against_rate(results, folder / "accuracy.png")
    full = [result for result in results if result.folds == 1]
    if full:
        plots.chip_distribution(full, folder / "chips.png")
        plots.yield_curve(full, folder / "yield.png")
        drawn += ["chips.png", "yield.png"]
    else:
        print(
            "No figures of single chips: each answered a part of the images, which is enough for "
            "the mean only."
        )
    if any(len(result.chips) > 1 for result in results):
        plots.convergence(results, folder / "convergence.png")
        drawn.append("convergence.png")
    for name in set(_FIGURES) - set(drawn):
        (folder / name).unlink(missing_ok=True)  # of a run before it was resumed


def _table(rows: Sequence[dict[str, Any]], thresholds: list[float]) -> str:
    """Returns the figures as an aligned table, in percent."""

    def percent(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{100 * value:.{digits}f}"

    titles = ["fault rate", "chips", "fault-free", "mean", "95% interval", "sd", "5th pct", "worst"]
    lines = [[*titles, *(f"yield >= {100 * threshold:.4g}" for threshold in thresholds)]]
    for row in rows:
        interval = "-" if row["low"] is None else f"{percent(row['low'])}-{percent(row['high'])}"
        lines.append(
            [
                f"{100 * row['rate']:.4g}",
                str(row["chips"]),
                percent(row["fault_free"]),
                percent(row["mean"]),
                interval,
                *(percent(row[name]) for name in ("sd", "q05", "worst")),
                *(percent(row[f"yield_{threshold:g}"], 1) for threshold in thresholds),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    methods = sorted({row["method"].split(",")[0] for row in rows if row["method"]})
    note = f"All in percent. Interval: {'; '.join(methods)}." if methods else "All in percent."
    return "\n".join([*text, note])


def _numbers(name: str) -> list[float]:
    """Returns the numbers of a list flag."""
    try:
        return [float(value) for value in FLAGS[name].value]
    except ValueError:
        raise ValueError(f"--{name} must be numbers. Received: {FLAGS[name].value}") from None


if __name__ == "__main__":
    cli.run(main)
