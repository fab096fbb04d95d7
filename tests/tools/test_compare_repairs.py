"""Tests of `tools.compare_repairs`."""

import csv
import json

import keras
import numpy as np
import pytest

from keras_rram import population
from keras_rram.data import load
from keras_rram.faults import StuckAtZero
from keras_rram.models import mini_mobilenet
from keras_rram.repair import recalibrate_batch_norm
from tests.run_tools import run_main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    keras.utils.set_random_seed(0)
    mini_mobilenet(1, drop_connect=0.3, input_shape=(28, 28, 1)).save(path)
    return path


def test_every_row_is_its_chips_repaired_and_a_run_goes_on(saved, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [
        f"--model={saved}", "--images=50", "--chips=2", "--fault_rate=0.3", "--seed=4",
        "--data=digits", "--repairs=batch_norm:images=20", "--repairs=map", f"--out={out}",
    ]  # fmt: skip
    run_main("compare_repairs", *flags)
    names = {"repairs.csv", "repairs.json", "repairs.png", "README.md", "chips"}
    assert {path.name for path in out.iterdir()} == names
    with (out / "repairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["repair"] for row in rows] == ["none", "batch_norm:images=20", "map"]
    assert [row["access_tier"] for row in rows] == ["A", "B", "C"]
    # The oracle: Keras, a chip and its repair by hand. An untrained network has near ties.
    model, dataset = keras.saving.load_model(saved), load("digits")
    images, labels = dataset.arrays("test", 50)
    chosen = np.random.default_rng(0).permutation(len(dataset.train_labels))[:20]
    right = []
    for chip in population(StuckAtZero(0.3), 2, seed=4):
        train = dataset.normalize(dataset.train_images[chosen])
        with chip.program(model), recalibrate_batch_norm(model, train):
            right.append((model.predict(images, verbose=0).argmax(1) == labels).mean())
    assert float(rows[1]["mean"]) == pytest.approx(np.mean(right), abs=0.021)
    held = json.loads((out / "repairs.json").read_text())
    assert held["faults"] == "stuck_at_zero:rate=0.3" and held["chips"] == 2
    before = (out / "repairs.csv").read_text().splitlines()[1].rsplit(",", 1)[0]
    run_main("compare_repairs", *flags, "--resume")
    assert (out / "repairs.csv").read_text().splitlines()[1].rsplit(",", 1)[0] == before
    assert "Results:" in capsys.readouterr().out


def test_names_the_repair_that_it_does_not_know(saved, tmp_path):
    with pytest.raises(ValueError, match="--repairs=nonsense"):
        run_main("compare_repairs", f"--model={saved}", f"--out={tmp_path}/o", "--repairs=nonsense")
    assert not (tmp_path / "o").exists()


def test_repairs_of_three_numbers_of_images_or_more_have_a_curve():
    from tools.compare_repairs import _curves

    names = [
        "none", "map", "batch_norm:images=8", "batch_norm:images=16", "batch_norm:images=32",
        "batch_norm:images=8,moments=mean", "batch_norm:moments=mean,images=16",
        "batch_norm:images=64,moments=mean", "remap+map:images=8",
    ]  # fmt: skip
    curves = _curves({name: name for name in names})
    assert {name: list(curve) for name, curve in curves.items()} == {
        "batch_norm": [8, 16, 32],
        "batch_norm:moments=mean": [8, 16, 64],
    }
