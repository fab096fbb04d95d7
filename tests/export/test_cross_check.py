import keras
import numpy as np
import pytest

from keras_rram import Chip, Fault, StuckAtZero, layers, population
from keras_rram.evaluation.population import evaluate_population
from keras_rram.export import (
    ExportError,
    TFLitePatcher,
    against_conversion,
    against_quantization,
)
from tests import classifiers, export_models

CHIPS = population(StuckAtZero(0.2), 20, seed=9)


def small_model():
    """A depthwise and a plain convolution with batch normalization, and a dense head."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 6, 3))
    x = layers.DropConnectConv2D(4, 1, use_bias=False, drop_connect=0.1, name="conv")(inputs)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(x))
    x = layers.DropConnectDepthwiseConv2D(3, use_bias=False, drop_connect=0.1, name="depth")(x)
    x = keras.layers.Flatten()(keras.layers.BatchNormalization()(x))
    outputs = layers.DropConnectDense(5, drop_connect=0.1, name="head")(x)
    return export_models.set_batch_norm(keras.Model(inputs, outputs, name="small"))


@pytest.mark.slow
def test_patched_chips_are_fresh_conversions():
    model = small_model()
    images = np.random.default_rng(0).normal(size=(50, 6, 6, 3)).astype(np.float32)
    patcher = TFLitePatcher.from_model(model, "float32")
    assert max(against_conversion(patcher, model, chip, images) for chip in CHIPS[:3]) <= 1e-5
    kernel = np.asarray(model.get_layer("head").kernels["kernel"])
    offset = np.zeros_like(kernel)
    offset[:3] = 2.0
    stuck = Chip(measured={"head": Fault((offset == 0).astype(np.float32), offset)})
    assert against_conversion(patcher, model, stuck, images) <= 1e-5
    model.get_layer("head").bias.assign(np.ones(5))  # what a patcher of another model would do
    assert against_conversion(patcher, model, CHIPS[0], images) == pytest.approx(1, abs=1e-5)


def test_int8_weights_of_twenty_chips_are_the_quantized_masked_kernels():
    model = export_models.model()
    floats, integers = export_models.patcher("float32"), export_models.patcher("int8")
    weights = sum(place.kernel.values.size for (place,) in integers.places.values())
    for chip in CHIPS:
        compared = against_quantization(integers, floats, model, chip)
        assert 0.99 * weights <= compared <= weights


def test_a_wrong_byte_is_found(monkeypatch):
    integers, patch = export_models.patcher("int8"), TFLitePatcher.patch

    def wrong(self, faults):
        patched = patch(self, faults)
        if self is integers:
            patched[self.places["head/kernel"][0].tensor.offset + 7] ^= 0x10
        return patched

    monkeypatch.setattr(TFLitePatcher, "patch", wrong)
    with pytest.raises(ExportError, match="1 of 160 weights of kernel 'head/kernel'"):
        against_quantization(
            integers, export_models.patcher("float32"), export_models.model(), CHIPS[0]
        )


def test_a_fresh_conversion_has_steps_of_its_own():
    with pytest.raises(ValueError, match="float32 file"):
        against_conversion(
            export_models.patcher("int8"),
            export_models.model(),
            CHIPS[0],
            export_models.images(),
        )


def test_an_int8_population_is_that_of_float32():
    model, fault_model = classifiers.classifier(), StuckAtZero(0.2)
    options = {"engine": "litert", "progress": False}
    float32, int8 = (
        evaluate_population(
            model,
            fault_model,
            classifiers.digits(),
            20,
            quantization=quantization,
            calibration=calibration,
            **options,
        )
        for quantization, calibration in (
            ("float32", None),
            ("int8", classifiers.training_digits()[0][:200]),
        )
    )
    assert float32.mean > 0.5
    assert int8.mean == pytest.approx(float32.mean, abs=0.005)
    assert int8.raw_sd == pytest.approx(float32.raw_sd, abs=0.005)
