import dataclasses
import json
import sys

import numpy as np
import pandas as pd
import pytest
from absl import flags

import keras_rram
from keras_rram import Chip, StuckAtZero, data
from keras_rram.placement import Bench, random_plan
from keras_rram.training import RECIPES
from tests.classifiers import classifier, keras_accuracy, right_answers
from tests.run_tools import ROOT, beside, load_tool, run_main, wait_until
from tools import resnet_choices

optuna = pytest.importorskip("optuna")

RECORDS = ROOT / "docs" / "reproduction"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    classifier().save(folder / "model.keras")
    config = {"command": "train --data_dir=/here", "commit": "abc", "data": {"source": "digits"}}
    (folder / "config.json").write_text(json.dumps(config | {"validation_images": 300}))
    return folder / "model.keras"


def test_sensitivity(saved, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--fault_rates=0.2,0.4", "--chips=3", "--images_per_chip=0", "--images=150"]
    run_main("sensitivity", f"--model={saved}", *given, "--estimate_images=20", f"--out={out}")
    assert {path.name for path in out.iterdir()} == {
        "sensitivity.csv", "sensitivity.json", "sensitivity.png",
    }  # fmt: skip
    table, held = (
        pd.read_csv(out / "sensitivity.csv"),
        json.loads((out / "sensitivity.json").read_text()),
    )
    assert list(table["group"]) == ["conv", "head"] * 2 and set(table["tier"]) == {"A"}
    model, (x, y) = classifier(), data.load("digits").arrays("test", 150)
    healthy = right_answers(model, None, x, y).mean()
    for row in table.itertuples():
        chips = [Chip(StuckAtZero(row.rate), 0, index) for index in range(3)]
        for chip in chips:  # the other layer is healthy
            other = "head" if row.group == "conv" else "conv"
            whole = chip.faults(model)
            object.__setattr__(
                chip, "measured", {f"{row.group}/kernel": whole[f"{row.group}/kernel"]}
            )
            assert other not in row.layers
        mean = np.mean([right_answers(model, chip, x, y).mean() for chip in chips])
        assert row.alone == pytest.approx(healthy - mean, abs=0.01)
        assert row.alone_low < row.alone < row.alone_high and row.second > 0
        assert row.saved_pj == pytest.approx(row.digital_pj - row.analog_pj)
    assert held["command"].startswith("python -m tools.") and held["training"]["commit"] == "abc"
    assert held["fault_models"] == ["stuck_at_zero:rate=0.2", "stuck_at_zero:rate=0.4"]
    assert "rank_correlations" in held and set(held["results"]) == {
        "tier A, as trained, 20%", "tier A, as trained, 40%",
    }  # fmt: skip
    assert "longest interval" in capsys.readouterr().out


def test_place_selects_and_reports_on_different_images_and_chips(
    saved, tmp_path, monkeypatch, capsys
):
    benches = []
    start = Bench.__init__

    def remember(self, *given, **options):
        start(self, *given, **options)
        benches.append(self)

    monkeypatch.setattr(Bench, "__init__", remember)
    out = tmp_path / "out"
    given = [
        f"--model={saved}", "--fault_rate=0.3", "--trials=3", "--search_chips=4", "--chips=3",
        "--images=120", "--ways=greedy,optuna", "--share=0.4", f"--against=same={saved}",
        f"--out={out}",
    ]  # fmt: skip
    run_main("place", *given)
    search, judge, against = benches
    whole = data.load("digits")
    test = {image.tobytes() for image in whole.arrays("test")[0]}
    seen = {image.tobytes() for image in search.images}
    assert len(seen) == 300 and not seen & test
    assert {image.tobytes() for image in judge.images} <= test
    assert {chip.stream for chip in search.chips} == {"validation"}
    assert {chip.stream for chip in judge.chips} == {"evaluation"}
    # Not by name alone: no chip of one has the faults of one of the other.
    drawn = [
        {chip.faults(classifier())["head/kernel"].mask.tobytes() for chip in bench.chips}
        for bench in (search, judge)
    ]
    assert not drawn[0] & drawn[1]
    assert against.chips == judge.chips
    table, held = pd.read_csv(out / "place.csv"), json.loads((out / "place.json").read_text())
    everything = table[table["way"] == "everything"].iloc[0]
    assert everything["share"] == pytest.approx(1)
    # The other model is the same one, all of it faulty.
    assert everything["over_same"] == 0
    assert held["against"][0]["accuracy"]["estimate"] == pytest.approx(everything["accuracy"])
    nothing = table[table["way"] == "nothing"].iloc[0]
    assert nothing["share"] == nothing["loss"] == nothing["saved_pj"] == 0
    healthy = keras_accuracy(saved, *whole.arrays("test", 120))
    assert nothing["accuracy"] == pytest.approx(healthy, abs=1e-9)
    asked = table[table["way"] == "asked for"].iloc[0]
    assert asked["share"] >= 0.4
    assert held["trials"] == {"greedy": 3, "optuna": 3}
    assert (out / "place.png").stat().st_size > 5000
    # The 300 images that the training set aside, and no more: they are new to the model.
    assert held["search_images_trained_on"] is False
    assert "was trained on" not in capsys.readouterr().out
    # It goes on: nothing is left to search, and a search of something else is refused.
    run_main("place", *given, "--resume", "--search_only")
    with pytest.raises(ValueError, match="What differs is seed"):
        run_main("place", *given, "--resume", "--seed=1")


def test_a_study_is_of_all_that_its_trials_depend_on():
    load_tool("place")
    shared = sys.modules["tools.placement_flags"]
    images = np.zeros((12, 2))

    def found(*arguments):
        flags.FLAGS(["place", "--calibration_images=12", *arguments])
        return shared.fingerprint(flags.FLAGS.statistics, images, flags.FLAGS.unit)

    gathered = {"calibration_images": 12}
    assert found("--statistics=model", "--mapping=single_cell") == {}
    assert found("--statistics=chip", "--gathering_chips=3") == gathered
    gathered |= {"gathering_chips": 3}
    assert found("--statistics=placement", "--gathering_chips=3") == gathered
    for unit in ("cells", "tiles"):
        more = ["--statistics=placement", "--gathering_chips=3", f"--unit={unit}"]
        assert found(*more, "--mapping=single_cell") == gathered | {"mapping": "single_cell"}


def test_a_loss_is_asked_for_of_placements_at_random(saved, tmp_path):
    """None of them is of nothing, which the loss is measured from all the same."""
    out, seed = tmp_path / "out", 4
    assert () not in random_plan(["conv", "head"], 1, seed)
    given = [
        f"--model={saved}", "--fault_rate=0.3", "--trials=1", "--search_chips=4", "--chips=2",
        "--images=60", "--ways=random", f"--seed={seed}", "--unit=cells", f"--out={out}",
    ]  # fmt: skip
    run_main("place", *given, "--most_loss=1", "--mapping=single_cell")
    table = pd.read_csv(out / "place.csv").set_index("way")
    assert table.loc["asked for", "groups"] == table.loc["random", "groups"]
    assert json.loads((out / "place.json").read_text())["trials"] == {"random": 1}
    with pytest.raises(ValueError, match=r"What differs is mapping \(name another"):
        run_main("place", *given, "--resume", "--most_loss=1")


# Holds its first trial in its hands until it is told to go on.
HOLDS = """
import pathlib, sys, time
from keras_rram.placement import Trials
from tests.run_tools import run_main
begun, go_on = map(pathlib.Path, sys.argv[1:3])
take = Trials.take
def hold(self, chosen):
    begun.touch()
    while not go_on.exists():
        time.sleep(0.05)
    return take(self, chosen)
Trials.take = hold
run_main("place", *sys.argv[3:])
"""


@pytest.mark.slow
def test_two_processes_search_one_study(saved, tmp_path, capsys):
    out, begun, go_on = (tmp_path / name for name in ("out", "begun", "go_on"))
    given = [
        f"--model={saved}", "--fault_rate=0.3", "--trials=4", "--search_chips=4", "--chips=3",
        "--images=120", "--ways=random", f"--out={out}",
    ]  # fmt: skip
    with beside(HOLDS, begun, go_on, *given, seconds=240) as first:
        wait_until(first, 240, begun.exists)
        run_main("place", *given, "--resume", "--search_only")
        wanted = int(capsys.readouterr().out.split("random: ")[1].split()[0]) + 1
        assert not (out / "place.csv").exists()
        go_on.touch()
    held = json.loads((out / "place.json").read_text())
    assert held["trials"] == {"random": wanted}
    study = optuna.load_study(study_name="random", storage=f"sqlite:///{out}/study.db")
    assert [one.state.name for one in study.trials] == ["COMPLETE"] * wanted
    assert len({one.user_attrs["worker"] for one in study.trials}) == 2
    assert len(pd.read_csv(out / "place.csv")) == len(held["rows"])


def test_images_of_the_search_that_were_trained_on(saved, tmp_path):
    """The tool's rule against the images themselves, of a split larger and of one smaller."""
    whole, tool = data.load("digits"), load_tool("place")
    trained = {image.tobytes() for image in whole.split(300).arrays("train")[0]}
    flags.FLAGS(["place", f"--model={saved}"])
    for count in (200, 300, 301, 400):
        searched = {image.tobytes() for image in whole.split(count).arrays("validation")[0]}
        assert tool._trained_on(count) == bool(searched & trained)
    record = RECORDS / "2B-strided-text-short" / "record.json"  # the study set nothing aside
    (tmp_path / "record.json").write_bytes(record.read_bytes())
    flags.FLAGS(["place", f"--model={tmp_path}/model.keras"])
    assert tool._trained_on(8) is True
    flags.FLAGS(["place", "--model=nowhere/model.keras"])
    assert tool._trained_on(8) is None


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("sensitivity", ["--statistics=chips"], "--statistics: expected"),
        ("sensitivity", ["--statistics=chip"], "to gather their statistics"),
        ("sensitivity", ["--keep=stemm"], "layers or roles of the model to keep"),
        ("sensitivity", ["--prices=adc=2"], "--prices"),
        ("sensitivity", ["--images_per_chip=400"], "images_per_chip from 2 to 20"),
        ("place", ["--share=0.5", "--most_loss=0.1"], "expected one of them"),
        ("place", ["--ways=grid"], "--ways: expected"),
        ("place", ["--against=nowhere.keras"], "expected NAME=PATH"),
        ("place", ["--points=nowhere.csv"], "nowhere.csv"),
    ],
)
def test_bad_input_leaves_nothing(saved, tmp_path, tool, arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        run_main(tool, f"--model={saved}", f"--out={tmp_path}/out", *arguments)
    assert not (tmp_path / "out").exists()


def test_networks_are_trained_and_judged_as_they_were_chosen(tmp_path, monkeypatch):
    out = tmp_path / "out"
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 60), ("test", 20)):
        labels = rng.integers(0, 2, count)
        images = rng.random((count, 8, 8, 3)) + labels[:, None, None, None]
        arrays |= {f"y_{split}": labels, f"x_{split}": images.astype("float32")}
    np.savez(tmp_path / "two.npz", **arrays)
    tool = load_tool("search_networks")
    given = ["--trials=3", "--width=2", "--epochs=1", "--batch_size=16", "--train_images=32"]
    given += ["--validation_images=20", "--search_chips=2", "--calibration_images=16"]
    flags.FLAGS(["search", f"--data={tmp_path}/two.npz", "--recipe=digits", f"--out={out}", *given])
    chosen = dict.fromkeys(resnet_choices.choices(), "exact")
    chosen |= {"c03": "wide", "c04": "faulty", "c10": "bottleneck"}
    dataset = data.load(f"{tmp_path}/two.npz").split(20)
    model = resnet_choices.network(chosen, dataset, 0.2, 0)
    assert list(keras_rram.faulty_layers(model)) == [
        "c03_conv", "c04_conv", "c10_expand", "c10_depthwise", "c10_project",
    ]  # fmt: skip
    assert model.get_layer("c03_conv").kernel.shape == (3, 3, 2, 4)
    assert model.get_layer("c04_conv").kernel.shape == (3, 3, 4, 2)
    recipe = dataclasses.replace(RECIPES["digits"], epochs=1, batch_size=16)
    trained = []
    monkeypatch.setattr("keras_rram.training.train", lambda *given, **_: trained.append(given))
    share, accuracies = tool.judge(chosen, dataset, recipe, StuckAtZero(0.2))
    ((built, *others),) = trained
    assert others == [dataset, recipe, 0] and built.count_params() == model.count_params()
    table = keras_rram.summary_table(model)
    assert share == pytest.approx(table.faulty_macs / table.macs)
    assert len(accuracies) == 2 and all(0 <= one <= 1 for one in accuracies)

    def judge(chosen, *others):
        faulty = sum(kind != "exact" for kind in chosen.values())
        return faulty / 18, [0.98 - faulty / 20, 1.02 - faulty / 20]

    monkeypatch.setattr(tool, "judge", judge)
    tool.main(["search"])
    table = pd.read_csv(out / "networks.csv")
    assert list(table["share"].round(3)) == [0, 1, round(6 / 18, 3)]
    assert set(table.loc[0, "c01":"c18"]) == {"exact"}
    assert set(table.loc[1, "c01":"c18"]) == {"faulty"}
    assert table.loc[2, "c04"] == "bottleneck"
    assert list(table["network"]) == ["nothing", "all", "4C"] and list(table["front"]) == [True] * 3
    # Student's interval of two values 0.04 apart: t(1) is tan(0.95 pi / 2).
    reach = np.tan(0.95 * np.pi / 2) * 0.02
    assert table.loc[0, "high"] - table.loc[0, "mean"] == pytest.approx(reach)
    assert (out / "networks.png").stat().st_size > 5000
    assert tool.named(dict.fromkeys(chosen, "exact") | {"c05": "wide", "c06": "faulty"}) == (
        "wide c05, faulty c06"
    )
