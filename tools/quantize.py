r"""Compares post-training and quantization-aware int8 files on a population of chips.

Files, each patched for the same chips: of the model as it is, in float32 and in int8, calibrated
fault-free and again on some chips (`--calibration_chips`, never those that are
evaluated); int8 of the model trained on in float for some epochs, for a fair comparison; and of the
model trained on for as many epochs with the rounding of int8 in its forward pass. Drop-Connect
stays on in both trainings:

  python -m tools.quantize --model=runs/digits/model.keras --epochs=2 --fault_rate=0.2 \
      --chips=50 --out=runs/quantize

The folder `--out` gets `quantize.json` with every chip's accuracy, `quantize.csv`, `quantize.png`,
and for the quantization-aware model `model.keras` and its fault-free file `base.tflite`.
"""

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from . import cli

FLAGS = flags.FLAGS

flags.DEFINE_string("model", None, "Trained model, a .keras file.")
flags.DEFINE_integer("epochs", 1, "Epochs of both trainings.", lower_bound=1)
flags.DEFINE_integer("batch_size", 64, "Images in each step.", lower_bound=1)
flags.DEFINE_float("learning_rate", 1e-4, "Learning rate of Adam.", lower_bound=0.0)
flags.DEFINE_float("drop_rate", None, "Drop rate in [0, 1); default: the model's own.")
flags.DEFINE_string("data", "digits", "digits (offline), mnist, cifar10, or an .npz file.")
flags.DEFINE_string("data_dir", None, "Folder of tensorflow-datasets.")
flags.DEFINE_bool("download", False, "Download the dataset if it is not in --data_dir.")
flags.DEFINE_integer("train_images", None, "Use this many training images.", lower_bound=1)
flags.DEFINE_integer("images", None, "Use this many test images.", lower_bound=1)
flags.DEFINE_integer("calibration_chips", 5, "Chips to calibrate on; 0: none.", lower_bound=0)
flags.DEFINE_integer("chips", 50, "Chips of the population.", lower_bound=2)
flags.DEFINE_float(
    "fault_rate", None, "Fault rate in [0, 1). Default: that of --fault_model, or else 0.2."
)
cli.define_fault_model()
flags.DEFINE_integer("seed", 0, "Seed of the chips, and of both trainings.", lower_bound=0)
flags.DEFINE_string("out", None, "Folder for the results.")

_FLOAT, _PLAIN = "float32", "int8, post-training"


@dataclasses.dataclass(frozen=True)
class Row:
    """One file on the population; accuracies in [0, 1].

    `gain` is the mean over the chips of the difference to the plain int8 file on the same chip,
    between `gain_low` and `gain_high` with 95% confidence; it counts chips, not images.
    `from_float` is the mean absolute difference to the float32 file on the same chip.
    """

    file: str
    fault_free: float
    mean: float
    sd: float
    worst: float
    gain: float
    gain_low: float
    gain_high: float
    from_float: float


