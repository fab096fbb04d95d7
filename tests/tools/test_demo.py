import subprocess
import sys

import pytest

from keras_rram import data
from tests.classifiers import keras_accuracy
from tests.run_tools import run_here

run_process = subprocess.run


def run_step(command, **options):
    """Runs a step of the demo here, where TensorFlow is there already."""
    if command[1] != "-m":
        return run_process(command, **options)
    assert command[0] == sys.executable and options == {"check": False}
    print(run_here(command[2].removeprefix("tools."), *command[3:]))
    return subprocess.CompletedProcess(command, 0)


@pytest.mark.slow
def test_the_main_job_ends_with_a_verified_chip(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", run_step)
    # One epoch trains no network whose int8 file could be held to 95% agreement: three do.
    output = run_here("demo", "--epochs=3", "--chips=5", f"--out={tmp_path}/demo")
    assert "All results" in output and f"{tmp_path}/demo/chips/report.html" in output
    # A line for each epoch and fault rate, and no bar that draws over itself.
    assert "\b" not in output and output.count("Epoch 2/3") == 1 and len(output) < 20_000
    table = output[output.index("mean %") :]
    assert "Verified int8 file of one chip" in table and "5" in table.split()
    assert (tmp_path / "demo" / "tflite" / "chip_0_00000.tflite").exists()
    healthy = keras_accuracy(
        tmp_path / "demo/train/model.keras", *data.load("digits").arrays("test")
    )
    assert table.splitlines()[1].split()[:2] == ["0", f"{100 * healthy:.2f}"]
    assert list((tmp_path / "demo" / "chips").glob("*.png"))
    page = (tmp_path / "demo" / "chips" / "report.html").read_text()
    assert page.count('<details class="chip"') == 15 and len(page) < 2_000_000


def test_a_step_that_fails_ends_the_demo(tmp_path, monkeypatch):
    """It runs in a process of its own, which here has no backend."""
    monkeypatch.setenv("KERAS_BACKEND", "nothing")
    output = run_here("demo", f"--out={tmp_path}/demo", code=1)
    assert "error: train ended with exit code 1.\n" in output and "tools.evaluate" not in output
