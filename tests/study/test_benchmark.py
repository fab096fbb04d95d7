"""The benchmark: fixed chips, equal digits when scored twice, one page for all entries."""

import dataclasses
import hashlib
import json

import keras
import numpy as np
import pytest

from keras_rram import Chip, data, models
from keras_rram.repair.batch_norm import BatchNormRecalibration
from keras_rram.study import TASKS, population_sha256, publish_benchmark, score
from tests.classifiers import keras_accuracy
from tests.run_tools import run_in_turn

SMALL = dataclasses.replace(TASKS["mnist-30"], dataset="digits", images=40, chips=3)
NETWORK = {"bottlenecks": 1, "expansion": 1}


def network(seed, **options):
    keras.utils.set_random_seed(seed)
    return models.mini_mobilenet(**{**NETWORK, **options}, drop_connect=0.1)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture
def task(monkeypatch):
    small = dataclasses.replace(SMALL, options=NETWORK)
    monkeypatch.setitem(TASKS, "mnist-30", small)
    return small


def test_there_are_six_tasks_of_zeros_and_two_of_pairs():
    assert len(TASKS) == 8
    assert {task.chips for task in TASKS.values()} == {100}
    assert {task.seed for task in TASKS.values()} == {0}
    assert [TASKS[name].fault_model.rate for name in ("mnist-10", "cifar10-30")] == [0.1, 0.3]
    assert TASKS["mnist-pairs"].fault_model.rate == pytest.approx(0.1079)


def test_the_hash_is_that_of_the_masks_whatever_the_weights(task):
    digest = hashlib.sha256()
    model = task.reference()
    for index in range(3):
        with Chip(task.fault_model, 0, index).program(model):
            names = sorted(layer.name for layer in model.layers if hasattr(layer, "fault_masks"))
            for name in names:
                masks = model.get_layer(name).fault_masks
                for slot, mask in masks.items():
                    digest.update(f"{name}/{slot}".encode())
                    digest.update(keras.ops.convert_to_numpy(mask).tobytes())
    assert population_sha256(task) == digest.hexdigest()
    assert population_sha256(task, network(1)) == population_sha256(task, network(2))
    other = dataclasses.replace(task, seed=1)
    assert population_sha256(other) != population_sha256(task)


def test_an_entry_has_the_same_digits_twice_and_a_row(task, digits, tmp_path):
    images, labels = digits.arrays("test", 40)
    model = network(1)
    options = {"provenance": {"command": "as typed", "commit": "abc"}}
    first = score(task, model, images, labels, "My method", out=tmp_path / "a", **options)
    again = score(task, model, images, labels, "My method", out=tmp_path / "b", **options)
    assert first == again
    assert first["on_reference_network"] and first["access_tier"] == "A"
    # The mean by hand.
    right = []
    for index in range(3):
        with Chip(task.fault_model, 0, index).program(model):
            right.append(model.predict(images, verbose=0).argmax(1) == labels)
    assert first["figures"]["mean"] == pytest.approx(np.mean(right))
    repair = BatchNormRecalibration(digits.arrays("train", 64)[0])
    score(task, model, images, labels, "My method, repaired", repair, out=tmp_path / "a")
    score(task, network(1, bottlenecks=2), images, labels, "Larger", out=tmp_path / "a")
    page = publish_benchmark(tmp_path / "a", tmp_path / "docs").read_text()
    rows = [line for line in page.splitlines() if line.startswith(("| A", "| B"))]
    assert len(rows) == 3 and [row[2] for row in rows] == ["A", "A", "B"]
    assert "| Larger (own network) |" in page and "| My method |" in page
    mean = f"{100 * first['figures']['mean']:.2f}"
    assert mean in next(row for row in rows if "My method |" in row)
    kept = tmp_path / "docs" / "benchmark" / "mnist-30" / "my_method.json"
    assert json.loads(kept.read_text()) == json.loads(json.dumps(first))
    # From what is published alone: the same page.
    assert publish_benchmark(tmp_path / "none", tmp_path / "docs").read_text() == page
    # What is published of the version before is read; what was changed since is refused.
    digest, schema = first["digest"], first["schema"]
    before = {**first, "schema": "keras_rram.benchmark/1"}
    kept.write_text(json.dumps({key: value for key, value in before.items() if key != "digest"}))
    assert publish_benchmark(tmp_path / "none", tmp_path / "docs").read_text() == page
    for changed in (
        {**first, "chips": 4},
        {**first, "access_tier": "D", "digest": digest},
        {**first, "schema": schema.replace("/2", "/3")},
        {"schema": schema, "digest": digest},
    ):
        kept.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match="my_method.json' is .*Score the model again"):
            publish_benchmark(tmp_path / "none", tmp_path / "docs")


def test_refuses_other_images_and_nameless_methods(task, digits):
    images, labels = digits.arrays("test", 30)
    with pytest.raises(ValueError, match="scored on 40 test images. Received: 30"):
        score(task, network(1), images, labels, "mine")
    images, labels = digits.arrays("test", 40)
    with pytest.raises(ValueError, match="expected a name of the method"):
        score(task, network(1), images, labels, "!!")


def test_refuses_a_page_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="Expected finished entries"):
        publish_benchmark(tmp_path, tmp_path)


def test_the_tool_scores_and_publishes(task, digits, tmp_path, capsys):
    network(1).save(tmp_path / "mine.keras")
    entry = ("--benchmark=mnist-30", f"--model={tmp_path / 'mine.keras'}", f"--out={tmp_path}")
    assert run_in_turn(
        ("reproduce", "--benchmark=mnist-31", "--entry=mine"),
        ("reproduce", *entry),
        ("reproduce", *entry, "--entry=mine", "--panel=2A"),
        ("reproduce", "--panel=2A", "--entry=mine"),
        ("reproduce", *entry, "--entry=mine", f"--publish={tmp_path / 'docs'}"),
    ) == [
        f"--benchmark must be of {list(TASKS)}, or all. Received: 'mnist-31'",
        "--entry is missing: name the method, as its row shall.",
        "--panel and --benchmark exclude each other.",
        "--entry goes with --benchmark.",
        "",
    ]
    assert "mnist-30, tier A: " in capsys.readouterr().out
    assert "| mine |" in (tmp_path / "docs" / "benchmark.md").read_text()
    record = json.loads((tmp_path / "docs" / "benchmark" / "mnist-30" / "mine.json").read_text())
    healthy = keras_accuracy(tmp_path / "mine.keras", *digits.arrays("test", 40))
    assert record["figures"]["fault_free"] == healthy
