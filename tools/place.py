r"""Searches which layers to put on faulty hardware: much work there at little loss.

A trained model's layers, in three ways of 40 trials each; the placement of most multiply-
accumulates that loses at most one point, and the front of accuracy against work:

  python -m tools.place --model=runs/all/model.keras --fault_rate=0.2 --most_loss=0.01 \
      --out=runs/placed

A second process on the same study, for the search alone (`--resume` also goes on with one that was
killed); tiles as the work, 45% of them or more; and another model on the same chips beside:

  python -m tools.place --model=runs/all/model.keras --fault_rate=0.2 --out=runs/placed \
      --resume --search_only
  python -m tools.place --model=runs/all/model.keras --fault_rate=0.2 --unit=tiles --share=0.45 \
      --out=runs/tiles
  python -m tools.place --model=runs/all/model.keras --fault_rate=0.2 --share=0.45 \
      --against=4C=runs/4c/model.keras --out=runs/against

The search looks at training images that were set aside (`Dataset.split`, as many as in the model's
`config.json`) and at chips of the stream "validation"; the report is of test images and of chips of
an evaluation, which the search never saw. Ways: "greedy" adds groups by the loss per work that each
has alone, "random" draws, "optuna" begins with the greedy placements and goes on with its own
proposals (TPE, two objectives). A placement that another one beats in both is given up early.
The folder `--out` gets `study.db`, an Optuna study, then `place.csv`, `place.json` and
`place.png`; who reports waits for the trials of others. Accuracies and shares are in [0, 1], `low`
and `high` the 95% interval.
"""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from . import cli, fault_flags, inputs, number_flags, placement_flags, report

FLAGS = flags.FLAGS

inputs.define_model(convert=True)
inputs.define_data()
fault_flags.define(otherwise="0.1")
fault_flags.define_chips(50, least=2)
placement_flags.define()
flags.DEFINE_enum(
    "statistics",
    None,
    ["model", "placement", "chip"],
    "Where statistics come from, see tools.sensitivity. Default: placement, or model where the "
    "model has none.",
)
flags.DEFINE_enum("unit", "macs", ["macs", "cells", "tiles"], "What the work is counted in.")
number_flags.define(
    "most_loss", None, "Ask for the most work that loses at most that accuracy.", "[0, 1]"
)
number_flags.define(
    "share", None, "Ask for the best accuracy with at least that share of the work.", "[0, 1]"
)
flags.DEFINE_list("ways", ["greedy", "random", "optuna"], "Ways of searching, in this order.")
number_flags.define_whole("trials", 40, "Trials of each way.", "[1, 1e9]")
number_flags.define_whole("search_chips", 16, "Chips of the search.", "[4, 1e9]")
number_flags.define_whole(
    "validation_images",
    None,
    "Training images set aside for the search. Default: as in the training of the model, or a "
    "tenth.",
    "[8, 1e9]",
)
number_flags.define_whole("report_points", 8, "Placements of each way in the report.", "[1, 1e9]")
flags.DEFINE_multi_string(
    "against", None, "NAME=PATH of another model, all faulty, on the same chips and images; repeat."
)
flags.DEFINE_string(
    "points", None, "CSV file of name, share, accuracy, low, high, to draw beside the fronts."
)
report.define_figures()
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("search_only", False, "End with the search, for one of several processes.")
flags.DEFINE_bool("resume", False, "Go on with the study in --out, or join those who work on it.")


