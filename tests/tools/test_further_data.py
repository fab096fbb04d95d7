"""Files that are run on further data, which reach the model as its own data do."""

import json

import numpy as np
import pytest

from keras_rram import data
from tests.classifiers import classifier
from tests.run_tools import run_main

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
