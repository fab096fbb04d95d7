import numpy as np
import pytest

from keras_rram.export import LiteRTModel
from tests import export_models


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_any_batch_size_gives_the_same_outputs(quantization):
    tflite, images = export_models.patchable(quantization).tflite, export_models.images(10)
    expected = LiteRTModel(tflite, batch_size=10).predict(images)
    assert expected.shape == (10, 10)
    assert expected.dtype == np.float32
    for batch_size in (1, 3, 100):
        outputs = LiteRTModel(tflite, batch_size=batch_size).predict(images)
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    assert LiteRTModel(tflite).predict(images[:0]).shape == (0, 10)


def test_int8_outputs_are_steps_of_the_output_scale():
    model = LiteRTModel(export_models.patchable("int8").tflite)
    outputs = model.predict(export_models.images(10))
    step = model._output["quantization"][0]
    np.testing.assert_allclose(outputs / step, np.rint(outputs / step), atol=1e-3)


def test_images_can_be_encoded_once():
    model, images = LiteRTModel(export_models.patchable("int8").tflite), export_models.images(10)
    encoded = model.encode(images)
    scale, zero_point = model._input["quantization"]
    expected = np.clip(np.rint(images / scale) + zero_point, -128, 127)
    np.testing.assert_array_equal(encoded, expected)
    assert encoded.dtype == np.int8
    np.testing.assert_array_equal(model.predict(encoded), model.predict(images))


def test_images_outside_the_calibrated_range_saturate():
    model = LiteRTModel(export_models.patchable("int8").tflite)
    huge = 1e6 * np.ones((1, *export_models.SHAPE), np.float32)
    np.testing.assert_array_equal(model.predict(huge), model.predict(huge * 2))


def test_wrong_shapes_and_files_are_refused():
    model = LiteRTModel(export_models.patchable("int8").tflite)
    with pytest.raises(ValueError, match=r"'n', 12, 12, 2"):
        model.predict(np.zeros((1, 12, 12, 3), np.float32))
    with pytest.raises(ValueError, match="Not a TFLite file"):
        LiteRTModel(b"nothing of the kind")


def test_the_interpreter_is_silent(capfd):
    LiteRTModel(export_models.patchable("float32").tflite)
    assert capfd.readouterr() == ("", "")
