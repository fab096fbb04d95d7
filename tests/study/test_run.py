import csv
import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero
from keras_rram.data.sources import load
from keras_rram.files.schemas import PANEL
from keras_rram.layers import faulty_layers
from keras_rram.study import FINDINGS, METHODS, Method, Run, fluctuation, publish, run_panel
from keras_rram.study.answers import read_answers
from keras_rram.study.bottlenecks import ALL_PANELS
from keras_rram.study.panels import PANELS
from keras_rram.study.published import FILES, read
from keras_rram.study.run import _at_scale, _trained, _UnscaledChip
from keras_rram.study.setups import build, setup
from keras_rram.training.loop import train


def smoke(panel="S1A", protocol="published", **changes):
    how = setup(PANELS[panel], "smoke", protocol, "strided")
    how = dataclasses.replace(
        how, train_images=128, images=20, validation_images=20, repaired_chips=2, repaired_images=12
    )
    how = dataclasses.replace(how, **changes)
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
    assert "answers.npz" in names
    assert PANEL.read(folder / "record.json") == json.loads(json.dumps(record))
    assert set(record["populations"]) == {
        "chips",
        "chips_repaired",
        "chips_other_scale",
        "chips_other_scale_repaired",
    }
    rows = list(csv.DictReader((folder / "chips.csv").read_text().splitlines()))
    found = [int(row["correct"]) / int(row["images"]) for row in rows[:3]]
    assert np.mean(found) == pytest.approx(record["populations"]["chips"]["mean"])


def test_keeps_each_chips_answer_to_each_image(finished):
    out, record = finished
    folder = out / record["name"]
    kept = read_answers(folder)
    dataset = load("digits")
    own = kept.images["chips_other_scale"]
    assert np.array_equal(own, np.sort(dataset.indices("test", 20)))
    assert set(kept.right) == set(record["populations"])
    assert kept.right["chips"].shape == (3, 20) and kept.right["chips_repaired"].shape == (2, 12)
    assert np.array_equal(kept.images["chips_repaired"], np.sort(dataset.indices("test", 12)))
    for row in csv.DictReader((folder / "chips.csv").read_text().splitlines()):
        answers = kept.right[row["population"]][int(row["chip"])]
        assert (answers.sum(), answers.size) == (int(row["correct"]), int(row["images"]))
    # One answer by hand: the file's images are those of the test split.
    model = keras.saving.load_model(folder / "model.keras")
    images, labels = dataset.arrays("test")
    arm = _at_scale(smoke(), model, dataset, True)
    with Chip(StuckAtZero(0.3)).program(arm):
        found = arm.predict(images[own], verbose=0).argmax(1) == labels[own]
    assert np.array_equal(found, kept.right["chips_other_scale"][0])


def test_refuses_any_run_without_resume(finished):
    out, _ = finished
    with pytest.raises(ValueError, match="no run in .* with resume=False"):
        run_panel(smoke(), out, resume=False)


def test_another_method_trains_and_prepares_in_its_own_way(tmp_path, monkeypatch):
    """A method is one entry: what it does is called, and its run has a folder of its own."""
    seen = []

    def prepare(model, fault_model, seed):
        seen.append((fault_model.rate, seed))
        return model

    def own_recipe(recipe):
        return dataclasses.replace(recipe, learning_rate=0.003)

    def own_train(model, dataset, recipe, *rest, **options):
        assert recipe.learning_rate == 0.003
        return train(model, dataset, dataclasses.replace(recipe, epochs=1), *rest, **options)

    options = {"normalization": "instance"}
    other = Method("another way", own_train, prepare, options, own_recipe)
    monkeypatch.setitem(METHODS, "other", other)
    run = dataclasses.replace(smoke("2B", "text"), method="other", seed=3)
    record = run_panel(run, tmp_path, verbose=0)
    assert record["name"] == "2B-strided-text-smoke-other-seed3"
    assert (record["method"], record["seed"], record["epochs"]) == ("other", 3, 1)
    assert seen == [(0.1, 3)]
    assert record["setup"] == dataclasses.asdict(run.setup)
    assert record["as_trained"] == {
        "recipe": record["setup"]["recipe"] | {"learning_rate": 0.003},
        "options": record["setup"]["options"] | options,
    }
    assert record["populations"]["chips"]["seed"] == 0


