r"""Evaluates a trained model on a population of faulty chips.

A hundred chips at each of three fault rates:

  python -m tools.evaluate --model=runs/digits/model.keras --fault_rates=0.1,0.2,0.3 \
      --out=runs/chips

To a half-width of half a percent, with at most 1,000 chips; and a plain Keras model whose
convolutions are put on faulty hardware:

  python -m tools.evaluate --model=runs/digits/model.keras --chips=1000 --target_half_width=0.005 \
      --out=runs/precise
  python -m tools.evaluate --model=plain.keras --convert --where=convolutions --out=runs/plain

Other faults than independent zeros (`--help` has the names and keys), here cells of differential
pairs, broken as on a measured chip, at twice and thrice its rate:

  python -m tools.evaluate --model=runs/digits/model.keras --fault_rates=0.2,0.3 \
      --fault_model=differential_pair:stuck_off=0.0904,stuck_on=0.0175 --out=runs/pairs

The same with the arrays' converters and read noise computed tile by tile, which is slower:

  python -m tools.evaluate --model=runs/digits/model.keras --array=adc_bits=6,read_noise=0.01 \
      --chips=20 --out=runs/arrays

Each chip's batch normalization recalibrated on unlabelled training images before it is evaluated;
and a comparison with another model, or with the run of one, on the same chips:

  python -m tools.evaluate --model=runs/digits/model.keras --repair=batch_norm --out=runs/repaired
  python -m tools.evaluate --model=b.keras --compare_with=a.keras --out=runs/b
  python -m tools.evaluate --model=b.keras --compare_with=runs/chips --out=runs/b

Two runs of other chips of the same population (`--first_chip`) become one; and runs of models that
were trained with several seeds say what the spread is made of: training seed, chip, images:

  python -m tools.evaluate --merge=runs/a,runs/b --out=runs/both
  python -m tools.evaluate --split_variance=runs/seed0,runs/seed1,runs/seed2 --out=runs/variance

The folder `--out` gets a line in `chips.jsonl` after each chip, so that a run that was killed goes
on with `--resume` and the same flags; then `results.json`, `summary.csv`, `chips.csv` and figures,
`comparison.json` and `comparison.png`, or `variance.json`. `keras_rram.evaluation` documents what
the files hold: `records`, `chip_result`, `PopulationResult.summary`, `PairedDifference`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli
from .population_report import compare, report, write

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
flags.DEFINE_list(
    "fault_rates", None, "Fault rates in [0, 1). Default: that of --fault_model, or else 0.1."
)
cli.define_fault_model()
flags.DEFINE_integer("seed", 0, "Seed of the population of chips.", lower_bound=0)
flags.DEFINE_enum(
    "engine", "auto", ["auto", "keras", "litert"], "What computes; auto takes the faster."
)
flags.DEFINE_enum("quantization", "float32", ["float32", "int8"], "Numbers of the litert engine.")
flags.DEFINE_integer(
    "calibration_images", 300, "Training images for int8 or --array.", lower_bound=1
)
flags.DEFINE_string(
    "array",
    None,
    "Compute every faulty layer on arrays, as KEY=VALUE,KEY=VALUE of `hardware.arrays.Analog`; "
    "defaults: adc_bits=8,tile_rows=128,read_noise=0.0,coverage=1.0; adc_bits=none: exact sums.",
)
flags.DEFINE_float(
    "target_half_width", None, "Stop when the interval of the mean accuracy is that narrow."
)
flags.DEFINE_enum("repair", "none", ["none", "batch_norm"], "What is done to each chip first.")
flags.DEFINE_integer("repair_images", 512, "Training images for --repair.", lower_bound=1)
flags.DEFINE_string("compare_with", None, "Another model, or the folder of its run.")
flags.DEFINE_bool("bootstrap", False, "Give the two-way bootstrap interval too, as a check.")
flags.DEFINE_list("yield_at", ["0.9"], "Accuracies in [0, 1] to give the yield at.")
flags.DEFINE_integer("jobs", 1, "Processes; -1 for one on each core.")
flags.DEFINE_enum("parallel", "processes", ["processes", "dask"], "Where chips are evaluated.")
flags.DEFINE_string("scheduler", None, "Address of the Dask scheduler, tcp://host:8786.")
flags.DEFINE_list("merge", None, "Join the runs in these folders instead of evaluating.")
flags.DEFINE_list("split_variance", None, "Runs of several training seeds, instead of evaluating.")
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("resume", False, "Go on with the run in --out, or begin one.")

_NEEDS_MODEL = (
    "model", "target_half_width", "convert", "where", "resume", "repair", "compare_with",
    "fault_model", "fault_rates", "exact", "array",
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Evaluates, or merges, as the flags say and writes the results."""
    del argv
    thresholds = _numbers("yield_at")
    rates = None if FLAGS.fault_rates is None else _numbers("fault_rates")
    if any(not 0 <= threshold <= 1 for threshold in thresholds):
        raise ValueError(f"--yield_at must be accuracies in [0, 1]. Received: {FLAGS.yield_at}")
    if any(not 0 <= rate < 1 for rate in rates or ()):
        raise ValueError(f"--fault_rates must be in [0, 1). Received: {FLAGS.fault_rates}")
    if FLAGS.merge and FLAGS.split_variance:
        raise ValueError("--merge and --split_variance exclude each other.")
    if FLAGS.merge:
        _merge(thresholds)
    elif FLAGS.split_variance:
        _split_variance()
    else:
        _evaluate(cli.fault_model(0.1, rates), rates, thresholds)