def main(argv: Sequence[str]) -> None:
    """Searches as the flags say and reports what was found."""
    del argv
    from keras_rram.evaluation.fingerprint import model_sha256
    from keras_rram.faults import spec
    from keras_rram.files import array_sha256
    from keras_rram.placement import StagedNetwork, Trials, group_layers

    if FLAGS.most_loss is not None and FLAGS.share is not None:
        raise ValueError("--most_loss and --share: expected one of them.")
    if unknown := sorted(set(FLAGS.ways) - {"greedy", "random", "optuna"}):
        raise ValueError(f"--ways: expected greedy, random, optuna. Received: {unknown}")
    fault_model = fault_flags.at(FLAGS.fault_rate, otherwise=0.1)
    points = _points(FLAGS.points)
    others = _others()
    model, dataset, test = inputs.load()
    searched = dataset.split(_validation_images())
    calibration, network = placement_flags.calibration(searched), StagedNetwork(model)
    groups = group_layers(model, FLAGS.groups, FLAGS.keep)
    work = _work(model, groups)
    kind = FLAGS.statistics or placement_flags.statistics_of(model)[0]

    def bench(network: Any, data: Any, chips: int, stream: str) -> Any:
        first = FLAGS.first_chip if stream == "evaluation" else 0
        return placement_flags.bench(
            network, fault_model, data, calibration, kind, chips, stream, first
        )

    images = searched.arrays("validation")
    search = Trials(bench(network, images, FLAGS.search_chips, "validation"), groups, work)
    judge = bench(network, test, FLAGS.chips, "evaluation")
    folder = cli.output_folder(FLAGS.out, FLAGS.resume, is_shared=True)
    fingerprint = {
        "model": model_sha256(model),
        "data": array_sha256(images[0], images[1]),
        "fault_model": spec(fault_model),
        "seed": FLAGS.seed,
        "chips": FLAGS.search_chips,
        "images": len(search.bench.folds[0]),
        "statistics": kind,
        "groups": {name: list(layers) for name, layers in groups.items()},
        "unit": FLAGS.unit,
        **placement_flags.fingerprint(kind, calibration, FLAGS.unit),
    }
    commit, started = cli.commit(), time.time()
    found = _search(search, folder / "study.db", fingerprint)
    seconds = {"search": round(time.time() - started, 1)}
    if FLAGS.search_only:
        print(f"{sum(map(len, found.values()))} trials in {folder}/study.db")
        return
    started = time.time()
    chosen = _reported(found)
    asked = _asked(found, search)
    sets = {search.placement(trial.groups) for part in chosen.values() for trial in part}
    sets |= {frozenset(), search.placement(list(groups))}
    sets |= {search.placement(asked.groups)} if asked else set()
    answers = judge.answers(sets)
    against = {}
    for name, other in others.items():
        second = StagedNetwork(other)
        everything = frozenset(second.layers)
        beside = bench(second, test, FLAGS.chips, "evaluation").answers([everything])
        against[name] = beside[everything]
    seconds["report"] = round(time.time() - started, 1)
    rows = []
    ways = {
        **chosen,
        "nothing": [search.evaluate(())],
        "everything": [search.evaluate(list(groups))],
    }
    ways |= {"asked for": [asked]} if asked else {}
    costs = placement_flags.costs(model, groups)
    for way, part in ways.items():
        rows += [_row(way, trial, search, judge, answers, against, costs) for trial in part]
    other_shares = {name: _share(other) for name, other in others.items()}
    beside = [_against(name, other_shares[name], judge, held) for name, held in against.items()]
    table = report.table(rows)
    about = {
        "commit": commit,
        "training": inputs.Training.beside(FLAGS.model).origin(),
        "data": dataset.name,
        "search": fingerprint,
        "search_images_trained_on": _trained_on(len(images[1])),
        "trials": {way: len(part) for way, part in found.items()},
        "stopped_early": {way: sum(one.stopped for one in part) for way, part in found.items()},
        "hypervolume": _volumes(found),
        "chips": FLAGS.chips,
        "first_chip": FLAGS.first_chip,
        "images_per_chip": len(judge.folds[0]),
        "tier": judge.tier,
        "seconds": seconds,
        "against": [vars(one) | {"accuracy": vars(one.accuracy)} for one in beside],
    }
    with cli.writing(folder):
        report.write_rows(folder / "place.csv", table, **about)
        _draw(table, [*points, *beside], folder)
    shares = ["share", "accuracy", "low", "high", "loss", "loss_low", "loss_high"]
    shown = table[["way", *shares, "saved_pj", "groups"]]
    report.show(report.in_percent(shown, shares), _notes(about))