def main(argv: Sequence[str]) -> None:
    """Trains and compares as the flags say."""
    del argv
    import numpy as np
    import tqdm

    from keras_rram import data, faulty_layers, population
    from keras_rram.export import LiteRTModel
    from keras_rram.faults import spec
    from keras_rram.files import written_whole

    fault_model = cli.fault_model_at(FLAGS.fault_rate, otherwise=0.2)
    chips = population(fault_model, FLAGS.chips, FLAGS.seed)
    model = cli.load_model(FLAGS.model)
    if not faulty_layers(model):
        raise ValueError(f"--model='{FLAGS.model}' has no Drop-Connect layer to put faults in.")
    dataset = data.load(FLAGS.data, FLAGS.data_dir, FLAGS.download)
    train = dataset.arrays("train", FLAGS.train_images)
    images, labels = dataset.arrays("test", FLAGS.images)
    folder = cli.output_folder(FLAGS.out)

    def accuracy(tflite: Any) -> float:
        outputs = LiteRTModel(tflite, threads=2).predict(images)
        return float(np.mean(outputs.argmax(-1) == labels))

    accuracies: dict[str, list[float]] = {}
    fault_free: dict[str, float] = {}
    for name, trained, patchable in _files(model, fault_model, *train):
        found = [
            accuracy(patchable.patch(chip.faults(trained)))
            for chip in tqdm.tqdm(chips, unit="chip", desc=name)
        ]
        accuracies[name] = found
        fault_free[name] = accuracy(patchable.tflite)
    rows = [_row(name, fault_free[name], accuracies) for name in accuracies]
    with written_whole(folder / "model.keras") as temporary:
        trained.save(temporary)
    with written_whole(folder / "base.tflite") as temporary:
        temporary.write_bytes(patchable.tflite)
    content = {
        "command": cli.command(),
        "commit": cli.commit(),
        "data": dataset.name,
        "train_images": len(train[1]),
        "images": len(labels),
        "chips": FLAGS.chips,
        "fault_model": spec(fault_model),
        "fault_rate": fault_model.rate,
        "seed": FLAGS.seed,
        "rows": [dataclasses.asdict(row) for row in rows],
        "accuracies": accuracies,
    }
    with written_whole(folder / "quantize.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Row)])
    writer.writerows(dataclasses.astuple(row) for row in rows)
    with written_whole(folder / "quantize.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    _draw(accuracies, rows, cli.faults_label(fault_model), folder / "quantize.png")
    print(
        f"{'file':<28} {'fault-free':>10} {'mean':>8} {'sd':>7} {'worst':>8} {'|-float|':>9}  "
        "gain over plain int8 (95%)"
    )
    for row in rows:
        print(
            f"{row.file:<28} {row.fault_free:>10.2%} {row.mean:>8.2%} {row.sd:>7.2%} "
            f"{row.worst:>8.2%} {row.from_float:>9.2%}  {row.gain:+.2%} ({row.gain_low:+.2%} to "
            f"{row.gain_high:+.2%})"
        )
    print(f"Results: {folder}/")


def _row(name: str, fault_free: float, accuracies: dict[str, list[float]]) -> Row:
    import numpy as np
    from scipy import stats

    found = accuracies[name]
    gains = np.subtract(found, accuracies[_PLAIN])
    error = float(np.std(gains, ddof=1)) / len(gains) ** 0.5
    reach = float(stats.t.ppf(0.975, len(gains) - 1)) * error
    gain = float(np.mean(gains))
    return Row(
        file=name,
        fault_free=fault_free,
        mean=float(np.mean(found)),
        sd=float(np.std(found, ddof=1)),
        worst=min(found),
        gain=gain,
        gain_low=gain - reach,
        gain_high=gain + reach,
        from_float=float(np.mean(np.abs(np.subtract(found, accuracies[_FLOAT])))),
    )


def _files(
    model: Any, fault_model: Any, images: Any, labels: Any
) -> Iterator[tuple[str, Any, Any]]:
    """Yields name, model and converted model of each; the last is the quantization-aware one."""
    import keras

    from keras_rram import population, set_drop_rate
    from keras_rram.export import PatchableModel, quantization_aware_train

    yield _FLOAT, model, PatchableModel.convert(model, "float32")
    yield _PLAIN, model, PatchableModel.convert(model, "int8", images)
    if FLAGS.calibration_chips:
        others = population(fault_model, FLAGS.calibration_chips, FLAGS.seed, stream="calibration")
        joined = PatchableModel.convert(model, "int8", images, calibration_chips=others)
        yield f"int8, calibrated on {len(others)} chips", model, joined
    keras.utils.set_random_seed(FLAGS.seed)
    longer = keras.models.clone_model(model)
    longer.set_weights(model.get_weights())
    if FLAGS.drop_rate is not None:
        set_drop_rate(longer, FLAGS.drop_rate)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    longer.compile(keras.optimizers.Adam(FLAGS.learning_rate), loss)
    longer.fit(images, labels, FLAGS.batch_size, FLAGS.epochs, verbose=0)
    yield "int8, trained on in float", longer, PatchableModel.convert(longer, "int8", images)
    result = quantization_aware_train(
        model,
        images,
        labels,
        FLAGS.epochs,
        FLAGS.batch_size,
        FLAGS.learning_rate,
        FLAGS.drop_rate,
        FLAGS.seed,
    )
    yield "int8, quantization-aware", result.model, PatchableModel(result.model, result.tflite)


def _draw(
    accuracies: dict[str, list[float]], rows: Sequence[Row], faults: str, path: pathlib.Path
) -> None:
    """Draws every chip's accuracy, and mean and fault-free accuracy, for each file."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from keras_rram.files import written_whole
    from keras_rram.plots.populations import COLOURS

    figure = Figure(figsize=(6.4, 1.1 + 0.62 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    for place, row in enumerate(rows):
        found = accuracies[row.file]
        # A fixed spread, so that the figure of the same numbers is the same.
        height = (
            place + 0.22 * np.linspace(-1, 1, len(found))[np.arange(len(found)) * 7 % len(found)]
        )
        axes.scatter(found, height, 12, COLOURS[0], alpha=0.55, linewidths=0)
        axes.plot([row.mean] * 2, [place - 0.33, place + 0.33], color=COLOURS[1], linewidth=2)
        axes.scatter(row.fault_free, place, 34, COLOURS[6], marker="D", zorder=3)
    axes.scatter([], [], 12, COLOURS[0], label="one chip")
    axes.plot([], [], color=COLOURS[1], linewidth=2, label="mean of the chips")
    axes.scatter([], [], 34, COLOURS[6], marker="D", label="fault-free file")
    axes.set_yticks(range(len(rows)), [row.file.replace(", ", ",\n") for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel(f"accuracy, {FLAGS.chips} chips, {faults}")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    cli.run(main)