def _evaluate(fault_model: Any, rates: list[float] | None, thresholds: list[float]) -> None:
    model = _model(FLAGS.model)
    if FLAGS.compare_with and FLAGS.target_half_width is not None:
        raise ValueError("--compare_with needs all images of each chip: no --target_half_width.")
    from keras_rram.evaluation import load_run
    from keras_rram.evaluation.comparison import check_same_chips
    from keras_rram.evaluation.population import check_data
    from keras_rram.faults import spec
    from keras_rram.files import array_sha256

    array = _array()
    dataset, data, options = _data()
    check_data(model, data)
    other = theirs = None
    if (FLAGS.compare_with or "").endswith(".keras"):
        other = _model(FLAGS.compare_with)
        check_data(other, data)
        other = _on_arrays(other, array, dataset)
    elif FLAGS.compare_with:
        theirs = load_run(FLAGS.compare_with)
        chips = range(FLAGS.first_chip, FLAGS.first_chip + FLAGS.chips)
        try:
            check_same_chips(theirs, fault_model, rates, chips, FLAGS.seed, array_sha256(*data))
        except ValueError as error:
            raise ValueError(f"--compare_with='{FLAGS.compare_with}': {error}") from None
    model = _on_arrays(model, array, dataset)
    folder = cli.output_folder(FLAGS.out, FLAGS.resume)
    options |= {"fault_model": fault_model, "rates": rates}
    found = _run(model, data, folder, options)
    config = {
        "command": cli.command(),
        "commit": cli.commit(),
        "model": FLAGS.model,
        "fault_model": spec(fault_model),
        "array": None if array is None else dataclasses.asdict(array),
        "repair": FLAGS.repair,
        "repair_images": None if FLAGS.repair == "none" else FLAGS.repair_images,
    }
    write(folder / "config.json", json.dumps(config, indent=2) + "\n")
    for result in found:
        answers = sum(chip.total for chip in result.chips)
        print(
            f"{result.rate:.4g}: {len(result.chips):,} chips, {answers:,} answers "
            f"({result.reason}), engine {found.engine}."
        )
    report(found.results, thresholds, folder, FLAGS.seed if FLAGS.bootstrap else None)
    is_whole = not found.interrupted
    if is_whole and other is not None:
        compared = _run(other, data, folder / "compared_with", options)
        theirs, is_whole = list(compared.results), not compared.interrupted
    if not is_whole:
        cli.fail("interrupted; --resume goes on where it stopped.", code=130)
    if theirs is not None:
        compare(found.results, theirs, folder, FLAGS.model, FLAGS.compare_with)


def _run(model: Any, data: tuple[Any, Any], folder: pathlib.Path, options: dict[str, Any]) -> Any:
    from keras_rram.evaluation import evaluate_rates

    return evaluate_rates(
        model,
        chips=FLAGS.chips,
        data=data,
        engine=FLAGS.engine,
        seed=FLAGS.seed,
        first_chip=FLAGS.first_chip,
        stop=FLAGS.target_half_width,
        out=str(folder),
        resume=FLAGS.resume,
        jobs=FLAGS.jobs,
        parallel=FLAGS.parallel,
        scheduler=FLAGS.scheduler,
        quantization=FLAGS.quantization,
        **options,
    )


