import csv
import json

import keras
import numpy as np
import pytest
from absl import flags

from keras_rram import data, faults, faulty_layers, population
from tests.classifiers import right_answers
from tests.run_tools import load_tool, run_here, run_in_turn, run_main, run_tool

QUICK = ["--train_images=200", "--epochs=2", "--validation_images=100", "--batch_size=50"]
# A constant learning rate, whatever the epochs: what is stopped goes on as if it was not.
QUICK += ["--bottlenecks=1", "--recipe=mnist", "--drop_rate=0.2", "--seed=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    output = run_here("train", *QUICK, f"--out={folder}")
    return folder, output


@pytest.mark.slow
def test_writes_all_results_and_says_where(trained):
    folder, output = trained
    assert f"Results: {folder}" in output
    assert {path.name for path in folder.iterdir()} == {
        "model.keras",
        "config.json",
        "history.csv",
        "history.png",
        "checkpoint.npz",
        "logs",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["drop_connect"] == {"rate": 0.2, "rescale": False, "seed": 3, "masks": 8}
    assert config["command"].startswith("python -m tools.train --train_images=200")
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert 0 <= float(rows[-1]["val_chip_accuracy"]) <= 1
    assert len(faulty_layers(keras.models.load_model(folder / "model.keras"))) == 3


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(trained, tmp_path):
    straight, stopped = trained[0], tmp_path / "stopped"
    run_here("train", *QUICK, "--epochs=1", f"--out={stopped}")
    run_tool("train", *QUICK, "--resume", f"--out={stopped}")  # in another process
    models = [keras.models.load_model(path / "model.keras") for path in (straight, stopped)]
    for ours, theirs in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


@pytest.mark.slow
def test_follows_chips_of_another_fault_model_and_keeps_to_it(tmp_path, capsys):
    quick = ["--train_images=60", "--validation_images=30", "--batch_size=30", "--bottlenecks=1"]
    quick.append("--recipe=mnist")  # a constant learning rate, whatever the epochs
    pairs = "differential_pair:stuck_off=0.09,stuck_on=0.01"
    run_main("train", *quick, "--epochs=1", f"--fault_model={pairs}", f"--out={tmp_path}/run")
    assert "Accuracy on 1 chip(s), differential_pair, 10% faulty" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["fault_model"], config["fault_rate"]) == (pairs, 0.1)
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    # Training images that were set aside, never test images.
    images, labels = data.load("digits").split(30).subset(train=60).arrays("validation")
    (chip,) = population(faults.parse(pairs), 1, stream="validation")
    with (tmp_path / "run" / "history.csv").open() as file:
        (row,) = csv.DictReader(file)
    expected = right_answers(model, chip, images, labels).mean()
    assert float(row["val_chip_accuracy"]) == pytest.approx(expected, abs=1 / 30 + 1e-6)
    again = [*quick, "--epochs=2", "--resume", f"--out={tmp_path}/run"]
    with pytest.raises(ValueError, match="--resume: the chips.*must not mix two"):
        run_main("train", *again, "--fault_model=row_faults")
    run_main("train", *again, f"--fault_model={pairs}")


@pytest.mark.slow
def test_the_record_beside_the_model_says_what_it_was_trained_on(trained):
    config = json.loads((trained[0] / "config.json").read_text())
    digits = data.load("digits")
    assert config["data"]["source"] == "digits"
    assert config["data"]["fingerprint"] == digits.fingerprint
    assert config["data"]["normalization"] == json.loads(
        json.dumps(digits.normalization.describe())
    )
    assert (config["train_images"], config["validation_images"]) == (200, 100)
    training = load_tool("evaluate").inputs.Training.beside(trained[0] / "model.keras")
    assert (training.data, training.fingerprint) == ("digits", digits.fingerprint)
    assert training.normalization == {"name": "mnist", "mean": [0.1307], "std": [0.3081],
                                      "scale": 255.0}  # fmt: skip
    assert (training.seed, training.drop_rate, training.scope) == (3, 0.2, ("blocks",))


@pytest.mark.slow
def test_own_images_are_standardized_as_recorded_and_series_are_refused(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 12, 12), np.uint8)
    arrays = {"y_train": np.arange(40) % 4, "y_test": np.arange(20) % 4}
    np.savez(tmp_path / "own.npz", x_train=images[:40], x_test=images[40:], **arrays)
    series = {"x_train": images[:40, 0] / 255, "x_test": images[40:, 0] / 255}
    np.savez(tmp_path / "series.npz", **series, **arrays)
    quick = ["--epochs=1", "--batch_size=16", "--bottlenecks=1"]
    fine, refused = run_in_turn(
        ["train", *quick, f"--data={tmp_path}/own.npz", f"--out={tmp_path}/run"],
        ["train", *quick, f"--data={tmp_path}/series.npz", f"--out={tmp_path}/other"],
    )
    assert not fine and "expected images (n, height, width, channels) and classes" in refused
    out = capsys.readouterr().out
    assert "Data: own, 4 validation samples of shape (12, 12, 1), float32 from -" in out
    assert "(normalization: standard)" in out
    held = json.loads((tmp_path / "run" / "config.json").read_text())["data"]["normalization"]
    assert held["mean"] == [pytest.approx((images[:40] / 255).mean())] and held["scale"] == 255
    # Another tool feeds what the training was fed with.
    evaluated = ["evaluate", f"--model={tmp_path}/run/model.keras", "--chips=2"]
    assert run_in_turn([*evaluated, f"--out={tmp_path}/chips"]) == [""]
    line = capsys.readouterr().out
    assert "Data: own, 20 test samples" in line and "(normalization: standard)" in line


