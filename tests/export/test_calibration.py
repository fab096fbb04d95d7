import numpy as np
import pytest

from keras_rram.export.calibration import quantize_int8, range_change
from keras_rram.export.flatbuffer import parse
from tests import export_models


def test_one_file_gives_what_the_converter_makes():
    joined = quantize_int8(export_models.patchable("float32").tflite, export_models.images())
    direct = export_models.patchable("int8").tflite
    pairs = zip(parse(joined).tensors, parse(direct).tensors, strict=True)
    for ours, theirs in pairs:
        assert (ours.shape, ours.type) == (theirs.shape, theirs.type)
        np.testing.assert_array_equal(ours.scales, theirs.scales)
        np.testing.assert_array_equal(ours.zero_points, theirs.zero_points)
        if ours.size:
            np.testing.assert_array_equal(ours.read(joined), theirs.read(direct))


def test_ranges_hold_every_file():
    floats, images = export_models.patchable("float32"), export_models.images()
    chip = floats.patch(export_models.chip().faults(export_models.model()))

    def ranges(*files):
        graph = parse(quantize_int8(floats.tflite, images, files))
        activations = [t for t in graph.tensors if not t.size and t.type == "INT8"]
        steps = np.array([t.scales[0] for t in activations])
        zeros = np.array([t.zero_points[0] for t in activations])
        return (-128 - zeros) * steps, (127 - zeros) * steps, steps

    low, high, steps = ranges(floats.tflite, chip)
    for file in (floats.tflite, chip):
        one_low, one_high, _ = ranges(file)
        assert (low <= one_low + steps).all()
        assert (high >= one_high - steps).all()


def test_the_ranges_are_the_chips_and_the_weights_the_models():
    floats, images = export_models.patchable("float32"), export_models.images()
    chip = floats.patch(export_models.chip().faults(export_models.model()))
    plain, on_chip = (quantize_int8(floats.tflite, images, [f]) for f in (floats.tflite, chip))
    of_chip = quantize_int8(chip, images)
    tensors = (parse(file).tensors for file in (on_chip, of_chip, plain))
    for ours, chips, models in zip(*tensors, strict=True):
        expected = models if ours.size and ours.type == "INT8" else chips
        if not (ours.size and ours.type == "INT32"):  # biases have the steps of both
            np.testing.assert_array_equal(ours.scales, expected.scales)
    change = range_change(plain, on_chip)
    assert change.changed > 0
    assert change.smallest <= change.mean <= change.largest
    assert change.smallest < 1
    none = range_change(plain, plain)
    assert (none.changed, none.smallest, none.largest) == (0, 1, 1)
    with pytest.raises(ValueError, match="quantized activations"):
        range_change(plain, floats.tflite)


def test_no_file_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        quantize_int8(export_models.patchable("float32").tflite, export_models.images(), [])
