"""Keras's own export and quantization, on models of chips: they work, or say why not."""

import warnings

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, bake
from tests.classifiers import classifier, digits

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TFLite files come from TensorFlow"
)
IMAGES = digits(20)[0]
CHIP = Chip(StuckAtZero(0.3), seed=1)


def run_file(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    (taken,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(taken["index"], IMAGES.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], IMAGES)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_export_and_quantize_hold_the_chip(tmp_path):
    model = classifier()
    with CHIP.program(model):
        expected = model.predict(IMAGES, verbose=0)
        model.export(tmp_path / "chip.tflite", format="litert", verbose=False)
        plain = bake(model)
    plain.export(tmp_path / "plain.tflite", format="litert", verbose=False)
    for name in ("chip", "plain"):
        np.testing.assert_allclose(run_file(tmp_path / f"{name}.tflite"), expected, atol=1e-4)
    with pytest.warns(UserWarning, match="does not have a `quantize` method"):
        plain.quantize("int8")  # of Keras: its own convolution has none
    found = plain.predict(IMAGES, verbose=0)
    assert plain.get_layer("head").kernel.dtype == "int8"
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_quantize_says_that_faults_would_be_lost():
    model = classifier()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        model.quantize("int8")
    said = [str(one.message) for one in found if "its faults would be lost" in str(one.message)]
    assert [one.split("'")[1] for one in said] == ["conv", "head"]
    with CHIP.program(model):
        outputs = model.predict(IMAGES, verbose=0)
    fresh = classifier()
    with CHIP.program(fresh):
        np.testing.assert_array_equal(outputs, fresh.predict(IMAGES, verbose=0))