def _validation_images() -> int | float:
    if FLAGS.validation_images is not None:
        return FLAGS.validation_images
    return inputs.Training.beside(FLAGS.model).validation_images or 0.1


def _trained_on(count: int) -> bool | None:
    """Returns whether the model was trained on the search's images; None where nothing says it.

    Images are set aside from the end of one order, so that fewer of them are a part of more.
    """
    aside = inputs.Training.beside(FLAGS.model).validation_images
    return None if aside is None else count > aside


def _others() -> dict[str, Any]:
    found = {}
    for text in FLAGS.against or ():
        name, _, path = text.partition("=")
        if not path:
            raise ValueError(f"--against='{text}': expected NAME=PATH.")
        found[name] = inputs.load_model(path)
    return found


def _points(path: str | None) -> list[Any]:
    """Returns the placements of a CSV file."""
    if path is None:
        return []
    import pandas as pd

    from keras_rram.evaluation import Interval
    from keras_rram.placement import FrontPoint

    names = ("name", "share", "accuracy", "low", "high")
    table = pd.read_csv(path)
    if missing := sorted(set(names) - set(table)):
        raise ValueError(f"--points={path}: expected columns {names}. Received: no {missing}")
    return [
        FrontPoint(
            str(row.name_), float(row.share),
            Interval(float(row.accuracy), float(row.low), float(row.high), 0.95, "", ""),
        )
        for row in table.rename(columns={"name": "name_"}).itertuples()
    ]  # fmt: skip


def _work(model: Any, groups: Any) -> dict[str, float]:
    """Returns each group's share of the model's work: of all, or of what could be placed."""
    from keras_rram.placement import macs_shares

    if FLAGS.unit == "macs":
        shares = macs_shares(model)
        return {name: sum(shares[layer] for layer in part) for name, part in groups.items()}
    from keras_rram.layers import faulty_layers

    costs = placement_flags.costs(model, groups)
    every = placement_flags.costs(model, {"all": tuple(faulty_layers(model))})["all"]
    return {name: costs[name][FLAGS.unit] / every[FLAGS.unit] for name in groups}


def _share(model: Any) -> float:
    """Returns the share of a whole model: of what could be placed it has everything."""
    from keras_rram.placement import macs_shares

    return sum(macs_shares(model).values()) if FLAGS.unit == "macs" else 1.0


def _search(search: Any, path: pathlib.Path, fingerprint: Any) -> dict[str, list[Any]]:
    from keras_rram.placement import Study, greedy_plan, measure_sensitivity, random_plan

    def losses() -> dict[str, float]:
        print("Sensitivities of the groups, for the greedy order ...", flush=True)
        measured = measure_sensitivity(search.bench, search.groups)
        return {row.group: row.alone.estimate for row in measured.rows}

    found: dict[str, list[Any]] = {}
    plans = {"random": random_plan(list(search.groups), FLAGS.trials, FLAGS.seed)}
    if {"greedy", "optuna"} & set(FLAGS.ways):
        study = Study(path, "greedy", fingerprint, FLAGS.seed)
        greedy = greedy_plan(study.remember("losses", losses), search.work, FLAGS.trials)
        plans |= {"greedy": greedy, "optuna": greedy}
    # A second time for what other processes had in their hands: a report is of all trials.
    for wait in (False,) if FLAGS.search_only else (False, True):
        for way in FLAGS.ways:
            study = Study(path, way, fingerprint, FLAGS.seed)
            plan = [search.params(groups) for groups in plans[way]]
            before = len(found.get(way, ()))
            found[way] = study.run(search, plan, FLAGS.trials, wait)
            if len(found[way]) > before:
                print(f"{way}: {len(found[way])} trials", flush=True)
    return found


