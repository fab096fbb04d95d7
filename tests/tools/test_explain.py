import json

import pytest

from keras_rram import Chip, StuckAtZero, data
from keras_rram.evaluation import explain
from tests.classifiers import classifier
from tests.run_tools import run_in_turn

DATA = ("--data=digits", "--normalize=mnist", "--images=100")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.keras"
    classifier().save(path)
    return path


def test_the_tool_writes_what_the_library_finds(saved, tmp_path, capsys):
    common = ["explain", f"--model={saved}", *DATA]
    chip = Chip(StuckAtZero(0.3), seed=4, index=2)
    chip.save(tmp_path / "chip.npz", classifier())
    *errors, mixed, unknown = run_in_turn(
        [*common, "--fault_rate=0.3", "--chip=2", "--seed=4", f"--out={tmp_path}/out"],
        [*common, f"--chip={tmp_path}/chip.npz"],
        [*common, f"--chip={tmp_path}/chip.npz", "--seed=1"],
        [*common, "--array=adc=3"],
    )
    assert not any(errors)
    assert "--seed goes with the index" in mixed and "--array='adc=3'" in unknown
    expected = explain(classifier(), chip, data.load("digits").arrays("test", 100))
    content = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert content["steps"] == list(expected.to_dict()["steps"])
    assert content["verdict"] == expected.verdict
    output = capsys.readouterr().out
    assert output.count(expected.verdict) == 2  # of the index, and of its file
    assert len((tmp_path / "out" / "layers.csv").read_text().splitlines()) == 3
    assert len((tmp_path / "out" / "steps.csv").read_text().splitlines()) == 4
