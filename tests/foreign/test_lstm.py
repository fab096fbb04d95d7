"""Recurrent layers on series of a fixed length, unrolled in the file."""

import keras
import pytest

from keras_rram.export import ExportError, convert
from tests.foreign.cases import by_python, by_tools
from tests.foreign.networks import trained


def test_by_tools(tmp_path):
    _, repaired, sidecars = by_tools(*trained("lstm"), "remap:rounds=1", tmp_path)
    assert [each["method"] for each in sidecars] == ["converted", "patched", "patched"]
    assert all(each["unrolled"] == ["first", "second"] for each in sidecars)
    assert repaired["engine"] == "litert float32"


def test_by_python(tmp_path):
    model, train, test = trained("lstm")
    by_python(model, test, tmp_path / "files", "int8", train[0][:100])


def test_series_of_any_length_are_refused_in_words():
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GRU(4, name="any")(inputs)))
    with pytest.raises(ExportError, match=r"Layer 'any' \(GRU\).*fixed number of steps.*Input"):
        convert(model, "float32")
