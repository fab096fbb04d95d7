import pytest

from tests.run_tools import run_tool


@pytest.mark.slow
def test_the_main_job_ends_with_a_verified_chip(tmp_path):
    # One epoch trains no network whose int8 file could be held to 98% agreement: three do.
    output = run_tool("demo", "--epochs=3", "--chips=5", f"--out={tmp_path}/demo")
    assert "All results" in output
    assert (tmp_path / "demo" / "tflite" / "chip_0_00000.tflite").exists()
    assert (tmp_path / "demo" / "train" / "model.keras").exists()
    assert list((tmp_path / "demo" / "chips").glob("*.png"))
