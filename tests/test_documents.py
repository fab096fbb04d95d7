"""The examples in the documents run as they are printed."""

import pathlib
import re

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
def test_an_example(name, file, tmp_path, monkeypatch):
    """As printed, but for less training, fewer chips, and what such a file may differ."""
    monkeypatch.chdir(tmp_path)
    code = examples(name)[0]
    for printed, shorter in (
        ('RECIPES["digits"]', 'dataclasses.replace(RECIPES["digits"], epochs=2)'),
        ('data.load("digits")', 'data.load("digits").subset(train=1_000)'),
        ("labels)\n", "labels, thresholds=Thresholds(agreement=0.9, accuracy=0.05))\n"),
    ):
        *rest, last = code.rpartition(printed)
        assert rest[1], f"{name} has no {printed}"
        code = "".join((*rest[:-1], shorter, last))
    code = code.replace("chips=50", "chips=3")
    exec("import dataclasses\nfrom keras_rram.export import Thresholds\n" + code, {})
    assert (tmp_path / file).stat().st_size > 10_000


def test_the_short_examples():
    for code in [*examples("README.md")[1:], *examples("docs/keras_habits.md")]:
        exec(code, {})
