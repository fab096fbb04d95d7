"""Tools with training in the loop that compare networks, or short trainings with full ones."""

import csv
import json
import pathlib

import numpy as np
import pandas as pd
import pytest
from absl import flags
from scipy import stats

from keras_rram import StuckAtZero, data
from tests.run_tools import load_tool, run_main
from tools import resnet_choices, short_trainings

RECORDS = pathlib.Path(__file__).parents[2] / "docs" / "reproduction"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A data set of two classes that are easily told apart."""
    path, rng, arrays = tmp_path_factory.mktemp("data") / "two.npz", np.random.default_rng(0), {}
    for split, count in (("train", 60), ("test", 20)):
        labels = rng.integers(0, 2, count)
        images = rng.random((count, 8, 8, 3)) + labels[:, None, None, None]
        arrays |= {f"y_{split}": labels, f"x_{split}": images.astype("float32")}
    np.savez(path, **arrays)
    return path


SMALL = ("--epochs=1", "--batch_size=16", "--train_images=32", "--validation_images=20",
         "--search_chips=2", "--calibration_images=16")  # fmt: skip


def test_networks_are_set_against_their_trainings(two, tmp_path, monkeypatch, capsys):
    held = {"a/x": (0.5, 0.6), "a/y": (0.7, 0.6), "b/x": (0.8, 0.9)}
    specs = {"a/x": "c03:bottleneck", "a/y": "c04:faulty", "b/x": "c09:wide"}
    asked = []

    def judge(chosen, dataset, recipe, fault_model, seed, statistics, chips_seed=0):
        assert len(dataset.arrays("validation")[1]) == 20 and fault_model.rate == 0.3
        changed = {name: kind for name, kind in chosen.items() if kind != "exact"}
        (name,) = [n for n, spec in specs.items() if changed == dict([spec.split(":")])]
        asked.append((name, seed))
        mean = held[name][seed - 1]
        return {"share": 0.1, "placement": [mean - 0.1, mean + 0.1], "chip": [mean] * 2}

    monkeypatch.setattr(resnet_choices, "judge", judge)
    given = [f"--data={two}", *SMALL, "--fault_rate=0.3", "--recipe=digits", f"--out={tmp_path}/o"]
    given += [f"--network={name}={spec}" for name, spec in specs.items()]
    run_main("compare_networks", *given)
    assert sorted(asked) == sorted((name, seed) for name in specs for seed in (1, 2))
    run_main("compare_networks", *given, "--resume")
    assert len(asked) == 6  # nothing is trained again
    found = json.loads((tmp_path / "o" / "networks.json").read_text())
    known = stats.f_oneway(*held.values())
    assert found["tests"]["A"]["f"] == pytest.approx(known.statistic)
    assert found["tests"]["B"]["p_value"] == pytest.approx(known.pvalue)
    # By hand: each pair is 0.1 apart, so its variance is 0.005, and so is the pooled one, of 3 df.
    assert found["tests"]["A"]["sd_of_trainings"] == pytest.approx(0.005**0.5)
    table = pd.read_csv(tmp_path / "o" / "networks.csv").query("tier == 'A'").set_index("network")
    assert table.loc["all of x", "mean"] == pytest.approx(0.7)
    assert table.loc["all of a", "trainings"] == 4 and "all of b" not in table.index
    reach = stats.t.ppf(0.975, 3) * 0.005**0.5 / 2**0.5
    assert table.loc["a/x", "high"] - 0.55 == pytest.approx(reach)
    assert "do not differ has p" in capsys.readouterr().out
    with pytest.raises(ValueError, match="What differs is fault_model"):
        run_main("compare_networks", *given, "--resume", "--fault_rate=0.2")


@pytest.mark.parametrize("spec", ["a", "a=c03:deep", "a=c04:wide", "a=c19:faulty", "=c03:faulty"])
def test_networks_that_cannot_be_read(two, tmp_path, spec):
    given = [f"--data={two}", "--network=b=c01:faulty", f"--network={spec}", f"--out={tmp_path}/o"]
    if spec == "a":
        given.pop(1)
    with pytest.raises(ValueError, match="--network: expected"):
        run_main("compare_networks", *given)
    assert not (tmp_path / "o").exists()


def test_a_short_training_is_judged_by_all_statistics(two):
    load_tool("compare_networks")
    flags.FLAGS(["compare", f"--data={two}", "--width=1", *SMALL])
    dataset = short_trainings.dataset(data.load(str(two)))
    recipe = short_trainings.recipe("digits")
    assert (recipe.epochs, recipe.batch_size) == (1, 16)
    chosen = dict.fromkeys(resnet_choices.choices(), "exact")
    found = resnet_choices.judge(
        chosen | {"c18": "faulty"}, dataset, recipe, StuckAtZero(0.2), 1, ("model", "chip")
    )
    assert set(found) == {"share", "model", "chip"} and 0 < found["share"] < 0.2
    for accuracies in (found["model"], found["chip"]):
        assert len(accuracies) == 2 and all(0 <= one <= 1 for one in accuracies)


def test_ranks_of_short_trainings_against_the_records(tmp_path, monkeypatch):
    tool = load_tool("rank_agreement")
    order = {"2B": 0.5, "2C": 0.6, "3A": 0.3, "3B": 0.5, "3C": 0.4}

    def judge(model, dataset, recipe, fault_model, seed, statistics):
        name = f"{fault_model.rate:g} {model.count_params()}"
        asked.append(name)
        mean = order[tool_panels[len(asked) - 1]]
        return {one: [mean - 0.1, mean + 0.1] for one in statistics}

    asked, tool_panels = [], list(order)
    digits = data.load("digits")
    monkeypatch.setattr("keras_rram.data.load", lambda *_: digits)
    monkeypatch.setattr(short_trainings, "judge", judge)
    given = ["--panels=2B,2C,3A,3B,3C", f"--records={RECORDS}", f"--out={tmp_path}/o", *SMALL]
    flags.FLAGS(["ranks", *given])
    tool.main(["ranks"])
    assert len(set(asked)) == 5  # of five networks, each at its rate
    found = json.loads((tmp_path / "o" / "ranks.json").read_text())
    full = {
        panel: json.loads((RECORDS / f"{panel}-strided-text-short/record.json").read_text())
        for panel in order
    }
    agreement = {one["statistics"]: one for one in found["agreement"]}
    for one in map(agreement.get, ("model", "placement", "chip")):
        mean = {name: full[name]["populations"][one["against"]]["mean"] for name in order}
        pairs = [("2B", "2C"), ("3A", "3B"), ("3A", "3C"), ("3B", "3C")]
        signs = [np.sign((order[a] - order[b]) * (mean[a] - mean[b])) for a, b in pairs]
        assert one["pairs"] == 4 and one["tau"] == pytest.approx(np.mean(signs))
    # After five epochs, by the histories: no chip of the first five is left out.
    fifth = {}
    for name in order:
        with (RECORDS / f"{name}-strided-text-short/history.csv").open() as file:
            row = list(csv.DictReader(file))[4]
        fifth[name] = np.mean([float(row[f"val_chip_{chip}_accuracy"]) for chip in range(5)])
    wanted = {name: full[name]["populations"]["chips"]["mean"] for name in order}
    signs = [np.sign((fifth[a] - fifth[b]) * (wanted[a] - wanted[b])) for a, b in pairs]
    assert agreement["epoch 5"]["tau"] == pytest.approx(np.mean(signs))
    run_main("rank_agreement", f"--records={RECORDS}", given[0], "--training_seeds=0",
             f"--out={tmp_path}/q")  # fmt: skip
    alone = json.loads((tmp_path / "q" / "ranks.json").read_text())["agreement"]
    assert [one for one in alone if one["statistics"] == "epoch 5"] == [agreement["epoch 5"]]
    assert len(alone) == 5
    with pytest.raises(ValueError, match="--record_epochs: expected integers"):
        run_main(
            "rank_agreement", f"--records={RECORDS}", "--record_epochs=0", f"--out={tmp_path}/p"
        )
    with pytest.raises(ValueError, match="--panels: expected some of"):
        run_main("rank_agreement", f"--records={RECORDS}", "--panels=9Z", f"--out={tmp_path}/p")
    with pytest.raises(ValueError, match="two fitting records"):
        run_main("rank_agreement", f"--records={tmp_path}", f"--out={tmp_path}/p")
    assert not (tmp_path / "p").exists()