def _model(path: str | None) -> Any:
    """Returns a model, with Drop-Connect layers."""
    if FLAGS.where is not None and not FLAGS.convert:
        raise ValueError("--where goes with --convert.")
    model = cli.load_model(path)
    from keras_rram import faulty_layers, to_drop_connect

    if FLAGS.convert:
        return to_drop_connect(model, 0.0, FLAGS.where)
    if not faulty_layers(model):
        raise ValueError(
            f"'{path}' has no Drop-Connect layer that faults could go to. Give --convert to put "
            "its weights on faulty hardware (--where=blocks for a part of them)."
        )
    return model


def _array() -> Any:
    """Returns the `Analog` of --array, or None."""
    if FLAGS.array is None:
        return None
    from keras_rram.hardware.arrays import Analog

    if FLAGS.quantization == "int8" or FLAGS.engine == "litert":
        raise ValueError("--array needs the keras engine, and --quantization=float32.")
    try:
        return Analog.parse(FLAGS.array)
    except ValueError as error:
        raise ValueError(f"--array: {error}") from None


def _on_arrays(model: Any, array: Any, dataset: Any) -> Any:
    """Returns the model on arrays, calibrated on training images, where --array says so."""
    if array is None:
        return model
    from keras_rram.hardware.arrays import to_analog

    count = min(FLAGS.calibration_images, len(dataset.train_labels))
    return to_analog(model, array, dataset.arrays("train", count)[0])


def _data() -> tuple[Any, tuple[Any, Any], dict[str, Any]]:
    """Returns the dataset, test images and labels, and what else `evaluate_rates` takes of it."""
    from keras_rram import data

    if FLAGS["repair_images"].present and FLAGS.repair == "none":
        raise ValueError("--repair_images goes with --repair=batch_norm.")
    dataset = data.load(FLAGS.data, FLAGS.data_dir, FLAGS.download)
    options: dict[str, Any] = {}
    if FLAGS.quantization == "int8":
        count = min(FLAGS.calibration_images, len(dataset.train_labels))
        options["calibration"], _ = dataset.arrays("train", count)
    if FLAGS.repair == "batch_norm":
        from keras_rram.repair.batch_norm import BatchNormRecalibration

        options["repair"] = BatchNormRecalibration(_unlabelled(dataset, FLAGS.repair_images))
    return dataset, dataset.arrays("test", FLAGS.images), options


def _unlabelled(dataset: Any, count: int) -> Any:
    """Returns training images, drawn without a look at their labels."""
    import numpy as np

    images = dataset.train_images
    if count > len(images):
        raise ValueError(f"--repair_images={count}: there are {len(images):,} training images.")
    chosen = np.random.default_rng(0).choice(len(images), count, replace=False)
    return dataset.normalize(images[np.sort(chosen)])


def _check_no_model(mode: str) -> None:
    given = [name for name in _NEEDS_MODEL if FLAGS[name].present]
    if given:
        raise ValueError(f"--{mode} evaluates nothing: leave out --{given[0]}.")


def _merge(thresholds: list[float]) -> None:
    _check_no_model("merge")
    from keras_rram.evaluation import load_run, merge_runs
    from keras_rram.evaluation.run_folder import read_run

    for part in FLAGS.merge:
        read_run(part)
    folder = cli.output_folder(FLAGS.out)
    merge_runs(FLAGS.merge, folder)
    report(
        tuple(load_run(str(folder))), thresholds, folder, FLAGS.seed if FLAGS.bootstrap else None
    )


def _split_variance() -> None:
    """Splits the variance of runs, one for each training seed, at each of their fault rates."""
    _check_no_model("split_variance")
    from keras_rram.evaluation import load_run, variance_split
    from keras_rram.evaluation.comparison import matched
    from keras_rram.evaluation.tables import variance_table

    first, *others = [load_run(path) for path in FLAGS.split_variance]
    pairs = [matched(first, other) for other in others]
    splits = {
        result.rate: variance_split(
            dict(enumerate([result, *(other[place][1] for other in pairs)]))
        )
        for place, result in enumerate(first)
    }
    folder = cli.output_folder(FLAGS.out)
    print(variance_table(splits))
    content = {
        "schema": "keras_rram.variance/1",
        "runs": FLAGS.split_variance,
        "splits": [{"rate": rate, **dataclasses.asdict(split)} for rate, split in splits.items()],
    }
    write(folder / "variance.json", json.dumps(content, indent=1) + "\n")
    print(f"Results: {folder}/")


def _numbers(name: str) -> list[float]:
    """Returns the numbers of a list flag."""
    try:
        return [float(value) for value in FLAGS[name].value]
    except ValueError:
        raise ValueError(f"--{name} must be numbers. Received: {FLAGS[name].value}") from None


if __name__ == "__main__":
    cli.run(main)
