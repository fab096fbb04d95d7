r"""Evaluates a trained model on a population of faulty chips.

A hundred chips at each of three fault rates, on the test images of the data that the model was
trained on, which `config.json` beside it names:

  python -m tools.evaluate --model=runs/digits/model.keras --fault_rates=0.1,0.2,0.3 \
      --out=runs/chips

To a half-width of half a percent, with at most 1,000 chips; and a plain Keras model whose
convolutions are put on faulty hardware:

  python -m tools.evaluate --model=runs/digits/model.keras --chips=1000 --target_half_width=0.005 \
      --out=runs/precise
  python -m tools.evaluate --model=plain.keras --convert --where=convolutions --data=digits \
      --out=runs/plain

Other faults than independent zeros (`--help_faults` has the names and keys), here cells of
differential pairs, broken as on a measured chip, at twice and thrice its rate:

  python -m tools.evaluate --model=runs/digits/model.keras --fault_rates=0.2,0.3 \
      --fault_model=differential_pair:stuck_off=0.0904,stuck_on=0.0175 --out=runs/pairs

The same with the arrays' converters and read noise computed tile by tile, which is slower; and each
chip repaired before it is evaluated, by recalibration on unlabelled training images or from the
chip's map (`--help_repairs` has the names and keys):

  python -m tools.evaluate --model=runs/digits/model.keras --array=adc_bits=6,read_noise=0.01 \
      --chips=20 --out=runs/arrays
  python -m tools.evaluate --model=runs/digits/model.keras --repair=batch_norm --out=runs/repaired
  python -m tools.evaluate --model=runs/digits/model.keras --repair=remap+batch_norm:images=64 \
      --out=runs/remapped

A regression, or what else is no question of accuracy: by a Keras metric, or by a function of the
outputs and the labels. Sigmoids and labels of 0 and 1 need none:

  python -m tools.evaluate --model=prices.keras --convert --data=prices.npz --metric=mse \
      --yield_at=0.05 --out=runs/prices
  python -m tools.evaluate --model=boxes.keras --convert --data=boxes.npz --metric=mine:overlap \
      --out=runs/boxes

Measured chips in place of sampled ones, and which of them to throw away (`verdicts.csv`);
`tools.program_chips` makes them of tile maps:

  python -m tools.evaluate --model=runs/digits/model.keras --chip='chips/*.npz' \
      --keep_above=0.95 --out=runs/measured

The folder `--out` gets a line in `chips.jsonl` after each chip, so that a run that was killed goes
on with `--resume` and the same flags; then `results.json`, `summary.csv`, `chips.csv` and figures,
and with `--report` the page `report.html` (`tools.report_page` makes it later, or of two runs).
`keras_rram.evaluation` documents what the files hold: `records`, `chip_result`,
`PopulationResult.summary`. `tools.compare`, `tools.merge` and `tools.variance` go on from such
folders.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import (
    chip_files,
    cli,
    fault_flags,
    inputs,
    metric_flag,
    number_flags,
    repair_flags,
    report,
    run_report,
)
from .population_report import write_population

FLAGS = flags.FLAGS

inputs.define_model(convert=True)
inputs.define_data(calibration=300)
fault_flags.define()
fault_flags.define_chips(100)
chip_files.define()
metric_flag.define()
flags.DEFINE_list(
    "fault_rates", None, "Fault rates in [0, 1). Default: that of --fault_model, or else 0.1."
)
flags.DEFINE_enum(
    "engine", "auto", ["auto", "keras", "litert"], "What computes; auto takes the faster."
)
flags.DEFINE_enum("quantization", "float32", ["float32", "int8"], "Numbers of the litert engine.")
flags.DEFINE_string(
    "array",
    None,
    "Compute every faulty layer on arrays with converters and read noise, KEY=VALUE,KEY=VALUE; "
    "--help_faults has the keys.",
)
number_flags.define(
    "target_half_width",
    None,
    "Stop when the mean's interval is that narrow; --chips is a cap.",
    "(0, 0.5)",
)
repair_flags.define()
flags.DEFINE_bool("bootstrap", False, "Give the two-way bootstrap interval too, as a check.")
flags.DEFINE_list(
    "yield_at", ["0.9"], "Accuracies in [0, 1], or scores by --metric, to give the yield at."
)
number_flags.define_jobs("Processes; -1 for one on each core.")
flags.DEFINE_enum("parallel", "processes", ["processes", "dask"], "Where chips are evaluated.")
flags.DEFINE_string("scheduler", None, "Address of the Dask scheduler, tcp://host:8786.")
report.define_figures()
flags.DEFINE_bool("report", False, "Write report.html too, a page to open in a browser.")
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("resume", False, "Go on with the run in --out, or begin one.")


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say and writes the results."""
    del argv
    cli.check_output_folder()
    from keras_rram.evaluation import evaluate_population, evaluate_rates
    from keras_rram.faults import spec
    from keras_rram.hardware.arrays import Analog, to_analog

    metric = metric_flag.given()
    thresholds = metric_flag.thresholds(metric is None)
    rates = None if FLAGS.fault_rates is None else cli.numbers("fault_rates", "[0, 1)")
    plan = repair_flags.plan()
    chips = chip_files.load()
    chip_files.options(chips)
    fault_model = chips or fault_flags.given(0.1, rates)
    array = cli.parsed("array", Analog.parse)
    if array is not None and (FLAGS.quantization == "int8" or FLAGS.engine == "litert"):
        raise ValueError("--array needs the keras engine, and --quantization=float32.")
    model, dataset, data = inputs.load()
    options = _options(dataset)
    if array is not None:
        model = to_analog(model, array, inputs.calibration(dataset))
    folder = cli.output_folder(FLAGS.out, FLAGS.resume)
    options |= {"data": data, "metric": metric, "out": str(folder)}
    if chips:
        options |= {"chips": None, "first_chip": 0}
    if rates is None:
        results = [evaluate_population(model, fault_model, **options)]
    else:
        results = list(evaluate_rates(model, fault_model, rates, **options))
    config = {
        "command": cli.command(),
        "commit": cli.commit(),
        "model": FLAGS.model,
        "data": dataset.name,
        "fault_model": None if chips else spec(fault_flags.given(0.1, rates)),
        "chip": FLAGS.chip,
        "array": None if array is None else dataclasses.asdict(array),
        "repair": "none" if plan is None else str(plan),
        "arguments": run_report.arguments(),
    }
    report.write_json(folder / "config.json", config, indent=2)
    for result in results:
        answers = sum(chip.total for chip in result.chips)
        print(
            f"{result.rate:.4g}: {len(result.chips):,} chips, {answers:,} answers "
            f"({result.reason}), engine {result.engine}."
        )
    thresholds = metric_flag.meant(thresholds, results)
    write_population(results, thresholds, folder, FLAGS.seed if FLAGS.bootstrap else None)
    if FLAGS.report:
        found = (results, config, model, data[1], chips, next(iter(thresholds), None))
        run_report.write(folder, run_report.run_of(folder, *found))
    if chips:
        chip_files.show(results[0])
    if FLAGS.keep_above is not None:
        chip_files.verdicts(results[0], folder)
    if any(result.interrupted for result in results):
        cli.fail("interrupted; --resume goes on where it stopped.", code=130)


def _options(dataset: Any) -> dict[str, Any]:
    """Returns what the flags say of the evaluation, by the names of its arguments."""
    names = ("chips", "seed", "first_chip", "engine", "quantization", "resume", "jobs", "parallel")
    options = {name: getattr(FLAGS, name) for name in (*names, "scheduler")}
    options["stop"] = FLAGS.target_half_width
    options["progress"] = sys.stderr.isatty()  # a file would get a line for each chip
    if FLAGS.quantization == "int8":
        options["calibration"] = inputs.calibration(dataset)
    options["repair"] = repair_flags.given(dataset)
    return options


if __name__ == "__main__":
    cli.run(main)
