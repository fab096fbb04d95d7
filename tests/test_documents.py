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


SHORTER = (
    ('RECIPES["digits"]', 'dataclasses.replace(RECIPES["digits"], epochs=2)'),
    ('data.load("digits")', 'data.load("digits").subset(train=1_000)'),
)


def shortened(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """Returns a document's longest example, with the last of each `printed` made `shorter`."""
    code = examples(name)[0]
    for printed, shorter in pairs:
        *rest, last = code.rpartition(printed)
        assert rest[1], f"{name} has no {printed}"
        code = "".join((*rest[:-1], shorter, last))
    return "import dataclasses\nfrom keras_rram.export import Thresholds\n" + code


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports to TFLite")
@pytest.mark.parametrize(
    ("name", "file"), [("README.md", "chip7.tflite"), ("docs/measured_maps.md", "measured.tflite")]
)
def test_an_example(name, file, tmp_path, monkeypatch):
    """As printed, but for less training, fewer chips, and what such a file may differ."""
    monkeypatch.chdir(tmp_path)
    thresholds = "labels, thresholds=Thresholds(agreement=0.9, accuracy=0.05))\n"
    exec(shortened(name, (*SHORTER, ("labels)\n", thresholds))).replace("chips=50", "chips=3"), {})
    assert (tmp_path / file).stat().st_size > 10_000


@pytest.mark.slow
def test_training_for_every_chip():
    exec(shortened("docs/robust_training.md", SHORTER), names := {})
    model = names["model"]
    assert model.optimizer.iterations > 0
    assert any(variable.path.endswith("gamma") for variable in model.trainable_variables)
    assert not [v.path for v in model.variables if "moving" in v.path]  # as its comment says


def test_the_short_examples():
    for code in [*examples("README.md")[1:], *examples("docs/keras_habits.md")]:
        exec(code, {})
