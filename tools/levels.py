r"""Shows how many conductance levels the cells of a chip need: accuracy against bits per weight.

The kernels on faulty hardware get at most 2 ** b values each, evenly spaced (uniform) or where the
weights are (kmeans), and every such model is evaluated on the same chips, in float32 and as an int8
file:

  python -m tools.levels --model=runs/digits/model.keras --bits=2,3,4,5,6,7,8 --chips=50 \
      --fault_rate=0.2 --out=runs/levels

The folder `--out` gets `levels.csv`, `levels.json` and `levels.png`.
"""

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Sequence

from absl import flags

from . import cli

FLAGS = flags.FLAGS

flags.DEFINE_string("model", None, "Trained model, a .keras file.")
flags.DEFINE_list("bits", ["2", "3", "4", "5", "6", "7", "8"], "Bits per weight, 2 to 16.")
flags.DEFINE_list("methods", ["uniform", "kmeans"], "How the levels are placed.")
flags.DEFINE_bool("per_channel", False, "Levels for each output channel, not for the kernel.")
flags.DEFINE_list("quantizations", ["float32", "int8"], "Numbers of the evaluated files.")
flags.DEFINE_string("data", "digits", "digits (offline), mnist, cifar10, or an .npz file.")
flags.DEFINE_string("data_dir", None, "Folder of tensorflow-datasets.")
flags.DEFINE_bool("download", False, "Download the dataset if it is not in --data_dir.")
flags.DEFINE_integer("images", None, "Use this many test images, a stratified part.", lower_bound=2)
flags.DEFINE_integer("calibration_images", 300, "Training images for int8.", lower_bound=1)
flags.DEFINE_integer("chips", 50, "Chips of the population.", lower_bound=2)
flags.DEFINE_float(
    "fault_rate", None, "Fault rate in [0, 1). Default: that of --fault_model, or else 0.2."
)
cli.define_fault_model()
flags.DEFINE_integer("seed", 0, "Seed of the population of chips.", lower_bound=0)
flags.DEFINE_string("out", None, "Folder for the results.")


