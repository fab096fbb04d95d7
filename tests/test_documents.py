"""The examples in the documents run as they are printed."""

import pathlib
import re
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parent.parent


def examples(name: str) -> list[str]:
    """Returns the examples of a document, the longest one first."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    return sorted(found, key=len, reverse=True)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports to TFLite")
@pytest.mark.parametrize(
    ("name", "file"), [("README.md", "chip7.tflite"), ("docs/measured_maps.md", "measured.tflite")]
)
def test_an_example(name, file, tmp_path):
    code = examples(name)[0].replace("chips=50", "chips=3")
    few = 'dataclasses.replace(RECIPES["digits"], epochs=6)'
    code = "import dataclasses\n" + code.replace('RECIPES["digits"]', few)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / file).stat().st_size > 10_000


def test_the_short_examples():
    for code in [*examples("README.md")[1:], *examples("docs/keras_habits.md")]:
        exec(code, {})
