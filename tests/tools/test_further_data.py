"""Files that are run on further data, which reach the model as its own data do."""

import json

import keras
import numpy as np
import pytest

from keras_rram import data
from tests.classifiers import classifier
from tests.run_tools import load_tool, run_main

QUICK = ["--images=100", "--min_agreement=0", "--max_accuracy_difference=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier of normalized digits with the record of its training, and arrays of bytes."""
    folder = tmp_path_factory.mktemp("further")
    digits = data.load("digits").subset(test=100)
    arrays = {
        f"{kind}_{split}": getattr(digits, f"{split}_{name}")
        for kind, name in (("x", "images"), ("y", "labels"))
        for split in ("train", "test")
    }
    for name in ("mine.npz", "same.npz"):
        np.savez(folder / name, **arrays)
    classifier().save(folder / "model.keras")
    mine = data.load(str(folder / "mine.npz"), normalize="mnist")
    record = {"source": str(folder / "mine.npz"), "fingerprint": mine.fingerprint}
    record["normalization"] = mine.normalization.describe()
    (folder / "config.json").write_text(json.dumps({"data": record, "command": "train"}))
    return folder


def test_the_same_arrays_give_the_same_accuracy(folder, tmp_path):
    same = f"{folder}/same.npz"
    run_main(
        "export_tflite", f"--model={folder}/model.keras", "--quantization=float32", *QUICK,
        f"--also_on={same},digits", f"--out={tmp_path}/one",
    )  # fmt: skip
    held = json.loads((tmp_path / "one" / "base.tflite.json").read_text())
    assert held["also_on"][same] == held["verification"]
    run_main(
        "export_models", f"--files={folder}/model.keras:0:float32", *QUICK,
        f"--also_on={same}", f"--out={tmp_path}/some",
    )  # fmt: skip
    (each,) = json.loads((tmp_path / "some" / "index.json").read_text())["files"]
    assert each["also_on"][same] == each["verification"] == held["verification"]
    assert 'data.load("digits").arrays' in (tmp_path / "some" / "README.md").read_text()


def test_a_regression_has_an_index_and_is_inspected(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype("float32")
    y = x.sum(1)
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)], name="regression")
    model.save(tmp_path / "model.keras")
    folder, mine = tmp_path / "out", f"{tmp_path}/mine.npz"
    run_main(
        "export_models", f"--files={tmp_path}/model.keras:0:float32", f"--data={mine}",
        f"--also_on={mine}", f"--out={folder}",
    )  # fmt: skip
    (each,) = json.loads((folder / "index.json").read_text())["files"]
    assert each["verification"]["accuracy"] is each["also_on"][mine]["accuracy"] is None
    assert "regression_float32" in (folder / "README.md").read_text()
    assert "bytes, Keras's answer in 100.00%" in capsys.readouterr().out
    sidecar = json.loads((folder / f"{each['file']}.json").read_text())
    said = load_tool("inspect_tflite")._origin(sidecar)
    assert f"Keras's answer in 100.00% on 60 images of {mine}" in said
