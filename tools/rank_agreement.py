r"""Asks whether short trainings put networks in the order of full ones: the study's panels, again.

  python -m tools.rank_agreement --records=docs/reproduction --data_dir=DIR --out=runs/ranks

The folder `--records` has the records of panels that were trained in full (`tools.reproduce`). Each
of them is trained for a short while, as `tools.search_networks` trains networks, once for each of
--training_seeds, and judged on chips of the stream "validation" and training images that are set
aside: with the model's own statistics (`model`), with statistics gathered for it (`placement`; both
are access tier A) and recalibrated on each chip (`chip`, tier B). Panels of one data set and fault
rate are compared with each other. The full trainings after some of their epochs
(--record_epochs), on the chips that they were followed on, are proxies too, at no cost:
--training_seeds=0 compares these alone. (Where the rate of learning is constant, a shorter training
is the same up to there; they share seed, chips and test images with what they foretell.) The folder
`--out` gets `trainings/`, a file for each training, from which `--resume` goes on; `ranks.csv`, a
row for each panel; and `ranks.json`, which has the agreement too, see
`keras_rram.placement.RankAgreement`.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from absl import flags

from . import cli, inputs, number_flags, report, short_trainings

FLAGS = flags.FLAGS

flags.DEFINE_string("records", None, "Folder of the records of panels trained in full.")
flags.DEFINE_list("panels", [], "Panels; default: all with faults that have a record.")
flags.DEFINE_string("scale", "short", "Scale of the records.")
number_flags.define_whole("training_seeds", 1, "Short trainings of each panel.", "[0, 1e9]")
flags.DEFINE_list("record_epochs", ["1", "2", "5", "10", "20"], "Epochs of the full trainings.")
inputs.define_data_dir()
short_trainings.define(batch_size=64)
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("resume", False, "Go on with the trainings in --out.")

PROXIES = {"model": "chips", "placement": "chips", "chip": "chips_repaired"}
"""Statistics of a short training -> population of the full one that it is to foretell."""


def main(argv: Sequence[str]) -> None:
    """Trains what is missing, and compares the orders."""
    del argv
    cli.check_output_folder()
    epochs = record_epochs()
    proxies = dict(PROXIES) if FLAGS.training_seeds else {}
    proxies |= {f"epoch {epoch}": "chips" for epoch in epochs}
    records = panels(max(epochs, default=0))
    folder = cli.output_folder(FLAGS.out, FLAGS.resume)
    rows, datasets = [], {}
    for number, record in enumerate(records, 1):
        source = record["dataset"]
        if FLAGS.training_seeds and source not in datasets:
            from keras_rram import data

            datasets[source] = short_trainings.dataset(
                data.load(source, FLAGS.data_dir, FLAGS.download)
            )
        found = [trained(folder, record, datasets[source], seed) for seed in seeds()]
        followed = after_epochs(record)
        row = {
            "panel": record["panel"],
            "dataset": source,
            "fault_rate": record["fault_rate"],
            **{name: value["mean"] for name, value in record["populations"].items()},
        }
        if found:
            row |= {name: fmean(fmean(one[name]) for one in found) for name in PROXIES}
        row |= {f"epoch {epoch}": followed[epoch - 1] for epoch in epochs}
        rows.append(row)
        print(f"{number} of {len(records)}: {record['name']}", flush=True)
    agreement = compared(rows, proxies)
    about = {
        "records": [record["name"] for record in records],
        "training_seeds": FLAGS.training_seeds,
        **{name: getattr(FLAGS, name) for name in short_trainings.HELD},
    }
    names = ["panel", "dataset", "fault_rate", "chips", "chips_repaired", *proxies]
    report.write_rows(folder / "ranks", report.table(rows)[names], **about, agreement=agreement)
    shares = names[2:]
    report.show(report.in_percent(report.table(rows)[names], shares))
    report.show(report.table(agreement).round(3), [f"Results: {FLAGS.out}/"])


def seeds() -> range:
    """Returns the seeds of the short trainings; that of the full ones, 0, is not among them."""
    return range(1, FLAGS.training_seeds + 1)


def record_epochs() -> list[int]:
    """Returns the epochs of --record_epochs."""
    if wrong := [text for text in FLAGS.record_epochs if not text.isdecimal() or int(text) < 1]:
        raise ValueError(f"--record_epochs: expected integers >= 1. Received: {wrong}")
    return [int(text) for text in FLAGS.record_epochs]


def after_epochs(record: dict[str, Any]) -> list[float]:
    """Returns the mean accuracy of the followed chips after each epoch of a full training."""
    import pandas as pd

    history = pd.read_csv(pathlib.Path(FLAGS.records) / record["name"] / "history.csv")
    chips = [name for name in history if name.startswith("val_chip_") and name[9].isdecimal()]
    return list(history[chips].mean(axis=1))


def panels(epochs: int) -> list[dict[str, Any]]:
    """Returns the records to compare with: the study's method and text, seed 0, with faults.

    Args:
        epochs: how many they must have at least.
    """
    from keras_rram.files.schemas import PANEL

    if not FLAGS.records:
        raise ValueError("--records is missing: name a folder of `tools.reproduce`.")
    found = [PANEL.read(path) for path in pathlib.Path(FLAGS.records).glob("*/record.json")]
    same = {"protocol": "text", "scale": FLAGS.scale, "seed": 0, "method": "study"}
    fitting = [
        record
        for record in found
        if all(record[key] == value for key, value in same.items())
        and set(PROXIES.values()) <= set(record["populations"])
        and record["fault_rate"] == record["drop_rate"] > 0
        and record["epochs"] >= epochs
    ]
    known = {record["panel"]: record for record in fitting}
    if unknown := sorted(set(FLAGS.panels) - set(known)):
        raise ValueError(f"--panels: expected some of {sorted(known)}. Received: {unknown}")
    chosen = [record for name, record in known.items() if not FLAGS.panels or name in FLAGS.panels]
    if len(chosen) < 2:
        raise ValueError(f"--records: expected two fitting records in '{FLAGS.records}' or more.")
    return sorted(chosen, key=lambda one: (one["dataset"], one["fault_rate"], one["panel"]))


def trained(
    folder: pathlib.Path, record: dict[str, Any], dataset: Any, seed: int
) -> dict[str, Any]:
    """Returns the accuracies of one short training by the statistics, trained now or before."""
    from keras_rram.study.bottlenecks import ALL_PANELS
    from keras_rram.study.setups import build, fault_model, setup

    panel = ALL_PANELS[record["panel"]]

    def train() -> dict[str, list[float]]:
        how = setup(panel, record["scale"], record["protocol"], record["network"])
        model = build(
            panel,
            how,
            record["protocol"],
            seed,
            input_shape=dataset.input_shape,
            classes=dataset.classes,
        )
        recipe = dataclasses.replace(how.recipe, epochs=FLAGS.epochs, batch_size=FLAGS.batch_size)
        return short_trainings.judge(
            model, dataset, recipe, fault_model(panel), seed, tuple(PROXIES)
        )

    about = {
        "panel": record["name"],
        "seed": seed,
        **{name: getattr(FLAGS, name) for name in short_trainings.HELD},
    }
    path = folder / "trainings" / f"{record['name']}-seed{seed}.json"
    return short_trainings.held(path, about, train)


def compared(rows: Sequence[dict[str, Any]], proxies: Mapping[str, str]) -> list[dict[str, Any]]:
    """Returns the agreement of each proxy with its population, by data set and of all."""
    from keras_rram.placement import rank_agreement

    found = []
    sets = list(dict.fromkeys(row["dataset"] for row in rows))
    for name, wanted in proxies.items():
        for which in [*sets, *(["all"] if len(sets) > 1 else [])]:
            part = [row for row in rows if which in ("all", row["dataset"])]
            groups = [(row["dataset"], row["fault_rate"]) for row in part]
            if len(set(groups)) == len(groups):
                continue  # no two that could be compared
            agreement = rank_agreement(
                [row[name] for row in part], [row[wanted] for row in part], groups
            )
            about = {"statistics": name, "against": wanted, "data": which}
            found.append(about | dataclasses.asdict(agreement))
    return found


if __name__ == "__main__":
    cli.run(main)
