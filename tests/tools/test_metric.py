"""Own tasks by the command line: regression, binary and multi-label models, and own measures."""

import json
import re

import keras
import numpy as np
import pytest
from absl import flags

from keras_rram import Chip, StuckAtZero, to_drop_connect
from keras_rram.export import LiteRTModel
from tests.run_tools import load_tool, run_in_turn, run_main

RATE, CHIPS, SEED = 0.2, 6, 3


def distance(outputs, labels):
    """How far off an answer is: a measure as a user writes one."""
    return np.abs(outputs[:, 0] - labels)


distance.higher_is_better = False


def save(folder, name, units, activation, labels):
    keras.utils.set_random_seed(units)
    parts = [
        keras.Input((6,)),
        # Names are part of a chip, and automatic ones depend on the tests before.
        keras.layers.Dense(8, "tanh", name="hidden"),
        keras.layers.Dense(units, activation, name="out"),
    ]
    keras.Sequential(parts).save(folder / f"{name}.keras")
    x = np.random.default_rng(1).normal(size=(120, 6)).astype("float32")
    np.savez(folder / f"{name}.npz", x_train=x[:60], y_train=labels[:60], x_test=x[60:],
             y_test=labels[60:])  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Folder of a regression, a binary and a multi-label model with their data."""
    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    save(folder, "price", 1, None, rng.normal(size=120))
    save(folder, "binary", 1, "sigmoid", rng.integers(0, 2, 120))
    save(folder, "tags", 3, "sigmoid", rng.integers(0, 2, (120, 3)))
    return folder


def flags_for(folder, name):
    return [f"--model={folder}/{name}.keras", "--convert", f"--data={folder}/{name}.npz"]


def evaluate(folder, name, out, *more):
    chips = [f"--fault_rates={RATE}", f"--chips={CHIPS}", f"--seed={SEED}"]
    return ["evaluate", *flags_for(folder, name), *chips, "--engine=keras", f"--out={out}", *more]


def outputs_of(folder, name):
    """Outputs of each chip and the labels, by the user's own loop: the oracle."""
    model = to_drop_connect(keras.models.load_model(folder / f"{name}.keras"), 0.0)
    data, found = np.load(folder / f"{name}.npz"), []
    for index in range(CHIPS):
        with Chip(StuckAtZero(RATE), SEED, index).program(model):
            found.append(model.predict(data["x_test"], verbose=0))
    return np.array(found), data["y_test"]


def summary_of(out):
    return json.loads((out / "results.json").read_text())["summary"][0]


