import csv
import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from scipy import stats

from keras_rram import Chip, StuckAtZero
from keras_rram.data.sources import load
from keras_rram.study import FINDINGS, Run, fluctuation, judge, publish, run_panel
from keras_rram.study.panels import PANELS
from keras_rram.study.published import Published, read
from keras_rram.study.run import _at_scale, _trained, _UnscaledChip
from keras_rram.study.setups import setup


def smoke(panel="S1A", protocol="published", **changes):
    how = setup(PANELS[panel], "smoke", protocol, "strided")
    how = dataclasses.replace(how, train_images=128, images=20, validation_images=20, **changes)
    return Run(PANELS[panel], how, "smoke", protocol, "strided")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return out, run_panel(smoke(), out, verbose=0)


def test_leaves_every_file_and_both_scales(finished):
    out, record = finished
    folder = out / "S1A-strided-published-smoke"
    names = {path.name for path in folder.iterdir()}
    assert {"model.keras", "checkpoint.npz", "history.csv", "chips.csv", "figure.png"} <= names
    assert json.loads((folder / "record.json").read_text()) == json.loads(json.dumps(record))
    assert set(record["populations"]) == {
        "chips",
        "chips_repaired",
        "chips_other_scale",
        "chips_other_scale_repaired",
    }
    rows = list(csv.DictReader((folder / "chips.csv").open()))
    found = [int(row["correct"]) / int(row["images"]) for row in rows[:3]]
    assert np.mean(found) == pytest.approx(record["populations"]["chips"]["mean"])


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    out, record = finished
    monkeypatch.setattr("keras_rram.study.run.load", None)
    assert run_panel(smoke(), out) == json.loads(json.dumps(record))


def test_refuses_a_folder_of_another_version(finished):
    out, _ = finished
    with pytest.raises(ValueError, match="of another version of this run"):
        run_panel(smoke(chips=2), out)


def test_a_run_stopped_within_an_epoch_ends_with_the_same_weights(finished, tmp_path, monkeypatch):
    """The second epoch is cut in its midst, as a kill would, and the training called again."""
    out, record = finished
    whole = keras.saving.load_model(out / record["name"] / "model.keras").get_weights()
    dataset = load("digits").subset(train=128)
    batches = []

    def cut(self, batch, logs=None):
        batches.append(batch)
        if len(batches) == 4:
            raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr("keras_rram.training.on_chips.ChipValidation.on_train_batch_begin", cut)
        with pytest.raises(SystemExit):
            _trained(smoke(), dataset, tmp_path, 0)
    assert not (tmp_path / "model.keras").exists()
    model, history = _trained(smoke(), dataset, tmp_path, 0)
    assert len(batches) == 4 and len(history) == 2
    assert all(np.array_equal(a, b) for a, b in zip(whole, model.get_weights(), strict=True))


def test_the_scale_of_evaluation_is_what_the_arm_says(finished):
    """A chip scales healthy weights by 1 / 0.7 in the consistent arm, and not as published."""
    out, record = finished
    model = keras.saving.load_model(out / record["name"] / "model.keras")
    dataset = load("digits")
    for other, value in ((False, 1.0), (True, 1 / 0.7)):
        arm = _at_scale(smoke(), model, dataset, other)
        with Chip(StuckAtZero(0.3)).program(arm):
            mask = keras.ops.convert_to_numpy(
                arm.get_layer("block1_depthwise").fault_masks["kernel"]
            )
        assert set(np.unique(mask)) == {np.float32(0), np.float32(value)}
        assert all(
            np.array_equal(a, b)
            for a, b in zip(arm.trainable_weights, model.trainable_weights, strict=True)
        )
    with _UnscaledChip(StuckAtZero(0.3)).program(model):
        mask = model.get_layer("block1_depthwise").fault_masks["kernel"]
        assert set(np.unique(keras.ops.convert_to_numpy(mask))) == {0.0, 1.0}


