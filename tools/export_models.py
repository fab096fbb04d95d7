r"""Makes a folder of exemplary TFLite files with an index, as `exported_models/` of this project.

Each of `--files` is a trained model, a fault rate and a quantization; at a rate above 0 the file is
that of chip 0 of `--seed`, whose faults are independent zeros or those of `--fault_model`:

  python -m tools.export_models --data=mnist --data_dir=DIR \
      --files=runs/a/model.keras:0:int8,runs/b/model.keras:0.1:int8 --out=exported_models

Files are verified on all test images of the models' data, and run on the offline digits too, which
anyone can repeat without a download: it shows that a file runs as it did here. These are 5,000 of
MNIST's training digits: of a model trained on MNIST it is no test of accuracy. The folder gets the
files, a sidecar for each, `index.json` and, for people, `README.md`. `--replace` makes the files of
a folder anew.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli, export_flags, fault_flags, inputs, number_flags, report

FLAGS = flags.FLAGS

flags.DEFINE_list("files", [], "MODEL.keras:FAULT_RATE:QUANTIZATION, one for each file.")
inputs.define_data(calibration=300)
fault_flags.define()
# Of 20 images one whose two best classes are close would already be 5%.
export_flags.define(micro_images=200)
flags.DEFINE_string(
    "also_on", "digits", "Offline dataset to run the files on too, normalized as the models' own."
)
number_flags.define_whole(
    "seed", 0, "Seed of the population that chip 0 belongs to.", number_flags.SEEDS
)
flags.DEFINE_string("out", None, "Folder for the files.")
flags.DEFINE_bool("replace", False, "Replace the files of an earlier run.")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One file to make; the rate is in [0, 1)."""

    model: str
    rate: float
    quantization: str


def main(argv: Sequence[str]) -> None:
    """Exports as the flags say and writes the index."""
    del argv
    cli.check_output_folder()
    from keras_rram import Chip
    from keras_rram.export import export_tflite
    from keras_rram.export.sidecar import MODELS
    from keras_rram.faults import at_rate
    from keras_rram.files.schemas import MODELS_INDEX

    wanted = [_wanted(text) for text in FLAGS.files]
    if not wanted:
        raise ValueError("--files is missing: name at least one file to make.")
    rates = [each.rate for each in wanted if each.rate]
    if FLAGS["fault_model"].present and not rates:
        raise ValueError("--fault_model is for files of chips. Received: --files of rate 0 only.")
    fault_model = fault_flags.given(max(rates, default=0.1), rates)
    models = {each.model: inputs.load_model(each.model) for each in wanted}
    names = [_name(models[each.model].name, each) for each in wanted]
    if len(set(names)) != len(names):
        raise ValueError(f"--files must give files of different names. Received: {names}")
    trainings = {path: inputs.Training.beside(path) for path in models}
    (dataset, *others) = (inputs.load_data(training) for training in trainings.values())
    if any(other.name != dataset.name for other in others):
        raise ValueError("--files must be of models trained on one data set.")
    images, labels = dataset.arrays("test", FLAGS.images)
    also_on = inputs.further_images([FLAGS.also_on], dataset)
    folder = cli.output_folder(FLAGS.out, FLAGS.replace)
    records: list[dict[str, Any]] = []
    for name, each in zip(names, wanted, strict=True):
        options = export_flags.options(dataset, each.quantization)
        if each.quantization != "int8":
            options["micro_images"] = 0
        made = export_tflite(
            models[each.model],
            folder / name,
            Chip(at_rate(fault_model, each.rate), FLAGS.seed) if each.rate else None,
            images=images,
            labels=labels,
            also_on=also_on,
            **options,
        )
        records.append(
            {"file": name, "quantization": each.quantization, "rate": each.rate}
            | {"training": trainings[each.model].origin()}
            | {k: v for k, v in made.summary().items() if k not in ("file", "format")}
        )
        found = records[-1]["verification"]
        print(f"{name}: {made.size:,} bytes, {export_flags.verified(found)}")
    index = {
        "command": cli.command(is_public=True),
        "commit": cli.commit(),
        "data": dataset.name,
        "fault_model": FLAGS.fault_model,
        "seed": FLAGS.seed,
        "files": records,
    }
    MODELS_INDEX.write(folder / MODELS, index)
    report.write(folder / "README.md", _readme(index, _load_digits(dataset.normalization)))
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


def _cells(each: dict[str, Any]) -> dict[str, str]:
    found, micro = each["verification"], each["micro"]
    rate = (each["training"] or {}).get("drop_rate")
    (offline,) = each["also_on"].values()
    return {
        "file": f"[{each['file']}]({each['file']})",
        "KB": f"{each['size'] / 1000:.0f}",
        "drop rate in training": "-" if rate is None else f"{100 * rate:g}",
        "weights faulty": report.percent(each["fault_rate"], 1),
        "accuracy": report.percent(found["accuracy"]),
        "Keras model": report.percent(found["keras_accuracy"]),
        FLAGS.also_on: report.percent(offline["accuracy"]),
        "arena, bytes": "-" if micro is None else f"{micro['arena_size']:,}",
    }


def _load_digits(normalization: Any) -> str:
    """Returns what loads the digits as the files take them."""
    from keras_rram import data

    if normalization == data.load("digits").normalization:
        return 'data.load("digits")'
    how = "none" if normalization is None else normalization.describe()
    return f'data.load("digits", normalize={json.dumps(how)})'


def _readme(index: dict[str, Any], load_digits: str) -> str:
    files = index["files"]
    is_mnist = (
        "\nIt is no test of a model trained on MNIST: the digits are training images of MNIST."
    )
    of = f" of `{index['fault_model']}`" if index["fault_model"] != "stuck_at_zero" else ""
    return f"""# Exported models

TFLite files of trained networks, each fault-free or for one chip, with a sidecar that says what it
is: model, chip, calibration, SHA-256, accuracies, and for int8 arena and operators of TensorFlow
Lite Micro. Rates and accuracies in percent; accuracy on {files[0]["verification"]["images"]:,} test
images of {index["data"]}.

{report.markdown(report.table([_cells(each) for each in files]))}

'{FLAGS.also_on}' is for a check without a download: the same files give the same share there.\
{is_mnist if FLAGS.also_on == "digits" else ""}

Chips are chip 0 of seed {index["seed"]}{of}. Made, after training, by

{report.commands([each["training"] for each in files])}

Look into a file with `python -m tools.inspect_tflite exported_models/FILE`, or run it:

```python
from keras_rram import data
from keras_rram.export import LiteRTModel, flatbuffer

images, labels = {load_digits}.arrays("test")
model = LiteRTModel(flatbuffer.read("exported_models/{files[0]["file"]}"))
print((model.predict(images).argmax(-1) == labels).mean())
```
"""


if __name__ == "__main__":
    cli.run(main)
