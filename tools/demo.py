"""The main job, end to end, on real digits that come with the installation.

  python -m tools.demo --out=runs/demo

Trains a mini-MobileNet with Drop-Connect, evaluates it on a population of faulty chips, and writes
a verified int8 TFLite file for one of them. Each step is a tool of its own; its command is printed.
"""

import subprocess
from collections.abc import Sequence

from absl import flags

from . import cli, number_flags

FLAGS = flags.FLAGS

flags.DEFINE_string("out", None, "Folder for the results.")
number_flags.define_whole(
    "epochs", None, "Epochs of training, instead of the recipe's.", "[1, 100000]"
)
number_flags.define_whole("chips", 50, "Chips of the population.", "[1, 1000000]")


def steps(out: str, epochs: int | None, chips: int) -> tuple[tuple[str, ...], ...]:
    """Returns each step's tool and flags."""
    model = f"--model={out}/train/model.keras"
    how = ("--drop_rate=0.1", "--validation_chips=5")
    training = ("train", *how, f"--out={out}/train")
    return (
        training if epochs is None else (*training, f"--epochs={epochs}"),
        ("evaluate", model, "--fault_rates=0.05,0.1,0.2", f"--chips={chips}", f"--out={out}/chips"),
        # A network of a minute's training has classes that int8 may tip: a point more is allowed.
        (
            "export_tflite",
            model,
            "--fault_rate=0.1",
            "--chips=1",
            "--min_agreement=0.95",
            "--max_accuracy_difference=0.02",
            f"--out={out}/tflite",
        ),
    )


def main(argv: Sequence[str]) -> None:
    """Runs every step; the first that fails ends the demo."""
    del argv
    out = cli.output_folder(FLAGS.out)
    for tool, *arguments in steps(str(out), FLAGS.epochs, FLAGS.chips):
        print(f"\n$ {cli.tool(tool)} {' '.join(arguments)}", flush=True)
        code = subprocess.run([*cli.start(tool), *arguments], check=False).returncode
        if code:
            cli.fail(f"{tool} ended with exit code {code}.", code)
    print(f"\nAll results: {out}/")


if __name__ == "__main__":
    cli.run(main)
