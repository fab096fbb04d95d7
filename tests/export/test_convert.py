import tempfile

import keras
import numpy as np
import pytest

from keras_rram.export import ExportError, LiteRTModel, convert
from keras_rram.export.convert import CALIBRATION_IMAGES, check_calibration
from keras_rram.export.flatbuffer import parse
from tests import export_models


def keras_outputs(images):
    return np.asarray(export_models.model().predict_on_batch(images))


@pytest.mark.parametrize(
    ("quantization", "ends", "tolerance"),
    [
        ("float32", "FLOAT32", 1e-5),
        ("float16", "FLOAT32", 5e-3),
        ("dynamic", "FLOAT32", 0.1),
        ("int8", "INT8", 0.15),
        ("int16x8", "FLOAT32", 0.1),
    ],
)
def test_every_quantization_is_near_the_keras_model(quantization, ends, tolerance):
    tflite = export_models.patchable(quantization).tflite
    graph = parse(tflite)
    assert [graph.tensors[number].type for number in (*graph.inputs, *graph.outputs)] == [ends] * 2
    images = export_models.images()
    expected = keras_outputs(images)
    difference = np.abs(LiteRTModel(tflite).predict(images) - expected).max()
    assert difference <= tolerance * np.abs(expected).max()


def test_batch_normalization_is_folded_and_int8_is_integer_throughout():
    graph = parse(export_models.patchable("int8").tflite)
    assert not {"MUL", "SUB", "DEQUANTIZE", "QUANTIZE"} & {o.name for o in graph.operators}
    assert all(tensor.type != "FLOAT32" for tensor in graph.tensors)
    weights = [tensor for tensor in graph.tensors if tensor.size and tensor.type == "INT8"]
    assert all(tensor.scales.size == tensor.shape[tensor.axis] for tensor in weights)


def test_plain_model_with_a_fixed_batch_leaves_no_folder_and_no_noise(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    capfd.readouterr()
    tflite = convert(model, "float32", batch_size=5)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert parse(tflite).tensors[0].shape == (5, 4)
    images = np.eye(4, dtype=np.float32).repeat(2, axis=0)
    np.testing.assert_allclose(
        LiteRTModel(tflite, batch_size=100).predict(images),
        model.predict_on_batch(images),
        rtol=1e-6,
    )


def test_an_operator_without_tflite_is_an_error_that_names_it():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.erfinv(inputs), name="odd")
    with pytest.raises(ExportError, match=r"(?s)'odd' could not be converted.*Erfinv"):
        convert(model, "float32")


def test_two_outputs_are_refused():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="one input and one output"):
        convert(keras.Model(inputs, [inputs + 1, inputs + 2]), "float32")


@pytest.mark.parametrize(
    ("quantization", "calibration", "message"),
    [
        ("int4", None, "must be one of"),
        ("int8", None, "needs `calibration`"),
        ("float32", np.zeros((2, 12, 12, 2), np.float32), "takes no calibration"),
        ("int8", np.zeros((0, 12, 12, 2), np.float32), "non-empty"),
        ("int8", np.zeros((2, 12, 2, 12), np.float32), "shape"),
        ("int8", np.zeros((12, 12, 2), np.float32), "shape"),
        ("int8", np.full((2, 12, 12, 2), "0"), "must be numbers"),
        ("int8", np.full((2, 12, 12, 2), np.nan, np.float32), "NaN"),
    ],
)
def test_bad_calibration_is_refused_before_converting(quantization, calibration, message):
    with pytest.raises(ValueError, match=message):
        convert(export_models.model(), quantization, calibration)


def test_calibration_uses_the_first_images():
    images = np.zeros((CALIBRATION_IMAGES + 5, *export_models.SHAPE), np.float64)
    checked = check_calibration(export_models.model(), "int8", images)
    assert checked.shape[0] == CALIBRATION_IMAGES
    assert checked.dtype == np.float32


@pytest.mark.parametrize("batch_size", [0, -1, 2.0])
def test_bad_batch_size(batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        convert(export_models.model(), "float32", batch_size=batch_size)


def test_another_backend_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ExportError, match="KERAS_BACKEND=tensorflow"):
        convert(export_models.model(), "float32")
