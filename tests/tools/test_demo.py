import pytest

from tests.run_tools import run_tool


@pytest.mark.slow
def test_the_main_job_ends_with_a_verified_chip(tmp_path):
    # One epoch trains no network whose int8 file could be held to 98% agreement: three do.
    output = run_tool("demo", "--epochs=3", "--chips=5", f"--out={tmp_path}/demo")
    assert "All results" in output and f"{tmp_path}/demo/chips/report.html" in output
    # A line for each epoch and fault rate, and no bar that draws over itself.
    assert "\b" not in output and output.count("Epoch 2/3") == 1 and len(output) < 20_000
    table = output[output.index("mean %") :]
    assert "Verified int8 file of one chip" in table and "5" in table.split()
    assert (tmp_path / "demo" / "tflite" / "chip_0_00000.tflite").exists()
    assert (tmp_path / "demo" / "train" / "model.keras").exists()
    assert list((tmp_path / "demo" / "chips").glob("*.png"))
    page = (tmp_path / "demo" / "chips" / "report.html").read_text()
    assert page.count('<details class="chip"') == 15 and len(page) < 2_000_000
