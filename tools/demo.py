"""The main job, end to end, on real digits that come with the installation.

  python -m tools.demo --out=runs/demo

Trains a mini-MobileNet with Drop-Connect, evaluates it on a population of faulty chips, and writes
a verified int8 TFLite file for one of them. Each step is a tool of its own; its command is printed.
At the end it says what came out, and where the report is, a page to open in a browser.
"""

import json
import pathlib
import subprocess
from collections.abc import Sequence

from absl import flags

from . import cli, report

FLAGS = flags.FLAGS

flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_integer("epochs", None, "Epochs of training, instead of the recipe's.")
flags.DEFINE_integer("chips", 50, "Chips of the population.")


def steps(out: str, epochs: int | None, chips: int) -> tuple[tuple[str, ...], ...]:
    """Returns each step's tool and flags."""
    model = f"--model={out}/train/model.keras"
    how = ("--drop_rate=0.1", "--validation_chips=5")
    training = ("train", *how, f"--out={out}/train")
    return (
        training if epochs is None else (*training, f"--epochs={epochs}"),
        (
            "evaluate",
            model,
            "--fault_rates=0.05,0.1,0.2",
            f"--chips={chips}",
            "--report",
            f"--out={out}/chips",
        ),
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
    print()
    _show(out)
    print(f"\nAll results: {out}/\nReport, to open in a browser: {out / 'chips' / 'report.html'}")


def _show(out: pathlib.Path) -> None:
    """Prints a line for each fault rate, and the file that was written."""
    rows = json.loads((out / "chips" / "results.json").read_text("utf-8"))["summary"]
    healthy = {"faults %": "0", "mean %": report.percent(rows[0]["fault_free"])}
    cells = [healthy, *map(_line, rows)]
    names = ("faults %", "mean %", "95% interval", "worst chip %", "yield >= 90%")
    table = report.table([{name: row.get(name, "-") for name in names} for row in cells])
    (file,) = sorted((out / "tflite").glob("chip_*.tflite"))
    report.show(table, [f"Verified int8 file of one chip: {file} ({file.stat().st_size:,} bytes)"])


def _line(row: dict) -> dict[str, str]:
    low, high = report.percent(row["low"]), report.percent(row["high"])
    return {
        "faults %": f"{100 * row['rate']:g}",
        "mean %": report.percent(row["mean"]),
        "95% interval": f"{low} to {high}",
        "worst chip %": report.percent(row["worst"]),
        "yield >= 90%": report.percent(row["yield_0.9"], 0),
    }


if __name__ == "__main__":
    cli.run(main)