def _reported(found: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Returns some placements along the front of each way."""
    import numpy as np

    from keras_rram.placement import pareto

    chosen = {}
    for way, trials in found.items():
        front = pareto([one for one in trials if one.groups and not one.stopped])
        places = np.linspace(0, len(front) - 1, min(FLAGS.report_points, len(front)))
        chosen[way] = [front[place] for place in sorted(set(places.round().astype(int)))]
    return chosen


def _asked(found: Mapping[str, Sequence[Any]], search: Any) -> Any:
    from keras_rram.placement import best

    if FLAGS.most_loss is None and FLAGS.share is None:
        return None
    every = [one for part in found.values() for one in part]
    if FLAGS.most_loss is not None:
        every.append(search.evaluate(()))  # what a loss is measured from; "random" may lack it
    trial = best(every, FLAGS.most_loss, FLAGS.share)
    if trial is None:
        print("No placement of the search is what was asked for.")
    return trial


def _volumes(found: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    from keras_rram.placement import hypervolume

    return {
        way: hypervolume([one for one in part if not one.stopped]) for way, part in found.items()
    }


def _row(
    way: str, trial: Any, search: Any, judge: Any, answers: Any, against: Any, costs: Any
) -> dict[str, Any]:
    placement = search.placement(trial.groups)
    mine = answers[placement]
    accuracy = judge.interval(mine)
    loss = judge.interval(answers[frozenset()], mine) if placement else None
    row = {
        "way": way,
        "groups": " ".join(trial.groups),
        "share": trial.share,
        "validation": trial.mean,
        "accuracy": accuracy.estimate,
        "low": accuracy.low,
        "high": accuracy.high,
        "loss": loss.estimate if loss else 0.0,
        "loss_low": loss.low if loss else 0.0,
        "loss_high": loss.high if loss else 0.0,
    }
    for name, other in against.items():
        found = judge.interval(mine, other)
        row |= {f"over_{name}": found.estimate, f"over_{name}_low": found.low}
        row |= {f"over_{name}_high": found.high}
    names = ("cells", "tiles", "array_reads", "conversions", "analog_pj", "analog_ns", "saved_pj")
    return row | {name: sum(costs[group][name] for group in trial.groups) for name in names}


def _against(name: str, share: float, judge: Any, answers: Any) -> Any:
    from keras_rram.placement import FrontPoint

    return FrontPoint(name, share, judge.interval(answers))


def _draw(table: Any, points: Sequence[Any], folder: pathlib.Path) -> None:
    from keras_rram.evaluation import Interval
    from keras_rram.placement import FrontPoint
    from keras_rram.plots.placement import placement_front

    def point(row: Any) -> Any:
        found = Interval(row.accuracy, row.low, row.high, 0.95, "", "")
        return FrontPoint("all" if row.way == "everything" else row.way, row.share, found)

    single = ("nothing", "everything", "asked for")
    fronts = {
        way: [point(row) for row in part.itertuples()]
        for way, part in table[~table["way"].isin(single)].groupby("way", sort=False)
    }
    more = [point(row) for row in table[table["way"] == "everything"].itertuples()]
    names = {"macs": "multiply-accumulates"}
    placement_front(
        fronts,
        [*more, *points],
        folder / f"place.{FLAGS.figures}",
        unit=names.get(FLAGS.unit, FLAGS.unit),
    )


_SEEN = {
    True: "The model was trained on some of the search's images, which flatter it: train with as "
    "many --validation_images to set them aside.",
    None: "Nothing beside the model says whether it was trained on the search's images.",
}


def _notes(about: Mapping[str, Any]) -> list[str]:
    notes = [
        f"{way}: {count} trials ({about['stopped_early'][way]} given up early), area under the "
        f"front {about['hypervolume'][way]:.4f} on the search's images"
        for way, count in about["trials"].items()
    ]
    for one in about["against"]:
        cells = (one["share"], one["accuracy"]["estimate"])
        share, accuracy = map(report.percent, cells)
        notes.append(f"{one['name']}: {accuracy}% with {share}% of its work on faulty hardware")
    if about["search_images_trained_on"] is not False:
        notes.append(_SEEN[about["search_images_trained_on"]])
    return [*notes, f"Tier {about['tier']}, {about['chips']} chips. Results: {FLAGS.out}/"]


if __name__ == "__main__":
    cli.run(main)
