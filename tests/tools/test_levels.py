import csv
import json

import keras
import pytest

from keras_rram.models import mini_mobilenet
from tests.run_tools import run_main


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    mini_mobilenet(1, drop_connect=0.2, expansion=2).save(path)
    return path


@pytest.mark.slow
def test_writes_table_and_figure(model_path, tmp_path, capsys):
    folder = tmp_path / "out"
    run_main(
        "levels",
        f"--model={model_path}",
        "--data=digits",
        "--bits=4,2",
        "--methods=kmeans",
        "--chips=3",
        "--images=100",
        "--calibration_images=20",
        "--fault_model=differential_pair:stuck_off=0.09,stuck_on=0.01",
        f"--out={folder}",
    )
    assert {file.name for file in folder.iterdir()} == {"levels.csv", "levels.json", "levels.png"}
    assert (folder / "levels.png").stat().st_size < 150_000
    with (folder / "levels.csv").open() as file:
        rows = list(csv.DictReader(file))
    cases = [(row["bits"], row["method"], row["quantization"]) for row in rows]
    assert cases == [
        (bits, method, quantization)
        for bits, method in (
            ("", ""),
            ("2", "kmeans"),
            ("4", "kmeans"),
        )
        for quantization in ("float32", "int8")
    ]
    assert all(0 <= float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in rows)
    held = json.loads((folder / "levels.json").read_text())
    assert held["chips"] == 3
    assert held["fault_model"] == "differential_pair:stuck_off=0.09,stuck_on=0.01"
    assert held["fault_rate"] == 0.1
    assert [row["mean"] for row in held["rows"]] == [float(row["mean"]) for row in rows]
    assert f"Results: {folder}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits=1,2"], "--bits must be"),
        (["--bits=x"], "--bits must be"),
        (["--methods=octave"], "--methods must be"),
        (["--quantizations=int8,int8"], "--quantizations must be"),
        (["--fault_model=row_faults:exact=true"], "has no key 'exact'"),
        (["--fault_model=drift:seconds=9,nu=0.1", "--fault_rate=0.1"], "a rate to sweep"),
        (["--model=nowhere.keras"], "no such file"),
        (["--data=nowhere"], "nowhere"),
        ([], "--data is missing"),
    ],
)
def test_bad_input_leaves_nothing(model_path, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_main("levels", f"--model={model_path}", f"--out={tmp_path}/out", *arguments)
    assert not (tmp_path / "out").exists()
