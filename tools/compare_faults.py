r"""Compares what different faults do to one trained model, at matched fault rates.

The same share of faulty cells, as single weights, in clusters, in whole word or bit lines, at a
rate of its own in each tile, or as cells of differential pairs that are stuck off or on:

  python -m tools.compare_faults --model=runs/digits/model.keras --images=500 --chips=50 \
      --fault_rates=0.02,0.05,0.1,0.2 --out=runs/faults

Other fault models, each by its text:

  python -m tools.compare_faults --model=runs/digits/model.keras --fault_model=row_faults \
      --fault_model=row_faults:tile=64x64 --out=runs/rows

The folder `--out` gets `fault_models.csv`, `fault_models.json`, `fault_models.png` and `README.md`,
and under `chips/` the records of each population, from which `--resume` with the same flags goes
on.
"""

import csv
import dataclasses
import io
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from . import cli

FLAGS = flags.FLAGS

CURVES = {
    "independent weights": "stuck_at_zero",
    "spread over tiles": "spread_faults",
    "clusters": "clustered_faults",
    "word lines (rows)": "row_faults",
    "bit lines (columns)": "column_faults",
    "pairs, stuck off": "differential_pair:stuck_off=0.01",
    "pairs, 84% off, 16% on": "differential_pair:stuck_off=0.0904,stuck_on=0.0175",
    "pairs, stuck on": "differential_pair:stuck_on=0.01",
}
"""What is compared by default: name -> fault model, whose own rate does not count."""

flags.DEFINE_string("model", None, "Trained model, a .keras file.")
flags.DEFINE_multi_string(
    "fault_model",
    None,
    f"A fault model to compare; repeat the flag. Default: {', '.join(CURVES.values())}.\n"
    + cli.FAULT_MODEL_HELP,
)
flags.DEFINE_list(
    "fault_rates", ["0.01", "0.02", "0.05", "0.1", "0.2", "0.3"], "Fault rates in (0, 1)."
)
flags.DEFINE_integer("chips", 100, "Chips of each fault model and rate.", lower_bound=2)
flags.DEFINE_integer("seed", 0, "Seed of the populations of chips.", lower_bound=0)
flags.DEFINE_string("data", "digits", "digits (offline), mnist, cifar10, or an .npz file.")
flags.DEFINE_string("data_dir", None, "Folder of tensorflow-datasets.")
flags.DEFINE_bool("download", False, "Download the dataset if it is not in --data_dir.")
flags.DEFINE_integer("images", None, "Use this many test images, a stratified part.", lower_bound=2)
flags.DEFINE_integer("jobs", 1, "Processes; -1 for one on each core.")
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("resume", False, "Go on with the run in --out, or begin one.")


