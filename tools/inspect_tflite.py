r"""Shows what is in a TFLite file: layers, scales, sparsity, and the chip and model it came from.

  python -m tools.inspect_tflite runs/tflite/chip_0_00000.tflite

Against the fault-free file of its export: the weights that the chip changed; and, with the trained
model, the chip's faults as a map that `tools.export_tflite --chip` and `Chip.load` accept:

  python -m tools.inspect_tflite runs/tflite/chip_0_00000.tflite --base=runs/tflite/base.tflite \
      --model=runs/digits/model.keras --map=map.npz
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli, export_flags, inputs

FLAGS = flags.FLAGS

flags.DEFINE_string("tflite", None, "The file to inspect; the first argument means the same.")
flags.DEFINE_string("base", None, "Fault-free file of the same export, to compare with.")
flags.DEFINE_string("model", None, "Trained model of both files, a .keras file; for --map.")
flags.DEFINE_string("map", None, "Write the faults of the file to this .npz file.")


def main(argv: Sequence[str]) -> None:
    """Prints, and writes the map if asked."""
    del argv
    from keras_rram.export.flatbuffer import read
    from keras_rram.export.reading import changed_weights, summarize
    from keras_rram.export.sidecar import check_described

    if not FLAGS.tflite:
        raise ValueError(f"no file is named: {cli.tool('inspect_tflite')} FILE.")
    if FLAGS.map and not (FLAGS.base and FLAGS.model):
        raise ValueError("--map needs --base, the fault-free file, and --model, the trained model.")
    if FLAGS.model and not FLAGS.map:
        raise ValueError("--model is for --map, the file to write the faults to.")
    tflite = read(FLAGS.tflite)
    sidecar = check_described(pathlib.Path(FLAGS.tflite), tflite)
    base = None
    if FLAGS.base:
        base = read(FLAGS.base)
        check_described(pathlib.Path(FLAGS.base), base)
    summary = summarize(tflite)
    changed = None if base is None else changed_weights(base, tflite)
    print(summary)
    print(_origin(sidecar))
    if changed is not None:
        print(f"{sum(changed.values()):,} weights differ from {FLAGS.base}:")
        for row in summary.weights:
            if changed[row.tensor]:
                share = changed[row.tensor] / row.weights
                print(f"  tensor {row.tensor}: {changed[row.tensor]:,} ({share:.2%}) of {row.name}")
    if FLAGS.map:
        _write_map(base, tflite)


def _origin(sidecar: dict[str, Any] | None) -> str:
    """Returns what the sidecar says of the file, as lines."""
    if sidecar is None:
        return "No sidecar: the file's chip and model are unknown."
    chip, verification = sidecar["chip"], sidecar["verification"]
    lines = [
        f"model {sidecar['model']} ({sidecar['parameters']:,} weights, "
        f"SHA-256 {sidecar['weights_sha256'][:16]}), {sidecar['quantization']}, "
        f"{sidecar['method']} by keras_rram {sidecar['version']}",
        "fault-free"
        if chip is None
        else f"chip {json.dumps(chip)}, {sidecar['fault_rate']:.2%} of its weights faulty",
    ]
    if repair := sidecar.get("repair"):
        lines.append(
            f"repaired by {repair['repair']} (access tier {repair['access_tier']})"
            + "".join(
                f", {each['count']} {each['array']} of SHA-256 {each['sha256'][:16]}"
                for each in repair["data"]
            )
        )
    if verification is not None:
        accuracy = verification["accuracy"]
        lines.append(
            f"verified on {verification['images']} images"
            + (f" of {sidecar['data']}" if sidecar["data"] else "")
            + f": same top-1 as Keras on {verification['agreement']:.1%}"
            + ("" if accuracy is None else f", accuracy {accuracy:.2%}")
        )
    for name, found in sidecar["also_on"].items():
        lines.append(f"{export_flags.verified(found)} on {found['images']} images of {name}")
    if sidecar["micro"] is not None:
        lines.append(
            f"TensorFlow Lite Micro: an arena of {sidecar['micro']['arena_size']:,} bytes, "
            f"operators {', '.join(sidecar['micro']['operators'])}"
        )
    if sidecar["command"]:
        lines.append(f"made by: {sidecar['command']} (commit {sidecar['commit']})")
    return "\n".join(lines)


def _write_map(base: bytes | None, tflite: bytes) -> None:
    from keras_rram import Chip
    from keras_rram.export import PatchableModel
    from keras_rram.export.sidecar import read_sidecar

    model = inputs.load_model(FLAGS.model)
    sidecar = read_sidecar(FLAGS.base) or {}
    patchable = PatchableModel(model, base or b"", sidecar.get("gains"))
    chip = Chip(measured=patchable.faults_in(tflite))
    chip.save(pathlib.Path(FLAGS.map), model)
    print(f"Faults written to {FLAGS.map}.")


def name_first_argument(arguments: list[str]) -> list[str]:
    """Returns a command line whose first argument, if it is no option, is `--tflite=`."""
    if len(arguments) > 1 and not arguments[1].startswith("-"):
        return [arguments[0], f"--tflite={arguments[1]}", *arguments[2:]]
    return arguments


if __name__ == "__main__":
    sys.argv = name_first_argument(sys.argv)
    cli.run(main)
