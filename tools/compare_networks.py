r"""Compares networks of your choice by short trainings: is it the network, or the training's luck?

Whether it matters in which stage a bottleneck is, and in which place of its block:

  python -m tools.compare_networks --data=cifar10 --data_dir=DIR --fault_rate=0.2 \
      --network=stage1/first=c03:bottleneck --network=stage1/second=c04:bottleneck \
      --network=stage2/first=c09:bottleneck --network=stage2/second=c10:bottleneck \
      --training_seeds=2 --out=runs/positions

A network is a name and, for convolutions `c01` to `c18` of a ResNet20, what they are, as in
`tools.search_networks`: `faulty`, `bottleneck` or `wide`; all others are exact. Each is trained
once for each of --training_seeds and judged on the same chips and images, with statistics gathered
for it (access tier A) and recalibrated on each chip (tier B). What the networks differ by is set
against what trainings of one network differ by: intervals are Student's over trainings, with the
spread of all networks' trainings pooled, and the test is a one-way analysis of variance.
Names that share a part (`stage1`, `first`) are averaged over it too. The folder `--out` gets
`trainings/`, a file for each training, from which `--resume` goes on; `networks.csv`, a row for
each network or part, and `networks.json`, with the tests.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from . import cli, fault_flags, inputs, number_flags, report, resnet_choices, short_trainings

FLAGS = flags.FLAGS

flags.DEFINE_multi_string("network", None, "NAME=c03:bottleneck,c04:faulty; repeat the flag.")
number_flags.define_whole("training_seeds", 2, "Trainings of each network.", "[2, 1e9]")
inputs.define_source(default="cifar10")
fault_flags.define(otherwise="0.2")
number_flags.define_whole(
    "seed", 1, "Seed of the first training; the chips have seed 0.", number_flags.SEEDS
)
resnet_choices.define()
short_trainings.define()
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("resume", False, "Go on with the trainings in --out.")

STATISTICS = {"placement": "A", "chip": "B"}


def main(argv: Sequence[str]) -> None:
    """Trains what is missing, and compares."""
    del argv
    cli.check_output_folder()
    from keras_rram.faults import spec

    networks = parsed(FLAGS.network or [])
    recipe, fault_model, whole, dataset = resnet_choices.task()
    folder = cli.output_folder(FLAGS.out, FLAGS.resume)
    about = {
        "data": whole.fingerprint,
        "fault_model": spec(fault_model),
        "recipe": FLAGS.recipe,
        "width": FLAGS.width,
        **{name: getattr(FLAGS, name) for name in short_trainings.HELD},
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in networks}
    for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.training_seeds):
        for name, chosen in networks.items():
            path = folder / "trainings" / f"{name.replace('/', '-')}-seed{seed}.json"
            one = {"network": name, "chosen": chosen, "seed": seed, **about}

            def train(chosen: Mapping[str, str] = chosen, seed: int = seed) -> dict[str, Any]:
                return resnet_choices.judge(
                    chosen, dataset, recipe, fault_model, seed, tuple(STATISTICS)
                )

            found[name].append(short_trainings.held(path, one, train))
            print(f"trained: {name}, seed {seed}", flush=True)
    values = {
        tier: {
            name: [sum(one[key]) / len(one[key]) for one in trained]
            for name, trained in found.items()
        }
        for key, tier in STATISTICS.items()
    }
    rows, tests = [], {}
    for tier, of in values.items():
        tests[tier] = difference(of)
        spread = tests[tier]["sd_of_trainings"]
        rows += [{"tier": tier} | row for row in averages(of, spread, tests[tier]["df"])]
    about |= {"networks": networks, "seed": FLAGS.seed, "training_seeds": FLAGS.training_seeds}
    report.write_rows(folder / "networks", report.table(rows), **about, tests=tests)
    notes = [
        f"Tier {tier}: trainings of one network have an sd of {100 * test['sd_of_trainings']:.2f} "
        f"points; that the networks do not differ has p = {test['p_value']:.3f}."
        for tier, test in tests.items()
    ]
    shown = report.in_percent(report.table(rows), ["mean", "low", "high"])
    report.show(shown, [*notes, f"Results: {FLAGS.out}/"])


def parsed(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns the choices of each network, by its name.

    Raises:
        ValueError: if a text cannot be read, a name comes twice, or there are fewer than two.
    """
    choices, found = resnet_choices.choices(), {}
    for text in texts:
        name, _, given = text.partition("=")
        pairs = dict(part.partition(":")[::2] for part in given.split(",") if part)
        wrong = [f"{one}:{kind}" for one, kind in pairs.items() if kind not in choices.get(one, ())]
        if not name or name in found or wrong:
            raise ValueError(
                "--network: expected NAME=CONVOLUTION:KIND,CONVOLUTION:KIND, each name once, with "
                f"c01 to c18 and {', '.join(choices['c01'])} (wide for odd ones). Received: {text}"
            )
        found[name] = dict.fromkeys(choices, "exact") | pairs
    if len(found) < 2:
        raise ValueError(f"--network: expected two networks or more. Received: {len(found)}")
    return found


def difference(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns the one-way analysis of variance of trainings within networks."""
    import numpy as np
    from scipy import stats

    groups = [np.asarray(one) for one in values.values()]
    df = sum(len(one) - 1 for one in groups)
    within = sum(float(((one - one.mean()) ** 2).sum()) for one in groups) / df
    test = stats.f_oneway(*groups)
    return {
        "sd_of_trainings": within**0.5,
        "df": df,
        "f": float(test.statistic),
        "p_value": float(test.pvalue),
    }


def averages(
    values: Mapping[str, Sequence[float]], spread: float, df: float
) -> list[dict[str, Any]]:
    """Returns the mean of each network, and of all that share a part of their name, with 95%."""
    from scipy import stats

    groups = {name: [name] for name in values}
    parts = dict.fromkeys(part for name in values for part in name.split("/"))
    for part in parts:
        sharing = [name for name in values if part in name.split("/")]
        if 1 < len(sharing) < len(values):
            groups[f"all of {part}"] = sharing
    rows = []
    for name, members in groups.items():
        every = [value for member in members for value in values[member]]
        mean = sum(every) / len(every)
        reach = float(stats.t.ppf(0.975, df)) * spread / len(every) ** 0.5
        rows.append(
            {"network": name, "trainings": len(every), "mean": mean, "low": mean - reach,
             "high": mean + reach}
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    cli.run(main)
