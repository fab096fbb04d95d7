r"""Compares post-training and quantization-aware int8 files on a population of chips.

Files, each patched for the same chips: of the model as it is, in float32 and in int8, calibrated
fault-free and again on some chips (`--calibration_chips`, never those that are evaluated); int8 of
the model trained on in float for some epochs, for a fair comparison; and of the model trained on
for as many epochs with the rounding of int8 in its forward pass. Drop-Connect stays on in both
trainings, which `--seed` seeds as well:

  python -m tools.quantize --model=runs/digits/model.keras --epochs=2 --fault_rate=0.2 \
      --chips=50 --out=runs/quantize

The folder `--out` gets `quantize.json` with every chip's accuracy, `quantize.csv`, `quantize.png`,
and for the quantization-aware model `model.keras` and its fault-free file `base.tflite`. In rows,
accuracies are in [0, 1]. `gain` is the mean over the chips of the difference to the plain int8 file
on the same chip, between `gain_low` and `gain_high` with 95% confidence, which counts chips and not
images; `from_float` is the mean absolute difference to the float32 file on the same chip.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from . import cli, fault_flags, inputs, number_flags, report

FLAGS = flags.FLAGS

inputs.define_model(convert=True)
number_flags.define_whole("epochs", 1, "Epochs of both trainings.", "[1, 100000]")
number_flags.define_whole("batch_size", 64, "Images in each step.", "[1, 1e6]")
number_flags.define("learning_rate", 1e-4, "Learning rate of Adam.", "(0, inf)")
number_flags.define("drop_rate", None, "Drop rate; default: the model's own.", "[0, 1)")
inputs.define_data()
fault_flags.define(otherwise="0.2")
fault_flags.define_chips(50, least=2)
number_flags.define_whole(
    "train_images", None, "Use this many training images.", number_flags.IMAGES
)
number_flags.define_whole("calibration_chips", 5, "Chips to calibrate on; 0: none.", "[0, 100000]")
flags.DEFINE_string("out", None, "Folder for the results.")

_FLOAT, _PLAIN = "float32", "int8, post-training"


def main(argv: Sequence[str]) -> None:
    """Trains and compares as the flags say."""
    del argv
    cli.check_output_folder()
    import numpy as np
    import tqdm

    from keras_rram import population
    from keras_rram.data import check_classes
    from keras_rram.export import LiteRTModel
    from keras_rram.faults import spec
    from keras_rram.files import written_whole

    fault_model = fault_flags.at(FLAGS.fault_rate, otherwise=0.2)
    chips = population(fault_model, FLAGS.chips, FLAGS.seed, FLAGS.first_chip)
    model, dataset, (images, labels) = inputs.load()
    check_classes(model, labels)
    train = dataset.arrays("train", FLAGS.train_images)
    folder = cli.output_folder(FLAGS.out)

    def accuracy(tflite: Any) -> float:
        outputs = LiteRTModel(tflite, threads=2).predict(images)
        return float(np.mean(outputs.argmax(-1) == labels))

    accuracies: dict[str, list[float]] = {}
    fault_free: dict[str, float] = {}
    for name, trained, patchable in _files(model, fault_model, *train):
        found = [
            accuracy(patchable.patch(chip.faults(trained)))
            for chip in tqdm.tqdm(chips, unit="chip", desc=name, disable=None)
        ]
        accuracies[name] = found
        fault_free[name] = accuracy(patchable.tflite)
    rows = report.table([_row(name, fault_free[name], accuracies) for name in accuracies])
    with written_whole(folder / "model.keras") as temporary:
        trained.save(temporary)
    with written_whole(folder / "base.tflite") as temporary:
        temporary.write_bytes(patchable.tflite)
    report.write_rows(
        folder / "quantize.csv",
        rows,
        data=dataset.name,
        train_images=len(train[1]),
        images=len(labels),
        chips=FLAGS.chips,
        fault_model=spec(fault_model),
        fault_rate=fault_model.rate,
        seed=FLAGS.seed,
        accuracies=accuracies,
    )
    _draw(accuracies, rows, fault_flags.label(fault_model), folder / "quantize.png")
    report.show(report.in_percent(rows, list(rows)[1:]))
    print(f"Results: {folder}/")


def _row(name: str, fault_free: float, accuracies: dict[str, list[float]]) -> dict[str, Any]:
    import numpy as np
    from scipy import stats

    found = np.array(accuracies[name])
    gains = found - accuracies[_PLAIN]
    gain = float(gains.mean())
    reach = float(stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains))
    return {
        "file": name,
        "fault_free": fault_free,
        "mean": float(found.mean()),
        "sd": float(found.std(ddof=1)),
        "worst": float(found.min()),
        "gain": gain,
        "gain_low": gain - reach,
        "gain_high": gain + reach,
        "from_float": float(np.abs(found - accuracies[_FLOAT]).mean()),
    }


def _files(
    model: Any, fault_model: Any, images: Any, labels: Any
) -> Iterator[tuple[str, Any, Any]]:
    """Yields name, model and converted model of each; the last is the quantization-aware one."""
    import keras

    from keras_rram import population, set_drop_rate
    from keras_rram.export import PatchableModel, quantization_aware_train
    from keras_rram.layers import loss_of

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
    longer.compile(keras.optimizers.Adam(FLAGS.learning_rate), loss_of(model))
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


def _draw(accuracies: dict[str, list[float]], rows: Any, faults: str, path: pathlib.Path) -> None:
    """Draws every chip's accuracy, and mean and fault-free accuracy, for each file."""
    import numpy as np
    from matplotlib.ticker import PercentFormatter

    from keras_rram.plots.figure import COLOURS

    with report.figure(path, 6.4, 1.1 + 0.62 * len(rows), grid="x") as axes:
        axes.spines["left"].set_visible(False)
        for place, row in rows.iterrows():
            found = accuracies[row["file"]]
            # A fixed spread, so that the figure of the same numbers is the same.
            spread = np.linspace(-1, 1, len(found))[np.arange(len(found)) * 7 % len(found)]
            axes.scatter(found, place + 0.22 * spread, 12, COLOURS[0], alpha=0.55, linewidths=0)
            ends = [place - 0.33, place + 0.33]
            axes.plot([row["mean"]] * 2, ends, color=COLOURS[1], linewidth=2)
            axes.scatter(row["fault_free"], place, 34, COLOURS[6], marker="D", zorder=3)
        axes.scatter([], [], 12, COLOURS[0], label="one chip")
        axes.plot([], [], color=COLOURS[1], linewidth=2, label="mean of the chips")
        axes.scatter([], [], 34, COLOURS[6], marker="D", label="fault-free file")
        axes.set_yticks(range(len(rows)), rows["file"].str.replace(", ", ",\n"))
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlabel(f"accuracy, {FLAGS.chips} chips, {faults}")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)


if __name__ == "__main__":
    cli.run(main)
