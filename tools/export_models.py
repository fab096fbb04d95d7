r"""Makes a folder of exemplary TFLite files with an index, as `exported_models/` of this project.

Each of `--files` is a trained model, a fault rate and a quantization; at a rate above 0 the file is
that of chip 0 of `--seed`, whose faults are independent zeros or those of `--fault_model`:

  python -m tools.export_models --data=mnist --data_dir=DIR \
      --files=runs/a/model.keras:0:int8,runs/b/model.keras:0.1:int8 --out=exported_models

Files are verified on all test images of `--data`, and run on the offline digits too, so that their
accuracy can be repeated without any download. The folder gets the files, a sidecar for each,
`index.json` and, for people, `README.md`. `--replace` makes the files of a folder anew.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli

FLAGS = flags.FLAGS

flags.DEFINE_list("files", [], "MODEL.keras:FAULT_RATE:QUANTIZATION, one for each file.")
flags.DEFINE_string("data", "digits", "digits (offline), mnist, cifar10, or an .npz file.")
flags.DEFINE_string("data_dir", None, "Folder of tensorflow-datasets.")
flags.DEFINE_bool("download", False, "Download the dataset if it is not in --data_dir.")
flags.DEFINE_string("also_on", "digits", "Offline dataset to run the files on too.")
flags.DEFINE_integer("images", None, "Test images of --data; default: all.", lower_bound=1)
flags.DEFINE_integer("calibration_images", 300, "Training images for calibration.", lower_bound=1)
flags.DEFINE_integer(
    "micro_images", 20, "Test images to run int8 files on in TensorFlow Lite Micro.", lower_bound=0
)
cli.define_fault_model()
flags.DEFINE_integer("seed", 0, "Seed of the population that chip 0 belongs to.", lower_bound=0)
flags.DEFINE_float(
    "min_agreement", 0.98, "Share of images with Keras's class that a file must reach.", 0.0, 1.0
)
flags.DEFINE_float(
    "max_accuracy_difference", 0.01, "Allowed difference to Keras's accuracy.", 0.0, 1.0
)
flags.DEFINE_string("out", None, "Folder for the files.")
flags.DEFINE_bool("replace", False, "Replace the files of an earlier run.")

_CALIBRATED = ("int8", "int16x8")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One file to make; the rate is in [0, 1)."""

    model: str
    rate: float
    quantization: str


