r"""Shows how many conductance levels the cells of a chip need: accuracy against bits per weight.

The kernels on faulty hardware get at most 2 ** b values each, evenly spaced (uniform) or where the
weights are (kmeans), and every such model is evaluated on the same chips, in float32 and as an int8
file:

  python -m tools.levels --model=runs/digits/model.keras --bits=2,3,4,5,6,7,8 --chips=50 \
      --fault_rate=0.2 --out=runs/levels

The folder `--out` gets `levels.csv`, `levels.json` and `levels.png`. Accuracies are in [0, 1], and
`low` and `high` are the 95% interval of the mean. Rows without bits are of the weights as trained.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli, fault_flags, inputs, report

FLAGS = flags.FLAGS

inputs.define_model(convert=True)
flags.DEFINE_list("bits", ["2", "3", "4", "5", "6", "7", "8"], "Bits per weight, 2 to 16.")
flags.DEFINE_list("methods", ["uniform", "kmeans"], "How the levels are placed.")
flags.DEFINE_bool("per_channel", False, "Levels for each output channel, not for the kernel.")
flags.DEFINE_list("quantizations", ["float32", "int8"], "Numbers of the evaluated files.")
inputs.define_data(calibration=300)
fault_flags.define(otherwise="0.2")
fault_flags.define_chips(50, least=2)
flags.DEFINE_string("out", None, "Folder for the results.")


_FIGURES = ("fault_free", "mean", "sd", "low", "high", "worst")


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say and writes table and figure."""
    del argv
    cli.check_output_folder()
    import tqdm

    from keras_rram.evaluation import evaluate_population
    from keras_rram.export.kernel_levels import METHODS, quantize_levels
    from keras_rram.faults import spec

    bits = sorted(set(cli.numbers("bits", "[2, 16]", whole=True)))
    _check_choices("methods", METHODS)
    _check_choices("quantizations", ("float32", "int8"))
    fault_model = fault_flags.at(FLAGS.fault_rate, otherwise=0.2)
    model, dataset, images = inputs.load()
    calibration = inputs.calibration(dataset)
    cases: list[tuple[int | None, str | None]] = [(None, None)]
    cases += [(number, method) for method in FLAGS.methods for number in bits]
    quantize_levels(model, bits[0])  # before a folder is made, whether the model can be
    folder = cli.output_folder(FLAGS.out)
    found = []
    for number, method in tqdm.tqdm(cases, unit="model", desc="levels", disable=None):
        if number is None or method is None:
            held = model
        else:
            held = quantize_levels(model, number, method, FLAGS.per_channel)
        for quantization in FLAGS.quantizations:
            summary = evaluate_population(
                held,
                fault_model,
                images,
                FLAGS.chips,
                engine="litert",
                seed=FLAGS.seed,
                first_chip=FLAGS.first_chip,
                quantization=quantization,
                calibration=calibration if quantization == "int8" else None,
                progress=False,
            ).summary()
            case = {"bits": number, "method": method, "quantization": quantization}
            found.append(case | {name: summary[name] for name in _FIGURES})
    rows = report.table(found)
    report.write_rows(
        folder / "levels.csv",
        rows,
        model=FLAGS.model,
        data=dataset.name,
        images=len(images[1]),
        chips=FLAGS.chips,
        fault_model=spec(fault_model),
        fault_rate=fault_model.rate,
        seed=FLAGS.seed,
        per_channel=FLAGS.per_channel,
    )
    _draw(rows, fault_flags.label(fault_model), folder / "levels.png")
    report.show(report.in_percent(rows, _FIGURES))
    print(f"Results: {folder}/")


def _check_choices(flag: str, choices: Sequence[str]) -> None:
    given = getattr(FLAGS, flag)
    if not given or not set(given) <= set(choices) or len(set(given)) != len(given):
        raise ValueError(f"--{flag} must be some of {list(choices)}. Received: {given}")


def _draw(rows: Any, faults: str, path: pathlib.Path) -> None:
    """Draws the share of wrong answers on chips, on a log scale, against the bits."""
    from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

    from keras_rram.plots.figure import COLOURS

    wrong = (1 - rows["mean"].astype(float)).clip(lower=1e-4)  # a log scale has no zero
    rows = rows.assign(wrong=wrong, up=rows["mean"] - rows["low"], down=rows["high"] - rows["mean"])
    lines = dict(zip(FLAGS.quantizations, ("-", "--"), strict=False))
    colours = dict(zip(FLAGS.methods, COLOURS, strict=False))
    markers = iter("os^D")
    shifts = iter((-0.09, -0.03, 0.03, 0.09))  # apart, or the intervals hide each other
    with report.figure(path, 6.0, 3.9) as axes:
        trained = rows["method"].isna()
        for (method, number), curve in rows[~trained].groupby(["method", "quantization"]):
            axes.errorbar(
                curve["bits"].astype(float) + next(shifts),
                curve["wrong"],
                curve[["down", "up"]].astype(float).to_numpy().T,
                color=colours[method],
                linestyle=lines[number],
                marker=next(markers),
                markersize=4.5,
                linewidth=1.6,
                capsize=3,
                label=f"{method}, {number}",
            )
        for row in rows[trained].itertuples():
            label = f"weights as trained, {row.quantization}"
            style = {"color": "#555555", "linestyle": lines[row.quantization], "linewidth": 1}
            axes.axhline(row.wrong, label=label, **style)
        axes.set_xticks(sorted(rows["bits"].dropna().unique()))
        axes.set_xlabel("bits per weight on the chip")
        axes.set_ylabel(f"wrong answers, {FLAGS.chips} chips, {faults}")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.legend(fontsize=8.5, framealpha=0.8, edgecolor="none")


if __name__ == "__main__":
    cli.run(main)