@dataclasses.dataclass(frozen=True)
class Row:
    """One model on the population; accuracies in [0, 1]. No bits: the weights as trained."""

    bits: int | None
    method: str | None
    quantization: str
    fault_free: float
    mean: float
    sd: float
    low: float
    high: float
    worst: float


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say and writes table and figure."""
    del argv
    import tqdm

    from keras_rram import data
    from keras_rram.evaluation.population import evaluate_population
    from keras_rram.export.kernel_levels import METHODS, quantize_levels
    from keras_rram.faults import spec
    from keras_rram.files import written_whole

    bits = _bits()
    _check_choices("methods", METHODS)
    _check_choices("quantizations", ("float32", "int8"))
    fault_model = cli.fault_model_at(FLAGS.fault_rate, otherwise=0.2)
    model = cli.load_model(FLAGS.model)
    dataset = data.load(FLAGS.data, FLAGS.data_dir, FLAGS.download)
    images = dataset.arrays("test", FLAGS.images)
    calibration, _ = dataset.arrays(
        "train", min(FLAGS.calibration_images, len(dataset.train_labels))
    )
    cases: list[tuple[int | None, str | None]] = [(None, None)]
    cases += [(number, method) for method in FLAGS.methods for number in bits]
    quantize_levels(model, bits[0])  # before a folder is made, whether the model can be
    folder = cli.output_folder(FLAGS.out)
    rows: list[Row] = []
    for number, method in tqdm.tqdm(cases, unit="model", desc="levels"):
        if number is None or method is None:
            held = model
        else:
            held = quantize_levels(model, number, method, FLAGS.per_channel)
        for quantization in FLAGS.quantizations:
            result = evaluate_population(
                held,
                fault_model,
                images,
                FLAGS.chips,
                engine="litert",
                seed=FLAGS.seed,
                quantization=quantization,
                calibration=calibration if quantization == "int8" else None,
                progress=False,
            )
            interval = result.mean_interval()
            rows.append(
                Row(
                    number,
                    method,
                    quantization,
                    result.fault_free,
                    result.mean,
                    result.sd,
                    interval.low,
                    interval.high,
                    result.worst.accuracy,
                )
            )
    content = {
        "command": cli.command(),
        "commit": cli.commit(),
        "model": FLAGS.model,
        "data": dataset.name,
        "images": len(images[1]),
        "chips": FLAGS.chips,
        "fault_model": spec(fault_model),
        "fault_rate": fault_model.rate,
        "seed": FLAGS.seed,
        "per_channel": FLAGS.per_channel,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    with written_whole(folder / "levels.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Row)])
    writer.writerows(dataclasses.astuple(row) for row in rows)
    with written_whole(folder / "levels.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    _draw(rows, cli.faults_label(fault_model), folder / "levels.png")
    _show(rows)
    print(f"Results: {folder}/")


def _bits() -> list[int]:
    try:
        bits = sorted({int(number) for number in FLAGS.bits})
    except ValueError:
        bits = []
    if not bits or not all(2 <= number <= 16 for number in bits):
        raise ValueError(f"--bits must be numbers from 2 to 16. Received: {FLAGS.bits}")
    return bits


def _check_choices(flag: str, choices: Sequence[str]) -> None:
    given = getattr(FLAGS, flag)
    if not given or not set(given) <= set(choices) or len(set(given)) != len(given):
        raise ValueError(f"--{flag} must be some of {list(choices)}. Received: {given}")


def _show(rows: Sequence[Row]) -> None:
    print(f"{'bits':>4}  {'levels':<8} {'file':<8} {'fault-free':>10} {'mean':>8} {'sd':>7}")
    for row in rows:
        bits = "-" if row.bits is None else str(row.bits)
        print(
            f"{bits:>4}  {row.method or 'trained':<8} {row.quantization:<8} {row.fault_free:>10.2%}"
            f" {row.mean:>8.2%} {row.sd:>7.2%}"
        )


def _draw(rows: Sequence[Row], faults: str, path: pathlib.Path) -> None:
    """Draws the share of wrong answers on chips, on a log scale, against the bits."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

    from keras_rram.files import written_whole
    from keras_rram.plots.populations import COLOURS

    figure = Figure(figsize=(6.0, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    least = 1e-4  # a log scale has no zero
    ticks = sorted({row.bits for row in rows if row.bits is not None})
    markers = iter("os^D")
    shifts = iter((-0.09, -0.03, 0.03, 0.09))  # apart, or the intervals hide each other
    for method_number, method in enumerate(FLAGS.methods):
        for line, quantization in zip(("-", "--"), FLAGS.quantizations, strict=False):
            shift = next(shifts)
            curve = [
                row for row in rows if (row.method, row.quantization) == (method, quantization)
            ]
            reach = [[row.high - row.mean for row in curve], [row.mean - row.low for row in curve]]
            axes.errorbar(
                [float(row.bits or 0) + shift for row in curve],
                [max(1 - row.mean, least) for row in curve],
                reach,
                color=COLOURS[method_number],
                linestyle=line,
                marker=next(markers),
                markersize=4.5,
                linewidth=1.6,
                capsize=3,
                label=f"{method}, {quantization}",
            )
    for line, quantization in zip(("-", "--"), FLAGS.quantizations, strict=False):
        (trained,) = (row for row in rows if (row.bits, row.quantization) == (None, quantization))
        label = f"weights as trained, {quantization}"
        axes.axhline(
            max(1 - trained.mean, least), color="#555555", linestyle=line, linewidth=1, label=label
        )
    axes.set_xticks(ticks)
    axes.set_xlabel("bits per weight on the chip")
    axes.set_ylabel(f"wrong answers, {FLAGS.chips} chips, {faults}")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=8.5, framealpha=0.8, edgecolor="none")
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    cli.run(main)
