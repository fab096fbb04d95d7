import json

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero
from keras_rram.export import PatchableModel
from keras_rram.faults import parse
from keras_rram.models import mini_mobilenet
from tests.run_tools import run_here, run_main

DATA = ("--data=digits", "--normalize=mnist")
STUCK = np.zeros((1, 1, 32, 192))
STUCK[0, 0, 3, 5] = 100.0


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    keras.utils.set_random_seed(1)
    model = mini_mobilenet(1, drop_connect=0.2, scope="all")
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


@pytest.mark.slow
def test_writes_chips_and_resumes(model_path, tmp_path, capsys):
    common = [f"--model={model_path}", *DATA, "--fault_rate=0.2", "--images=50"]
    # An untrained network's classes are near ties: float32 is what can be compared.
    common += ["--quantization=float32", f"--out={tmp_path}/o"]
    run_main("export_tflite", *common, "--chips=2")
    assert "2 files written and verified" in capsys.readouterr().out
    output = run_here("export_tflite", *common, "--chips=3", "--resume")
    assert "1 files written and verified, 2 kept" in output
    sidecar = json.loads((tmp_path / "o" / "chip_0_00002.tflite.json").read_text())
    assert sidecar["chip"]["index"] == 2
    assert sidecar["command"].startswith("python -m tools.export_tflite --model=")


@pytest.mark.slow
def test_a_saved_chip_goes_into_its_file(model_path, tmp_path, capsys):
    model = keras.models.load_model(model_path)
    Chip(StuckAtZero(0.3), seed=5).save(tmp_path / "chip.npz", model)
    run_main(
        "export_tflite",
        f"--model={model_path}",
        *DATA,
        f"--chip={tmp_path}/chip.npz",
        "--quantization=float32",
        "--images=20",
        f"--out={tmp_path}/out",
    )
    assert "1 files written" in capsys.readouterr().out
    (path,) = [p for p in (tmp_path / "out").glob("chip_*.tflite")]
    assert (
        abs(json.loads(path.with_name(path.name + ".json").read_text())["fault_rate"] - 0.3) < 0.1
    )


@pytest.mark.slow
def test_chips_of_a_fault_model_with_offsets_are_verified_and_not_mixed(
    model_path, tmp_path, capsys
):
    out = tmp_path / "out"
    common = [
        f"--model={model_path}",
        *DATA,
        "--images=20",
        "--quantization=float32",
        f"--out={out}",
    ]
    pairs = "differential_pair:stuck_off=0.05,stuck_on=0.001"
    run_main("export_tflite", *common, f"--fault_model={pairs}", "--chips=1", "--seed=3")
    assert "weights are stuck at a value" in capsys.readouterr().out
    sidecar = json.loads((out / "chip_3_00000.tflite.json").read_text())
    assert sidecar["chip"]["fault_model"] == pairs and sidecar["verification"] is not None
    model = keras.models.load_model(model_path)
    patcher = PatchableModel(model, (out / "base.tflite").read_bytes())
    described = sidecar["chip"]
    chip = Chip(parse(described["fault_model"]), described["seed"], described["index"])
    written = (out / "chip_3_00000.tflite").read_bytes()
    assert bytes(patcher.patch(chip.faults(model))) == written
    with pytest.raises(ValueError, match="of another chip"):
        run_main(
            "export_tflite", *common, "--fault_model=row_faults", "--fault_rate=0.051",
            "--seed=3", "--resume",
        )  # fmt: skip
    assert (out / "chip_3_00000.tflite").read_bytes() == written


def test_stuck_values_are_reported(model_path, tmp_path, capsys):
    np.savez(
        tmp_path / "map.npz",
        **{"block1_expand": np.ones((1, 1, 32, 192)), "block1_expand:offset": STUCK},
    )
    run_main(
        "export_tflite",
        f"--model={model_path}",
        *DATA,
        f"--chip={tmp_path}/map.npz",
        "--images=5",
        "--min_agreement=0",
        "--max_accuracy_difference=1",
        f"--out={tmp_path}/out",
    )
    assert "1 weights are stuck at a value: 1 beyond the range of int8" in capsys.readouterr().out


@pytest.mark.slow
def test_calibration_on_chips_further_images_micro_and_a_cross_check(model_path, tmp_path, capsys):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")
    run_main(
        "export_tflite",
        f"--model={model_path}",
        *DATA,
        "--fault_rate=0.2",
        "--chips=2",
        "--calibration_chips=2",
        "--calibration_images=20",
        "--images=30",
        "--micro_images=2",
        "--also_on=digits",
        "--cross_check=2",
        "--min_agreement=0",
        "--max_accuracy_difference=1",
        "--norun_all",
        f"--out={tmp_path / 'out'}",
    )
    output = capsys.readouterr().out
    assert "2 chips: all of " in output
    assert "TensorFlow Lite Micro: an arena of " in output
    base, first, second = (
        json.loads((tmp_path / "out" / f"{name}.tflite.json").read_text())
        for name in ("base", "chip_0_00000", "chip_0_00001")
    )
    assert {chip["stream"] for chip in first["calibration"]["chips"]} == {"calibration"}
    assert [chip["index"] for chip in first["calibration"]["chips"]] == [0, 1]
    assert first["ranges"] == base["ranges"]
    assert 0 < first["ranges"]["smallest"] <= first["ranges"]["mean"]
    assert first["data"] == "digits"
    assert first["also_on"]["digits"]["images"] == 1000
    assert first["micro"]["images"] == 2
    assert first["micro"]["arena_size"] == base["micro"]["arena_size"] > 10_000
    assert "CONV_2D" in first["micro"]["operators"]
    assert (second["verification"], second["also_on"], second["micro"]) == (None, {}, None)


def test_bad_input_is_a_clear_error(model_path, tmp_path):
    out = f"--out={tmp_path / 'out'}"
    model = f"--model={model_path}"
    for arguments, message in (
        ((model, "--chips=2"), "--chips needs --fault_rate or --fault_model"),
        ((model, "--fault_model=row_faults"), "row_faults needs rate"),
        ((model,), "--data is missing"),
        ((model, "--fault_model=row_faults:rate=0.1", "--chip=x.npz"), "--chip excludes"),
        ((model, "--fault_rate=0.1", "--chip=x.npz"), "--chip excludes"),
        ((model, "--chip=x.npz"), "x.npz"),
        (("--model=nowhere.keras",), "no such file"),
        ((model, *DATA, "--calibration_chips=2"), "needs --fault_rate"),
        ((model, *DATA, "--cross_check=2"), "needs chips"),
        ((model, *DATA, "--also_on=nowhere"), "nowhere"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            run_main("export_tflite", *arguments, out)
    plain = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
    plain.save(tmp_path / "plain.keras")
    with pytest.raises(ValueError, match="no Drop-Connect layer"):
        run_main("export_tflite", f"--model={tmp_path / 'plain.keras'}", "--fault_rate=0.1", out)
    assert not (tmp_path / "out").exists()
    np.savez(tmp_path / "map.npz", elsewhere=np.ones(3))
    with pytest.raises(ValueError, match="no such layer"):
        run_main("export_tflite", model, *DATA, f"--chip={tmp_path / 'map.npz'}", out)
