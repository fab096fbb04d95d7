r"""Searches networks: each convolution of a ResNet20 kept, replaced or widened, exact or faulty.

Twenty networks, each trained for two epochs on 5,000 images and judged on eight chips:

  python -m tools.search_networks --data=cifar10 --data_dir=DIR --fault_rate=0.2 --trials=20 \
      --train_images=5000 --epochs=2 --out=runs/networks

Every one of the 18 convolutions is `exact`; or on faulty hardware as it is (`faulty`), as a linear
bottleneck (`bottleneck`), or, if it is the first of its block, with twice the filters (`wide`). The
short training is a proxy for a full one. Two epochs on 5,000 images rank networks wrongly, a
quarter of a full training does not (docs/placement.md, `tools.rank_agreement`): give --train_images
and --epochs for what you want to know, and train the best in full before you believe the order.
Training drops the faulty layers at --fault_rate. The search looks at training images that are set
aside and at chips of the stream "validation", as `tools.place` does, and the folder `--out` gets
`study.db`, an Optuna study of two objectives (accuracy, share of multiply-accumulates on faulty
hardware), which `--resume` goes on with and several processes may share, each of which waits for
the last networks of the others; then `networks.csv` and `networks.json`, a row for each network,
with the 95% interval over chips on the search's images, and `networks.png`.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from . import cli, fault_flags, inputs, number_flags, report, resnet_choices, short_trainings

FLAGS = flags.FLAGS

inputs.define_source(default="cifar10")
fault_flags.define(otherwise="0.2")
number_flags.define_whole(
    "seed", 0, "Seed of proposals, weights, masks and chips.", number_flags.SEEDS
)
number_flags.define_whole("trials", 20, "Networks.", "[1, 1e9]")
resnet_choices.define()
short_trainings.define()
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("resume", False, "Go on with the study in --out, or join those who work on it.")

PLANNED = ("nothing", "all", "4C", "4D")
"""Names of `plan`, networks to begin with."""


def main(argv: Sequence[str]) -> None:
    """Searches as the flags say and writes a row for each network."""
    del argv
    from keras_rram.faults import spec
    from keras_rram.placement import Study, TrainedTrials, pareto

    recipe, fault_model, whole, dataset = resnet_choices.task()
    folder = cli.output_folder(FLAGS.out, FLAGS.resume, is_shared=True)
    fingerprint = {
        "data": whole.fingerprint,
        "fault_model": spec(fault_model),
        "recipe": recipe.fingerprint() | {"epochs": recipe.epochs},
        **{
            name: getattr(FLAGS, name)
            for name in (
                "seed", "width", "train_images", "validation_images", "calibration_images",
                "search_chips",
            )
        },
    }  # fmt: skip

    def train(chosen: Mapping[str, str]) -> tuple[float, list[float]]:
        share, accuracies = judge(chosen, dataset, recipe, fault_model)
        mean = sum(accuracies) / len(accuracies)
        print(
            f"{named(chosen)}: {100 * mean:.1f}%, {100 * share:.0f}% of the work on faulty "
            "hardware",
            flush=True,
        )
        return share, accuracies

    trials = TrainedTrials(resnet_choices.choices(), train)
    study = Study(folder / "study.db", "optuna", fingerprint, FLAGS.seed)
    found = study.run(trials, plan(), FLAGS.trials, wait=True)
    front = {one.groups for one in pareto(found)}
    rows = []
    for one in found:
        chosen = dict(text.split("=") for text in one.groups)
        interval = over_chips(one.accuracies)
        rows.append(
            {
                "network": named(chosen),
                "share": one.share,
                "mean": one.mean,
                "low": interval.low,
                "high": interval.high,
                "worst": min(one.accuracies),
                "front": one.groups in front,
                **chosen,
            }
        )
    table = report.table(rows)
    with cli.writing(folder):
        report.write_rows(folder / "networks.csv", table, **fingerprint)
        draw(table, folder / "networks.png")
    shares = ["share", "mean", "low", "high", "worst"]
    shown = table[table["front"]].sort_values("share")[[*shares, "network"]]
    report.show(report.in_percent(shown, shares), [f"Results: {FLAGS.out}/"])


def named(chosen: Mapping[str, str]) -> str:
    """Returns a network in a few words: a name of the first ones, or what is not exact."""
    planned = dict(zip(PLANNED, plan(), strict=True))
    for name, one in planned.items():
        if one == dict(chosen):
            return name
    kinds = dict.fromkeys(kind for kind in chosen.values() if kind != "exact")
    return ", ".join(
        " ".join([kind, *(name for name in chosen if chosen[name] == kind)]) for kind in kinds
    )


def over_chips(accuracies: Sequence[float]) -> Any:
    """Returns Student's interval of the mean over chips, on the images of the search."""
    import numpy as np
    from scipy import stats

    from keras_rram.evaluation import Interval

    values = np.asarray(accuracies)
    reach = stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    mean, reach = float(values.mean()), float(reach)
    question = "new chips, these images"
    return Interval(mean, mean - reach, mean + reach, 0.95, question, "t")


def draw(table: Any, path: pathlib.Path) -> None:
    """Draws the front, and all other networks as points."""
    from keras_rram.evaluation import Interval
    from keras_rram.placement import FrontPoint
    from keras_rram.plots import placement_front

    def point(row: Any) -> Any:
        name = row.network if row.network in PLANNED else ""
        return FrontPoint(name, row.share, Interval(row.mean, row.low, row.high, 0.95, "", ""))

    front = [point(row) for row in table[table["front"]].itertuples()]
    others = [point(row) for row in table.itertuples() if not row.front or row.network in PLANNED]
    placement_front({"front of the search": front}, others, path)


def plan() -> list[dict[str, str]]:
    """Returns the networks to begin with: nothing and everything faulty, the study's 4C and 4D."""
    six = (4, 6, 10, 12, 16, 18)
    most = (2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18)
    names = list(resnet_choices.choices())
    first = [dict.fromkeys(names, "exact"), dict.fromkeys(names, "faulty")]
    for numbers in (six, most):
        first.append(
            {
                name: "bottleneck" if number in numbers else "exact"
                for number, name in enumerate(names, 1)
            }
        )
    return first


def judge(
    chosen: Mapping[str, str], dataset: Any, recipe: Any, fault_model: Any
) -> tuple[float, list[float]]:
    """Trains a network, and returns its share on faulty hardware and its chips' accuracies."""
    found = resnet_choices.judge(
        chosen, dataset, recipe, fault_model, FLAGS.seed, ("placement",), FLAGS.seed
    )
    return found["share"], found["placement"]


if __name__ == "__main__":
    cli.run(main)
