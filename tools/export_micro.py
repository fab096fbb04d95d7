r"""Makes an int8 TFLite file ready for a microcontroller: checks it there, and writes it as C.

The file runs in the interpreter of TensorFlow Lite Micro (`pip install 'keras-rram[micro]'`), next
to LiteRT, on test images of the data that its sidecar names:

  python -m tools.export_micro --tflite=runs/tflite/base.tflite --out=runs/micro

The folder `--out` gets `model.h` and `model.cc` (another name: `--name`), and `model.json` with the
least arena, the operators to register and the difference from LiteRT. A file that differs from
LiteRT's reference kernels by more than one quantization step is an error and leaves nothing.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

from absl import flags

from . import cli, inputs, number_flags

FLAGS = flags.FLAGS

flags.DEFINE_string("tflite", None, "An int8 file, as tools.export_tflite writes it.")
flags.DEFINE_string("name", "model", "Name of the C array and of the files.")
number_flags.define_whole(
    "arena", None, "Bytes that the target has for its arena; default: any.", "[1, 2147483647]"
)
inputs.define_data(images=50)
flags.DEFINE_string("out", None, "Folder for the files.")


def main(argv: Sequence[str]) -> None:
    """Checks and writes as the flags say."""
    del argv
    cli.check_output_folder()
    from keras_rram.export.c_source import c_array
    from keras_rram.export.flatbuffer import read
    from keras_rram.export.micro import run_micro
    from keras_rram.export.sidecar import check_described
    from keras_rram.files import written_whole

    if not FLAGS.tflite:
        raise ValueError("--tflite is missing: name an int8 file.")
    tflite = read(FLAGS.tflite)
    array = c_array(tflite, FLAGS.name)
    sidecar = check_described(pathlib.Path(FLAGS.tflite), tflite)
    dataset = inputs.load_data(inputs.Training(data=(sidecar or {}).get("data")))
    images, _ = dataset.arrays("test", inputs.image_count(dataset))
    images = images.astype("float32", copy=False)  # bytes go in as 0.0 to 255.0
    report = run_micro(tflite, images, FLAGS.arena)
    report.check()
    folder = cli.output_folder(FLAGS.out)
    content = {
        "tflite": {
            "sha256": hashlib.sha256(tflite).hexdigest(),
            "sidecar": sidecar,
        },
        "micro": dataclasses.asdict(report),
        "data": dataset.name,
        "command": cli.command(),
        "commit": cli.commit(),
    }
    with contextlib.ExitStack() as together:  # all three files, or none
        for suffix, text in (
            ("h", array.header),
            ("cc", array.source),
            ("json", json.dumps(content, indent=2) + "\n"),
        ):
            temporary = together.enter_context(written_whole(folder / f"{FLAGS.name}.{suffix}"))
            temporary.write_text(text, encoding="utf-8")
    print(
        f"Runs in TensorFlow Lite Micro: {report.size:,} bytes of flash, an arena of "
        f"{report.arena_size:,} bytes; outputs within {report.max_steps} step(s) of LiteRT's "
        f"reference kernels and {report.xnnpack_steps} of XNNPACK, the same class on "
        f"{report.agreement:.1%} of {report.images} images."
    )
    print(f"Operators: {', '.join(report.operators)}. Results: {folder}/")


if __name__ == "__main__":
    cli.run(main)
