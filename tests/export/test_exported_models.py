import hashlib
import json
import re

import keras
import numpy as np
import pytest

from keras_rram import Chip, data, faults
from keras_rram.export import LiteRTModel, read_sidecar, run_micro
from keras_rram.export.flatbuffer import parse
from keras_rram.export.kernel_places import weight_tensors
from keras_rram.export.sidecar import FORMAT
from keras_rram.models import mini_mobilenet
from tests.run_tools import ROOT, run_main

FOLDER = ROOT / "exported_models"
TFDS = ROOT.parent / "shared" / "tensorflow_datasets"
FILES = sorted(FOLDER.glob("*.tflite"))
# Other processors round float32 otherwise; an image in a thousand may change its class.
CLOSE = 0.002

on_every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def accuracy(path, labelled):
    images, labels = labelled
    return np.mean(LiteRTModel(path.read_bytes(), threads=2).predict(images).argmax(-1) == labels)


def test_the_index_holds_every_file_and_they_are_small():
    index = json.loads((FOLDER / "index.json").read_text())
    assert sorted(each["file"] for each in index["files"]) == [path.name for path in FILES]
    assert {0, 0.1, 0.2} <= {each["rate"] for each in index["files"]}
    assert index["format"] == FORMAT
    assert index["command"].startswith("python -m tools.export_models ")
    readme = (FOLDER / "README.md").read_text()
    for each in index["files"]:
        assert each["file"] in readme
        assert each["training"]["command"] in readme
        assert each["size"] < 400_000


@on_every_file
def test_the_sidecar_is_of_this_file(path):
    sidecar, content = read_sidecar(path), path.read_bytes()
    assert sidecar["sha256"] == hashlib.sha256(content).hexdigest()
    assert sidecar["size"] == len(content)
    assert sidecar["data"] == "mnist"
    assert sidecar["verification"]["images"] == 10_000
    assert sidecar["verification"]["agreement"] >= 0.98


@on_every_file
def test_accuracy_on_the_offline_digits(path):
    found = read_sidecar(path)["also_on"]["digits"]
    assert accuracy(path, data.load("digits").arrays("test")) == pytest.approx(
        found["accuracy"], abs=CLOSE
    )


@pytest.mark.skipif(not TFDS.is_dir(), reason="no prepared MNIST in ../shared/tensorflow_datasets")
@on_every_file
def test_accuracy_on_the_full_test_set(path):
    found = read_sidecar(path)["verification"]
    labelled = data.load("mnist", TFDS).arrays("test")
    assert accuracy(path, labelled) == pytest.approx(found["accuracy"], abs=CLOSE)


# The order of a kernel's axes in a file: OHWI of a convolution, 1HWC of a depthwise one.
ORDERS = {"kernel": (3, 0, 1, 2), "depthwise": (0, 1, 2, 3)}


@on_every_file
def test_the_chip_of_the_sidecar_is_in_the_bytes(path):
    sidecar, content = read_sidecar(path), path.read_bytes()
    graph = parse(content)
    weights = [tensor for tensor, _ in weight_tensors(graph)]
    if sidecar["chip"] is None:
        assert sidecar["fault_rate"] == 0
        assert all(np.mean(tensor.read(content) == 0) < 0.2 for tensor in weights)
        return
    described = sidecar["chip"]
    fault_model = faults.parse(described["fault_model"])
    chip = Chip(fault_model, described["seed"], described["index"])
    model = mini_mobilenet(int(sidecar["model"].rpartition("_")[2]), drop_connect=0.1)
    lost = total = 0
    for name, fault in chip.faults(model).items():
        layer = name.rpartition("/")[0]
        (tensor,) = (t for t in weights if re.search(rf"(^|[/;]){layer}(_\d+)?[/;]", t.name))
        order = ORDERS["depthwise" if layer.endswith("depthwise") else "kernel"]
        mask = fault.mask.transpose(order).reshape(tensor.shape)
        held = tensor.read(content)
        assert not held[mask == 0].any()
        # Small weights are zero without a fault; another chip would leave most of them.
        assert np.mean(held[mask == 1] == 0) < 0.1
        lost, total = lost + np.count_nonzero(mask == 0), total + mask.size
    assert sidecar["fault_rate"] == lost / total
    assert sidecar["fault_rate"] == pytest.approx(fault_model.rate, abs=0.01)


def test_what_a_microcontroller_needs():
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")
    images, _ = data.load("digits").arrays("test", 5)
    found = {path: read_sidecar(path)["micro"] for path in FILES}
    assert [path for path, micro in found.items() if micro] == [
        path for path in FILES if "int8" in path.name
    ]
    path, micro = min(found.items(), key=lambda item: item[0].stat().st_size)
    report = run_micro(path.read_bytes(), images)
    report.check()
    assert list(report.operators) == micro["operators"]
    assert report.arena_size == pytest.approx(micro["arena_size"], rel=0.05)
    assert micro["max_steps"] <= 1


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("model")
    mini_mobilenet(1, drop_connect=0.1, expansion=2).save(folder / "model.keras")
    (folder / "config.json").write_text(
        json.dumps(
            {
                "command": "train it",
                "commit": "abc",
                "drop_connect": {"rate": 0.1},
                "data": {"source": "digits"},
            }
        )
    )
    return folder / "model.keras"


@pytest.mark.slow
def test_the_tool_makes_such_a_folder(model_path, tmp_path, capsys):
    arguments = [
        f"--files={model_path}:0:float32,{model_path}:0.3:float32",
        "--images=20",
        f"--out={tmp_path}/out",
    ]
    run_main("export_models", *arguments)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    names = [each["file"] for each in index["files"]]
    assert names == [
        "mini_mobilenet_strided_1_float32_faults0.tflite",
        "mini_mobilenet_strided_1_float32_faults30.tflite",
    ]
    expected = {"index.json", "README.md", *names, *(f"{name}.json" for name in names)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    assert index["files"][1]["chip"]["index"] == 0
    assert index["files"][1]["also_on"]["digits"]["images"] == 1000
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "train it  # abc" in readme
    assert names[1] in capsys.readouterr().out
    with pytest.raises(ValueError, match="not empty"):
        run_main("export_models", *arguments)


def test_the_tool_takes_a_fault_model(model_path, tmp_path):
    run_main(
        "export_models",
        f"--files={model_path}:0.3:float32",
        "--fault_model=column_faults:tile=64x64",
        "--images=20",
        f"--out={tmp_path}/out",
    )
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    (each,) = index["files"]
    assert each["file"] == "mini_mobilenet_strided_1_float32_column_faults30.tflite"
    assert each["chip"]["fault_model"] == "column_faults:rate=0.3,tile=64x64"
    assert "of `column_faults:tile=64x64`" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ValueError, match="files of rate 0 only"):
        run_main(
            "export_models", f"--files={model_path}:0:float32", "--fault_model=column_faults",
            f"--out={tmp_path}/none",
        )  # fmt: skip
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("", "--files is missing"),
        ("{model}", "FAULT_RATE:QUANTIZATION"),
        ("{model}:1.0:int8", "rate in"),
        ("{model}:0.1:int4", "int4"),
        ("nowhere.keras:0.1:int8", "no such file"),
        ("{model}:0.1:int8,{model}:0.1:int8", "different names"),
    ],
)
def test_bad_input_of_the_tool_leaves_nothing(model_path, tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        run_main(
            "export_models", f"--files={files.format(model=model_path)}", f"--out={tmp_path}/out"
        )
    assert not (tmp_path / "out").exists()
