r"""Says why a chip is bad: step by step from the Keras model to it, and layer by layer.

Chip 7 of the population of seed 0 at 30% faults, of a model trained by `tools.train`:

  python -m tools.explain --model=runs/digits/model.keras --fault_rate=0.3 --chip=7 \
      --out=runs/chip7

A plain Keras model on cells of few levels, with converters; and a chip that was measured:

  python -m tools.explain --model=mine.keras --convert --data=mine.npz --bits=4 \
      --array=adc_bits=6 --fault_model=differential_pair:stuck_off=0.09,stuck_on=0.02
  python -m tools.explain --model=runs/digits/model.keras --chip=chips/a.npz

Two tables are printed. The first has a line for each step (the Keras model, its weights on cells,
`--bits`, `--array`, each fault model, the repair) with the accuracy after it. The second has a line
for each layer: how its outputs on the chip differ from the healthy ones, and the accuracy with the
faults of this layer only. Where the model has batch normalization, the last step is its
recalibration, unless `--repair` says otherwise. The folder `--out`, if given, gets
`explanation.json`, `steps.csv` and `layers.csv`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli, fault_flags, inputs, metric_flag, number_flags, repair_flags, report

FLAGS = flags.FLAGS

inputs.define_model(convert=True)
inputs.define_data(calibration=512)
fault_flags.define(otherwise="0.1")
flags.DEFINE_string("chip", "0", "Index of the chip in its population, or the .npz file of one.")
number_flags.define_whole("seed", 0, "Seed of the population of chips.", number_flags.SEEDS)
number_flags.define_whole(
    "bits", None, "Levels of the weights on faulty hardware, as 2 ** bits.", "[1, 16]"
)
flags.DEFINE_string(
    "array", None, "Converters and read noise, KEY=VALUE,KEY=VALUE; --help_faults has the keys."
)
repair_flags.define()
metric_flag.define()
flags.DEFINE_string("out", None, "Folder for the results; without it they are only printed.")


def main(argv: Sequence[str]) -> None:
    """Explains as the flags say, prints, and writes."""
    del argv
    from keras_rram.evaluation import explain
    from keras_rram.hardware.periphery import Analog

    chip = _chip()
    array = cli.parsed("array", Analog.parse)
    repair_flags.plan()  # checked before anything is loaded
    metric = metric_flag.given()
    model, dataset, data = inputs.load()
    found = explain(
        model,
        chip,
        data,
        metric=metric,
        bits=FLAGS.bits,
        analog=array,
        calibration=inputs.calibration(dataset),
        repair=repair_flags.given(dataset),
    )
    print(f"\n{found}")
    if FLAGS.out is None:
        return
    folder = cli.output_folder(FLAGS.out)
    origin = {"command": cli.command(), "commit": cli.commit(), "data": dataset.name}
    report.write_json(folder / "explanation.json", {**origin, **found.to_dict()}, indent=2)
    for name, rows in (("steps", found.steps), ("layers", found.layers)):
        table = report.table([dataclasses.asdict(row) for row in rows])
        report.write(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    print(f"Results: {folder}/")


def _chip() -> Any:
    from keras_rram import Chip

    if not FLAGS.chip.isdecimal():
        for flag in ("fault_model", "fault_rate", "seed"):
            if FLAGS[flag].present:
                raise ValueError(f"--{flag} goes with the index of a chip, not with a file.")
        return Chip.load(FLAGS.chip)
    return Chip(fault_flags.at(FLAGS.fault_rate, otherwise=0.1), FLAGS.seed, int(FLAGS.chip))


if __name__ == "__main__":
    cli.run(main)