def test_the_method_of_several_masks_changes_nothing_but_their_number():
    how = smoke("3A", "published")
    model = build(how.panel, how.setup, "published", seed=2)
    before = {name: each.drop_connect.get_config() for name, each in faulty_layers(model).items()}
    prepared = METHODS["masks"].prepare(model, StuckAtZero(0.2), 2)
    after = {name: each.drop_connect.get_config() for name, each in faulty_layers(prepared).items()}
    assert after == {name: config | {"masks": 8} for name, config in before.items()}
    assert all(config["rescale"] and config["seed"] == 2 for config in before.values())


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    out, record = finished
    monkeypatch.setattr("keras_rram.study.run.load", None)
    assert run_panel(smoke(), out) == json.loads(json.dumps(record))


def test_refuses_a_folder_of_another_version(finished):
    out, _ = finished
    with pytest.raises(ValueError, match="of another version of this run: expected setup"):
        run_panel(smoke(chips=2), out)


def test_refuses_a_folder_whose_method_has_changed_since(finished, monkeypatch):
    """The setup is the panel's, and says nothing of what the method makes of it."""
    out, _ = finished

    def stronger(recipe):
        return dataclasses.replace(recipe, weight_decay=0.1)

    monkeypatch.setitem(METHODS, "study", dataclasses.replace(METHODS["study"], recipe=stronger))
    with pytest.raises(ValueError, match="another version of this run: expected as_trained"):
        run_panel(smoke(), out)


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
    assert fluctuation(history[:3]) is None
    assert fluctuation([{"val_chip_0_accuracy": 0.5}] * 8) is None


def test_every_finding_names_panels():
    named = {one.panel for one in FINDINGS} | {one.other for one in FINDINGS if one.other}
    assert named <= set(ALL_PANELS)


def test_publishes_a_page_with_a_row_for_each_population(finished, tmp_path):
    out, record = finished
    text = publish(out, tmp_path).read_text()
    assert text.count("**S1A** 2 bottlenecks, 30% drop") == 1
    found = [line for line in text.splitlines() if line.startswith(tuple("123456789"))]
    assert len(found) == 10 and found[-1].startswith("10.")
    full = (tmp_path / "reproduction_appendix.md").read_text()
    assert full.count("| S1A | 2 bottlenecks, 30% drop |") == 2
    assert "## Still to run" in full and "| 4A |" in full
    (row, repaired) = csv.DictReader((tmp_path / "reproduction.csv").read_text().splitlines())
    assert float(row["mean"]) == record["populations"]["chips"]["mean"]
    assert (row["tier"], repaired["tier"]) == ("A", "B")
    assert "![Four populations of each panel](reproduction/collapse.svg)" in text
    for name in ("collapse", "overview"):
        for form in ("png", "svg"):
            assert (tmp_path / "reproduction" / f"{name}.{form}").stat().st_size > 5_000
    folder = tmp_path / "reproduction" / record["name"]
    assert {path.name for path in folder.iterdir()} == set(FILES)
    figure = (tmp_path / "reproduction" / "overview.svg").read_bytes()
    again = publish(tmp_path / "missing", tmp_path)
    assert again.read_text() == text
    assert (tmp_path / "reproduction" / "overview.svg").read_bytes() == figure
    (run,) = read(tmp_path / "reproduction")
    assert run.panel is PANELS["S1A"] and len(run.chips["chips"]) == 3


def test_other_records_are_refused(finished, tmp_path):
    out, record = finished
    folder = tmp_path / record["name"]
    folder.mkdir()
    text = (out / record["name"] / "record.json").read_text()
    (folder / "record.json").write_text(text.replace("keras_rram.study/2", "keras_rram.study/0"))
    with pytest.raises(ValueError, match="expected the schema .*Received: 'keras_rram.study/0'"):
        read(tmp_path)


def test_nothing_to_publish_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="Expected finished runs"):
        publish(tmp_path / "runs", tmp_path / "docs")
    assert not (tmp_path / "docs" / "reproduction.md").exists()
    shutil.rmtree(tmp_path / "docs")