@pytest.mark.slow
def test_noise_in_each_step_and_fresh_chips_take_part(tmp_path):
    """Each changes the weights that come out, and a run with them goes on exactly."""
    quick = ["--train_images=60", "--validation_images=30", "--batch_size=30", "--bottlenecks=1"]
    quick += ["--recipe=mnist", "--drop_rate=0", "--fault_rate=0.1"]
    cases = {
        "plain": [],
        "noise": ["--noise=0.3"],
        "cells": ["--noise=lognormal_variation:sigma=0.5"],
        "chips": ["--fresh_chips=row_faults:rate=0.3", "--fresh_every=2"],
    }
    found = {}
    for name, arguments in cases.items():
        run = ["train", *quick, *arguments, f"--out={tmp_path}/{name}"]
        assert not any(run_in_turn([*run, "--epochs=2"])), name
        model = keras.models.load_model(tmp_path / name / "model.keras")
        found[name] = np.concatenate([np.ravel(weights) for weights in model.get_weights()])
    distances = [np.abs(found[name] - found["plain"]).max() for name in list(cases)[1:]]
    assert min(distances) > 1e-3
    run = ["train", *quick, *cases["chips"], f"--out={tmp_path}/stopped"]
    other = ["--fresh_chips=row_faults:rate=0.2", "--epochs=2", "--resume"]
    first, mixed, resumed = run_in_turn(
        [*run, "--epochs=1"], [*run, *other], [*run, "--epochs=2", "--resume"]
    )
    assert not first and not resumed and "fresh_chips" in mixed
    model = keras.models.load_model(tmp_path / "stopped" / "model.keras")
    again = np.concatenate([np.ravel(weights) for weights in model.get_weights()])
    np.testing.assert_array_equal(again, found["chips"])
    config = json.loads((tmp_path / "noise" / "config.json").read_text())
    assert config["drop_connect"]["noise"]["config"] == {"sigma": 0.3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--drop_rate=1.0"], r"must be a number in [0, 1)"),
        (["--fault_rate=-0.1"], r"must be a number in [0, 1)"),
        (["--fault_model=row_fault"], "did you mean 'row_faults'"),
        (["--fault_model=row_faults:exact=true"], "has no key 'exact'"),
        (["--noise=-0.1"], "--noise='-0.1'"),
        (["--noise=row_faults:rate=0.1"], "FreshChips"),
        (["--fresh_chips=row_fault"], "--fresh_chips='row_fault': "),
        (["--fresh_every=2"], "--fresh_every goes with --fresh_chips"),
        (["--validation_images=4000"], "must leave some of the 4000 training images"),
        (["--data=nowhere"], "nowhere"),
        (["--batch_size=5000"], "5000"),
        (["--replaced=4"], "belongs to --model=resnet20"),
        (["--scope=nothing"], "scope"),
        (["--recipe=nothing"], "--recipe must be one of"),
        (["--bottlenecks=9"], "must be an integer in [1, 8]"),
        (["--model=resnet20", "--replaced=x"], "--replaced must be integers in [1, 18]"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    folder = tmp_path / "out"
    with pytest.raises((ValueError, TypeError, OSError, flags.Error)) as error:
        run_main("train", f"--out={folder}", *arguments)
    assert message in str(error.value)
    assert not folder.exists()


@pytest.mark.slow
def test_another_training_does_not_change_the_record(trained):
    """Another seed is refused, and what is beside the model is still of the seed it was."""
    folder, _ = trained
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    flags = [*QUICK, "--seed=4", f"--out={folder}", "--resume"]
    (error,) = run_in_turn(["train", *flags])
    assert "checkpoint.npz' is of a" in error
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_the_process_ends_with_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    output = run_here("train", f"--out={tmp_path / 'file'}", "--train_images=100", code=1)
    assert [line for line in output.splitlines() if line.startswith("error:")]
    assert "is a file" in output
    run_tool("train", "--model=nothing", code=1)
    assert "unexpected arguments" in run_here("train", "stray", code=1)


@pytest.mark.slow
def test_what_makes_a_model_robust_is_a_flag(tmp_path):
    quick = ["--train_images=60", "--validation_images=30", "--batch_size=30", "--bottlenecks=1"]
    robust = ["--normalization=batch", "--centered_inputs", "--statistics_epochs=1", "--epochs=2"]
    robust += ["--gradient_clip=1", "--drop_rates=uniform", "--drop_ramp_epochs=1", "--masks=2"]
    faults = ["--fresh_chips=column_faults:rate=0.1", "--recipe=mnist"]
    run_here("train", *quick, *robust, *faults, f"--out={tmp_path}/run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["normalization"] == "batch" and config["centered_inputs"] is True
    assert config["drop_connect"]["masks"] == 2
    assert config["fresh_chips"] == "column_faults:rate=0.1"
    recipe = {key: config["recipe"][key] for key in ("drop_rates", "statistics_epochs")}
    assert recipe == {"drop_rates": "uniform", "statistics_epochs": 1}
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert np.any(model.get_layer("block1_depthwise_center").moving_mean)
