import keras
import numpy as np
import pytest

from keras_rram import Chip, faulty_layers
from keras_rram.chips import audit
from keras_rram.faults import BitSlices, StuckCells
from keras_rram.hardware.precision import quantize_to_cells
from tests.helpers import tiny_model, to_numpy


def test_a_chip_without_faults_is_the_quantized_model():
    model = tiny_model()
    before = model.get_weights()
    mapping = BitSlices(2, scaling="channel")
    quantized = quantize_to_cells(model, mapping)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    kernel = to_numpy(faulty_layers(quantized)["head"].kernel)
    steps = kernel * (127 / np.abs(kernel).max(0))
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    depthwise = to_numpy(faulty_layers(quantized)["b1_depthwise"].kernel)
    original = to_numpy(faulty_layers(model)["b1_depthwise"].kernel)
    np.testing.assert_array_equal(np.abs(depthwise).max((0, 1)), np.abs(original).max((0, 1)))
    with Chip(StuckCells(mapping=mapping)).program(quantized):
        assert audit(quantized).rate == 0
        for name, layer in faulty_layers(quantized).items():
            for slot, held in layer.kernels.items():
                np.testing.assert_array_equal(
                    to_numpy(layer.effective_kernel(slot)), to_numpy(held), err_msg=name
                )


def test_errors():
    with pytest.raises(TypeError, match="BitSlices"):
        quantize_to_cells(tiny_model(), 8)
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="to_drop_connect"):
        quantize_to_cells(plain, BitSlices(2))