@dataclasses.dataclass(frozen=True)
class Row:
    """One fault model at one rate; accuracies and shares in [0, 1].

    `rate` is the mean share of faulty cells, `changed` the measured share of weights that are not
    what was trained. `low` and `high` are the 95% interval of the mean, `q05` is the 5th percentile
    of the chips.
    """

    name: str
    fault_model: str
    rate: float
    changed: float
    fault_free: float
    mean: float
    low: float
    high: float
    sd: float
    q05: float
    worst: float


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say and writes table and figure."""
    del argv
    import numpy as np

    from keras_rram import data
    from keras_rram.evaluation import evaluate_rates
    from keras_rram.evaluation.population import check_data
    from keras_rram.faults import at_rate, spec
    from keras_rram.plots import faults as plots_faults

    rates = _rates()
    texts = _texts()
    models = {name: cli.parse_fault_model(text, rates[0], rates) for name, text in texts.items()}
    model = cli.load_model(FLAGS.model)
    # Later the checkout may be another one.
    about = {"command": _command(), "commit": cli.commit(), "training": _training(FLAGS.model)}
    dataset = data.load(FLAGS.data, FLAGS.data_dir, FLAGS.download)
    test = dataset.arrays("test", FLAGS.images)
    check_data(model, test)
    folder = cli.output_folder(FLAGS.out, FLAGS.resume)
    results: dict[str, Any] = {}
    for number, (name, fault_model) in enumerate(models.items()):
        print(f"{name} ({number + 1} of {len(models)}): {texts[name]}", flush=True)
        found = evaluate_rates(
            model,
            fault_model,
            rates,
            test,
            FLAGS.chips,
            seed=FLAGS.seed,
            out=str(folder / "chips" / re.sub(r"\W+", "_", name).strip("_")),
            resume=FLAGS.resume,
            jobs=FLAGS.jobs,
        )
        if found.interrupted:
            cli.fail("interrupted; --resume goes on where it stopped.", code=130)
        results[name] = found.results
    rows = []
    for name, curve in results.items():
        for result in curve:
            interval = result.mean_interval()
            rows.append(
                Row(
                    name,
                    spec(at_rate(models[name], result.rate)),
                    result.rate,
                    float(np.mean([chip.achieved_fault_rate for chip in result.chips])),
                    result.fault_free,
                    result.mean,
                    interval.low,
                    interval.high,
                    result.sd,
                    result.quantile(0.05),
                    result.worst.accuracy,
                )
            )
    content = {
        **about,
        "model": FLAGS.model,
        "data": dataset.name,
        "images": len(test[1]),
        "fault_models": texts,
        "chips": FLAGS.chips,
        "seed": FLAGS.seed,
        "engine": next(iter(results.values()))[0].engine,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Row)])
    writer.writerows(dataclasses.astuple(row) for row in rows)
    _write(folder / "fault_models.json", json.dumps(content, indent=2) + "\n")
    _write(folder / "fault_models.csv", text.getvalue())
    plots_faults.fault_model_curves(results, folder / "fault_models.png")
    _write(folder / "README.md", _readme(content, rows))
    print(_table(rows))
    print(f"Results: {folder}/")


def _texts() -> dict[str, str]:
    """Returns the fault models by name; those of the flag have no other name than their text."""
    if not FLAGS.fault_model:
        return CURVES
    texts = {text: text for text in FLAGS.fault_model}
    if len(texts) != len(FLAGS.fault_model):
        raise ValueError(f"expected each fault model once. Received: {FLAGS.fault_model}")
    return texts


def _rates() -> list[float]:
    try:
        rates = sorted({float(rate) for rate in FLAGS.fault_rates})
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < 1 for rate in rates):
        raise ValueError(f"--fault_rates must be in (0, 1). Received: {FLAGS.fault_rates}")
    return rates


def _command() -> str:
    return re.sub(r"--data_dir=\S+", "--data_dir=DIR", cli.command())


def _training(path: str) -> dict[str, Any] | None:
    """Returns how the model was trained, as the folder that it is in says."""
    place = pathlib.Path(path).parent / "config.json"
    if not place.is_file():
        return None
    held = json.loads(place.read_text(encoding="utf-8"))
    command = re.sub(r"--data_dir=\S+", "--data_dir=DIR", str(held.get("command")))
    return {"command": command, "commit": held.get("commit"), "name": held.get("model")}


def _by_name(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {name: [row for row in rows if row.name == name] for name in {r.name: 0 for r in rows}}


def _table(rows: Sequence[Row]) -> str:
    """Returns mean and standard deviation over chips, in percent, a line for each fault model."""
    curves = _by_name(rows)
    rates = [row.rate for row in next(iter(curves.values()))]
    lines = [
        "| faults | " + " | ".join(f"{100 * rate:g}%" for rate in rates) + " |",
        "| --- |" + " --- |" * len(rates),
    ]
    for name, curve in curves.items():
        cells = [f"{100 * row.mean:.2f} ({100 * row.sd:.2f})" for row in curve]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _readme(content: Mapping[str, Any], rows: Sequence[Row]) -> str:
    curves = _by_name(rows)
    name = (content["training"] or {}).get("name") or pathlib.Path(content["model"]).stem
    lines = [
        "# What different faults cost at one fault rate",
        "",
        f"One trained model ({name}), {content['chips']} chips of seed {content['seed']} for each",
        f"fault model and rate, {content['images']:,} test images of {content['data']}, no repair",
        f"(access tier A); fault-free accuracy {100 * rows[0].fault_free:.2f}%. Mean accuracy over",
        "the chips (standard deviation of chips), percent, against the mean fault rate:",
        "",
        _table(rows),
        "",
        "The mean fault rate is the expected share of faulty cells among those of the layers on",
        "faulty hardware. It is the same down a column, and what differs is where the faults are",
        "and what they do. Where whole weights fail, a faulty weight loses all of its cells and",
        "reads as zero, so that the share of weights is that of cells. In a differential pair",
        "cells fail one by one: a weight changes if the cell that holds it is stuck off, or either",
        "is stuck on.",
        "",
        "| faults | fault model | percent of the weights changed, at each rate |",
        "| --- | --- | --- |",
    ]
    for label, curve in curves.items():
        changed = ", ".join(f"{100 * row.changed:.3g}" for row in curve)
        lines.append(f"| {label} | `{content['fault_models'][label]}` | {changed} |")
    lines += [
        "",
        "The fault models are written as `--fault_model` of the tools takes them, and were scaled",
        "to each rate. Intervals in the figure count chips and images.",
        "",
        "![accuracy against the share of faulty cells](fault_models.png)",
        "",
        "```bash",
    ]
    if content["training"]:
        lines.append(f"{content['training']['command']}  # {content['training']['commit']}")
    lines += [
        str(content["command"]),
        "```",
        "",
        f"DIR is a folder of tensorflow-datasets. Made at commit `{content['commit']}`;",
        "`fault_models.json` and `fault_models.csv` have every number, with intervals, 5th",
        "percentiles and worst chips.",
        "",
    ]
    return "\n".join(lines)


def _write(path: pathlib.Path, text: str) -> None:
    from keras_rram.files import written_whole

    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