def test_fluctuation_finds_the_sources_it_is_given():
    rng = np.random.default_rng(0)
    epochs, chips = rng.normal(0, 0.03, 400), rng.normal(0, 0.05, 200)
    noise = rng.normal(0, 0.01, (400, 200))
    history = [
        {
            f"val_chip_{chip}_accuracy": 0.8 + e + chips[chip] + noise[row, chip]
            for chip in range(200)
        }
        for row, e in enumerate(epochs)
    ]
    found = fluctuation(history)
    assert found["epoch"] == pytest.approx(0.03, rel=0.1)
    assert found["chip"] == pytest.approx(0.05, rel=0.1)
    assert found["epoch:chip"] == pytest.approx(0.01, rel=0.02)
    assert fluctuation(history[:1]) is None
    assert fluctuation([{"val_chip_0_accuracy": 0.5}] * 8) is None


def published(panel, accuracies, images=1_000, epochs=20):
    record = {
        "panel": panel,
        "network": "strided",
        "protocol": "text",
        "scale": "short",
        "seed": 0,
        "test_images": images,
        "epochs": epochs,
    }
    return Published(record, {}, {"chips": np.array(accuracies)})


def test_findings_are_judged_by_scipys_intervals():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.96, 0.02, 50), rng.normal(0.93, 0.04, 60)
    runs = [published("2C", a), published("2B", b), published("2A", [0.985])]
    verdicts = {verdict.finding.panel: verdict for verdict in judge(runs)}
    assert set(verdicts) == {"2A", "2C"}
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = verdicts["2C"].interval
    assert (found.low, found.high) == pytest.approx((welch.low, welch.high))
    assert verdicts["2C"].verdict == "confirmed"
    wilson = stats.binomtest(985, 1_000).proportion_ci(method="wilson")
    assert verdicts["2A"].interval.low == pytest.approx(wilson.low)
    assert verdicts["2A"].verdict == "open"


@pytest.mark.parametrize(
    ("mean", "verdict"), [(0.6, "confirmed"), (0.95, "refuted"), (0.8, "open")]
)
def test_a_bound_from_above(mean, verdict):
    accuracies = mean + 0.02 * np.array([-1, 1, -1, 1, 0.5, -0.5])
    (found,) = judge([published("S1A", accuracies)])
    assert found.verdict == verdict


def test_a_difference_says_when_the_runs_were_trained_for_different_times():
    runs = [published("2C", [0.96, 0.97]), published("2B", [0.93, 0.94], epochs=5)]
    assert [verdict.caveat for verdict in judge(runs)] == ["20 epochs against 5"]
    assert [verdict.caveat for verdict in judge([runs[0], published("2B", [0.9, 0.8])])] == [""]


def test_every_finding_names_panels():
    named = {one.panel for one in FINDINGS} | {one.other for one in FINDINGS if one.other}
    assert named <= set(PANELS)


def test_publishes_a_page_with_a_row_for_each_population(finished, tmp_path):
    out, record = finished
    text = publish(out, tmp_path).read_text()
    assert text.count("| S1A | 2 bottlenecks, 30% drop |") == 2
    assert "![Four populations of each panel](reproduction/collapse.png)" in text
    assert (tmp_path / "reproduction" / "collapse.png").stat().st_size > 5_000
    assert "## Still to run" in text and "| 4A |" in text
    folder = tmp_path / "reproduction" / record["name"]
    assert {path.name for path in folder.iterdir()} == {"record.json", "history.csv", "chips.csv"}
    again = publish(tmp_path / "missing", tmp_path)
    assert again.read_text() == text
    (run,) = read(tmp_path / "reproduction")
    assert run.panel is PANELS["S1A"] and len(run.chips["chips"]) == 3


def test_nothing_to_publish_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="Expected finished runs"):
        publish(tmp_path / "runs", tmp_path / "docs")
    assert not (tmp_path / "docs" / "reproduction.md").exists()
    shutil.rmtree(tmp_path / "docs")