def test_a_regression_is_scored_compared_merged_and_reported(own, tmp_path, capsys):
    outputs, labels = outputs_of(own, "price")
    scores = ((outputs[..., 0] - labels) ** 2).mean(1)
    limit = float(np.sort(scores)[2:4].mean())
    run_main(*evaluate(own, "price", tmp_path / "a", "--metric=mse", "--report",
                       f"--yield_at={limit}"))  # fmt: skip
    printed = capsys.readouterr()
    held = summary_of(tmp_path / "a")
    assert held["measure"] == "mean_squared_error" and "WARNING" not in printed.err
    assert held["mean"] == pytest.approx(scores.mean(), rel=1e-4)
    assert held["worst"] == pytest.approx(scores.max(), rel=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "a/chips.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([line["score"] for line in lines], scores, rtol=1e-4)
    assert all(line["correct"] is None for line in lines)
    assert f"{scores.mean():.4g}" in printed.out and f"yield at {limit:.4g}" in printed.out
    assert "all else mean_squared_error" in printed.out
    page = (tmp_path / "a" / "report.html").read_text()
    assert f"the mean mean_squared_error of 6 chips is {scores.mean():.4g}" in page
    assert f"reach {limit:.4g} (yield" in page and "--metric=mse" in page

    two = evaluate(own, "price", tmp_path / "two", "--metric=mse", "--chips=3", "--first_chip=3")
    one = evaluate(own, "price", tmp_path / "one", "--metric=mse", "--chips=3")
    parts = f"--runs={tmp_path}/one,{tmp_path}/two"
    pair = f"--runs={tmp_path}/a,{tmp_path}/far"
    *fine, mixed, other, again, stopped, twice = run_in_turn(
        one, two, ["merge", parts, f"--out={tmp_path}/both"],
        evaluate(own, "price", tmp_path / "far", f"--metric={__name__}:distance"),
        ["compare", pair, f"--out={tmp_path}/c"],
        evaluate(own, "price", tmp_path / "a", "--metric=mae", "--resume"),
        evaluate(own, "price", tmp_path / "a", "--metric=mse", "--resume"),
        evaluate(own, "price", tmp_path / "s", "--metric=mse", "--target_half_width=0.1"),
        ["variance", pair, f"--out={tmp_path}/v"],
    )  # fmt: skip
    assert not any(fine) and again == "", (fine, again)
    assert "other ['measure']" in mixed and "other ['measure']" in twice
    assert "What differs is measure" in other and "mean_absolute_error" in other
    assert "--target_half_width" in stopped
    merged, whole = summary_of(tmp_path / "both"), summary_of(tmp_path / "a")
    assert [merged[key] for key in ("mean", "low", "high", "worst", "chips")] == [
        whole[key] for key in ("mean", "low", "high", "worst", "chips")
    ]
    found = summary_of(tmp_path / "far")
    distances = np.abs(outputs[..., 0] - labels).mean(1)
    assert found["mean"] == pytest.approx(distances.mean(), rel=1e-4)
    assert found["worst"] == pytest.approx(distances.max(), rel=1e-4)  # lower is better


def test_two_regressions_are_compared_in_their_own_unit(own, tmp_path, capsys):
    outputs, labels = outputs_of(own, "price")
    other = keras.models.load_model(own / "price.keras")
    other.layers[-1].kernel.assign(other.layers[-1].kernel * 3.0)
    other.save(tmp_path / "price.keras")
    (tmp_path / "price.npz").write_bytes((own / "price.npz").read_bytes())
    metric = "--metric=mse"
    runs = f"--runs={tmp_path}/a,{tmp_path}/b"
    assert not any(run_in_turn(
        evaluate(own, "price", tmp_path / "a", metric),
        evaluate(tmp_path, "price", tmp_path / "b", metric),
        ["compare", runs, f"--out={tmp_path}/c", "--labels=one,three"],
        ["variance", runs, f"--out={tmp_path}/v"],
    ))  # fmt: skip
    worse, _ = outputs_of(tmp_path, "price")
    first, second = (((each[..., 0] - labels) ** 2).mean(1) for each in (outputs, worse))
    found = json.loads((tmp_path / "c/comparison.json").read_text())["comparisons"][0]
    np.testing.assert_allclose(found["differences"], first - second, rtol=1e-3, atol=1e-4)
    assert found["wins"] == np.mean(first < second) > 0.5
    printed = capsys.readouterr().out
    assert f"{np.mean(first - second):+.4g}" in printed
    assert f"{100 * found['wins']:.0f}% of chips" in printed and "Of one score." in printed
    tool = load_tool("report_page")
    tool.main(flags.FLAGS(["report_page", f"{tmp_path}/a", f"{tmp_path}/b"]))
    page = (tmp_path / "a" / "report.html").read_text()
    assert f"<td>{first.mean():.4g}</td>" in page and "of chips reach" not in page


def test_binary_and_multi_label_need_no_metric_and_take_one(own, tmp_path, capsys):
    runs = [("binary",), ("tags",), ("binary", "--metric=AUC"), ("tags", "--metric=AUC")]
    outs = [tmp_path / str(number) for number in range(len(runs))]
    errors = run_in_turn(
        *(evaluate(own, name, out, *more) for (name, *more), out in zip(runs, outs, strict=True)),
        evaluate(own, "price", tmp_path / "none"),
    )
    assert not any(errors[:-1]), errors
    assert "expected metric= (--metric)" in errors[-1]
    found = [summary_of(out) for out in outs]
    assert [row["measure"] for row in found] == ["accuracy", "accuracy", "auc", "auc"]
    warned = capsys.readouterr().err
    assert warned.count("WARNING: without any fault the model is right on") == 2  # untrained
    for (name, *more), row in zip(runs, found, strict=True):
        outputs, labels = outputs_of(own, name)
        labels = labels.reshape(outputs.shape[1:])
        wanted = [np.mean((each > 0.5) == (labels > 0.5)) for each in outputs]
        if more:
            wanted = [_auc(each, labels) for each in outputs]
        assert row["mean"] == pytest.approx(np.mean(wanted), abs=1e-6)
        model = keras.models.load_model(own / f"{name}.keras")
        model.compile(loss="binary_crossentropy", metrics=["auc" if more else "binary_accuracy"])
        x = np.load(own / f"{name}.npz")["x_test"]
        assert row["fault_free"] == pytest.approx(model.evaluate(x, labels, verbose=0)[1], abs=1e-6)


def _auc(outputs, labels):
    metric = keras.metrics.AUC()
    metric.update_state(labels, outputs)
    return float(metric.result())


def test_chips_are_kept_by_their_score(own, tmp_path, capsys):
    outputs, labels = outputs_of(own, "price")
    scores = ((outputs[..., 0] - labels) ** 2).mean(1)
    limit = float(np.sort(scores)[3:5].mean())
    model = to_drop_connect(keras.models.load_model(own / "price.keras"), 0.0)
    for index in range(CHIPS):
        Chip(StuckAtZero(RATE), SEED, index).save(tmp_path / f"die{index}.npz", model)
    run_main("evaluate", *flags_for(own, "price"), f"--chip={tmp_path}/die*.npz", "--metric=mse",
             f"--keep_above={limit}", "--engine=keras", f"--out={tmp_path}/out")  # fmt: skip
    printed = capsys.readouterr().out
    assert f"Yield: 4 of 6 chips have {limit:.6g} or less" in printed
    for index in np.flatnonzero(scores > limit):
        said = re.search(rf"reject {index}: mean_squared_error (.*) is above {limit:.6g}", printed)
        assert float(said[1]) == pytest.approx(scores[index], rel=1e-4)


def test_files_of_own_tasks_are_verified_by_their_own_answers(own, tmp_path, capsys):
    # A regression has no classes: of one output all would be the same.
    names = ("price", "binary", "tags")
    few = [f"--fault_rate={RATE}", "--chips=1", f"--seed={SEED}", "--calibration_images=60"]
    errors = run_in_turn(
        *(
            ["export_tflite", *flags_for(own, name), *few, f"--out={tmp_path}/{name}"]
            for name in names
        ),
    )
    assert not any(errors), errors
    assert capsys.readouterr().out.count("Keras's answer on") == 3
    for name in names:
        path = tmp_path / name / f"chip_{SEED}_00000.tflite"
        held = json.loads(path.with_suffix(".tflite.json").read_text())["verification"]
        (outputs, *_), labels = outputs_of(own, name)
        found = LiteRTModel(path.read_bytes()).predict(np.load(own / f"{name}.npz")["x_test"])
        if name == "price":
            same = np.abs(found - outputs) <= 0.05 * np.ptp(outputs)
            assert held["accuracy"] is None and held["keras_accuracy"] is None
        else:
            same = (found > 0.5) == (outputs > 0.5)
            right = (found > 0.5) == labels.reshape(outputs.shape)
            assert held["accuracy"] == pytest.approx(right.mean())
        assert held["agreement"] == pytest.approx(same.mean(), abs=1e-6) and held["agreement"] > 0.9