def main(argv: Sequence[str]) -> None:
    """Exports as the flags say and writes the index."""
    del argv
    from keras_rram import Chip, data
    from keras_rram.export import Thresholds, export_tflite
    from keras_rram.export.sidecar import FORMAT
    from keras_rram.faults import at_rate
    from keras_rram.files import written_whole

    wanted = [_wanted(text) for text in FLAGS.files]
    if not wanted:
        raise ValueError("--files is missing: name at least one file to make.")
    rates = [each.rate for each in wanted if each.rate]
    if FLAGS["fault_model"].present and not rates:
        raise ValueError("--fault_model is for files of chips. Received: --files of rate 0 only.")
    fault_model = cli.fault_model(max(rates, default=0.1), rates)
    models = {each.model: cli.load_model(each.model) for each in wanted}
    names = [_name(models[each.model].name, each) for each in wanted]
    if len(set(names)) != len(names):
        raise ValueError(f"--files must give files of different names. Received: {names}")
    dataset = data.load(FLAGS.data, FLAGS.data_dir, FLAGS.download)
    images, labels = dataset.arrays("test", FLAGS.images)
    calibration, _ = dataset.arrays("train", FLAGS.calibration_images)
    also_on = data.load(FLAGS.also_on).arrays("test")
    folder = cli.output_folder(FLAGS.out, FLAGS.replace)
    command = re.sub(r"--data_dir=\S+", "--data_dir=DIR", cli.command())
    records: list[dict[str, Any]] = []
    for name, each in zip(names, wanted, strict=True):
        report = export_tflite(
            models[each.model],
            folder / name,
            Chip(at_rate(fault_model, each.rate), FLAGS.seed) if each.rate else None,
            each.quantization,
            calibration if each.quantization in _CALIBRATED else None,
            images,
            labels,
            thresholds=Thresholds(
                agreement=FLAGS.min_agreement, accuracy=FLAGS.max_accuracy_difference
            ),
            also_on={FLAGS.also_on: also_on},
            micro_images=FLAGS.micro_images if each.quantization == "int8" else 0,
            data=dataset.name,
            command=command,
            commit=cli.commit(),
        )
        records.append(
            {"file": name, "quantization": each.quantization, "rate": each.rate}
            | {"training": _training(each.model)}
            | {k: v for k, v in report.summary().items() if k not in ("file", "format")}
        )
        found = records[-1]["verification"]
        print(f"{name}: {report.size:,} bytes, accuracy {found['accuracy']:.2%}")
    index = {
        "format": FORMAT,
        "command": command,
        "commit": cli.commit(),
        "data": dataset.name,
        "fault_model": FLAGS.fault_model,
        "seed": FLAGS.seed,
        "files": records,
    }
    for name, text in (
        ("index.json", json.dumps(index, indent=2) + "\n"),
        ("README.md", _readme(index)),
    ):
        with written_whole(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(f"Results: {folder}/")


def _wanted(text: str) -> Wanted:
    from keras_rram.export import QUANTIZATIONS

    path, _, quantization = text.rpartition(":")
    path, _, number = path.rpartition(":")
    try:
        rate = float(number)
    except ValueError:
        rate = -1.0
    if not path or not 0 <= rate < 1 or quantization not in QUANTIZATIONS:
        raise ValueError(
            "--files must be MODEL.keras:FAULT_RATE:QUANTIZATION, with a rate in [0, 1) and one "
            f"of {QUANTIZATIONS}. Received: '{text}'"
        )
    return Wanted(path, rate, quantization)


def _name(model: str, wanted: Wanted) -> str:
    names = "-".join(re.findall(r"(?:^|\+)\s*(\w+)", FLAGS.fault_model))
    kind = "faults" if names == "stuck_at_zero" or not wanted.rate else names
    return f"{model}_{wanted.quantization}_{kind}{100 * wanted.rate:g}.tflite"


def _training(path: str) -> dict[str, Any] | None:
    """Returns what the folder of a model says of its training: command, commit, drop rate, seed."""
    for name in ("config.json", "record.json"):
        place = pathlib.Path(path).parent / name
        if place.is_file():
            held = json.loads(place.read_text(encoding="utf-8"))
            rate = held.get("drop_rate", (held.get("drop_connect") or {}).get("rate"))
            found = {key: held.get(key) for key in ("command", "commit", "seed")}
            return {**found, "drop_rate": rate}
    return None


def _drop_rate(record: dict[str, Any]) -> str:
    rate = (record["training"] or {}).get("drop_rate")
    return "-" if rate is None else f"{100 * rate:g}"


def _readme(index: dict[str, Any]) -> str:
    lines = [
        "# Exported models",
        "",
        "TFLite files of trained networks, each fault-free or for one chip, with a sidecar that",
        "says what it is: model, chip, calibration, SHA-256, accuracies, and for int8 arena and",
        "operators of TensorFlow Lite Micro. Rates and accuracies in percent; accuracy on",
        f"{index['files'][0]['verification']['images']:,} test images of {index['data']}, and on "
        f"the test part of the offline dataset '{FLAGS.also_on}'.",
        "",
        "| file | KB | drop rate in training | weights faulty | accuracy | Keras model "
        f"| {FLAGS.also_on} | arena, bytes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in index["files"]:
        found, micro = each["verification"], each["micro"]
        (offline,) = each["also_on"].values()
        lines.append(
            f"| [{each['file']}]({each['file']}) | {each['size'] / 1000:.0f} | {_drop_rate(each)} "
            f"| {100 * each['fault_rate']:.1f} | {100 * found['accuracy']:.2f} "
            f"| {100 * found['keras_accuracy']:.2f} | {100 * offline['accuracy']:.2f} "
            f"| {'-' if micro is None else format(micro['arena_size'], ',')} |"
        )
    of = f" of `{index['fault_model']}`" if index["fault_model"] != "stuck_at_zero" else ""
    lines += ["", f"Chips are chip 0 of seed {index['seed']}{of}. Made, after training, by", ""]
    lines += ["```bash"]
    trainings = [each["training"] for each in index["files"] if each["training"]]
    for command in dict.fromkeys(f"{t['command']}  # {t['commit']}" for t in trainings):
        lines.append(command)
    lines += [f"{index['command']}  # {index['commit']}", "```", ""]
    lines += [
        "Look into a file with `python -m tools.inspect_tflite exported_models/FILE`, or run it:",
        "",
        "```python",
        "from keras_rram import data",
        "from keras_rram.export import LiteRTModel, flatbuffer",
        "",
        'images, labels = data.load("digits").arrays("test")',
        f'model = LiteRTModel(flatbuffer.read("exported_models/{index["files"][0]["file"]}"))',
        "print((model.predict(images).argmax(-1) == labels).mean())",
        "```",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
