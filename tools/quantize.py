r"""Compares post-training and quantization-aware int8 files on a population of chips.

Three int8 files, each patched for the same chips: of the model as it is; of the model trained on in
float for some epochs, for a fair comparison; and of the model trained on for as many epochs with
the rounding of int8 in its forward pass. Drop-Connect stays on in both trainings:

  python -m tools.quantize --model=runs/digits/model.keras --epochs=2 --fault_rate=0.2 \
      --chips=50 --out=runs/quantize

The folder `--out` gets `quantize.json`, `quantize.csv`, and for the quantization-aware model
`model.keras` and its fault-free file `base.tflite`.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from tools import cli

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
flags.DEFINE_integer("chips", 50, "Chips of the population.", lower_bound=2)
flags.DEFINE_float("fault_rate", 0.2, "Fault rate in [0, 1).")
flags.DEFINE_integer("seed", 0, "Seed of the chips, and of both trainings.", lower_bound=0)
flags.DEFINE_string("out", None, "Folder for the results.")


@dataclasses.dataclass(frozen=True)
class Row:
    """One int8 file on the population; accuracies in [0, 1]."""

    file: str
    fault_free: float
    mean: float
    sd: float
    worst: float


def main(argv: Sequence[str]) -> None:
    """Trains and compares as the flags say."""
    del argv
    import numpy as np
    import tqdm

    from keras_rram import StuckAtZero, data, faulty_layers, population
    from keras_rram.export import LiteRTModel, TFLitePatcher
    from keras_rram.files import written_whole

    chips = population(StuckAtZero(FLAGS.fault_rate), FLAGS.chips, FLAGS.seed)
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

    rows = []
    for name, trained, tflite in _files(model, *train):
        patcher = TFLitePatcher(trained, tflite)
        found = [
            accuracy(patcher.patch_chip(chip, trained))
            for chip in tqdm.tqdm(chips, unit="chip", desc=name)
        ]
        mean, sd = float(np.mean(found)), float(np.std(found, ddof=1))
        rows.append(Row(name, accuracy(tflite), mean, sd, min(found)))
    with written_whole(folder / "model.keras") as temporary:
        trained.save(temporary)
    with written_whole(folder / "base.tflite") as temporary:
        temporary.write_bytes(tflite)
    content = {
        "command": cli.command(),
        "commit": cli.commit(),
        "images": len(labels),
        "chips": FLAGS.chips,
        "fault_rate": FLAGS.fault_rate,
        "seed": FLAGS.seed,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    with written_whole(folder / "quantize.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Row)])
    writer.writerows(dataclasses.astuple(row) for row in rows)
    with written_whole(folder / "quantize.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    print(f"{'int8 file':<26} {'fault-free':>10} {'mean':>8} {'sd':>7} {'worst':>8}")
    for row in rows:
        print(
            f"{row.file:<26} {row.fault_free:>10.2%} {row.mean:>8.2%} {row.sd:>7.2%} "
            f"{row.worst:>8.2%}"
        )
    print(f"Results: {folder}/")


def _files(model: Any, images: Any, labels: Any) -> Iterator[tuple[str, Any, bytes]]:
    """Yields name, model and fault-free int8 file of each of the three."""
    import keras

    from keras_rram import set_drop_rate
    from keras_rram.export.patch import convert_fault_free
    from keras_rram.export.quantization_aware import quantization_aware_train

    yield "post-training", model, convert_fault_free(model, "int8", images)
    keras.utils.set_random_seed(FLAGS.seed)
    longer = keras.models.clone_model(model)
    longer.set_weights(model.get_weights())
    if FLAGS.drop_rate is not None:
        set_drop_rate(longer, FLAGS.drop_rate)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    longer.compile(keras.optimizers.Adam(FLAGS.learning_rate), loss)
    longer.fit(images, labels, FLAGS.batch_size, FLAGS.epochs, verbose=0)
    yield "trained on, post-training", longer, convert_fault_free(longer, "int8", images)
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
    yield "quantization-aware", result.model, result.tflite


if __name__ == "__main__":
    cli.run(main)
