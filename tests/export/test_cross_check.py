import keras
import numpy as np
import pytest

from keras_rram import Chip, Fault, StuckAtZero, layers, population
from keras_rram.evaluation.population import evaluate_population
from keras_rram.export import QUANTIZATIONS, ExportError, PatchableModel, against_conversion
from keras_rram.export.flatbuffer import parse
from keras_rram.export.kernel_places import weight_tensors
from tests import classifiers, export_models
from tests.export.test_kernels import rescaling_model
from tests.export.test_patchable import random_faults

CHIPS = population(StuckAtZero(0.2), 3, seed=9)


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


def weights_of(patchable):
    return sum(place.kernel.values.size for (place,) in patchable.places.values())


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("kind", ["lost", "stuck"])
def test_every_kind_of_layer_is_a_fresh_conversion_in_every_quantization(quantization, kind):
    patchable, model = export_models.patchable(quantization), export_models.model()
    chip = CHIPS[0] if kind == "lost" else Chip(measured=random_faults(4))
    found = against_conversion(patchable, model, chip, export_models.images(16))
    # All kernels of the model, whose layers are of every kind, but for what lies between two steps.
    assert 0.99 * weights_of(patchable) <= found.weights <= weights_of(patchable)
    types = {tensor.type for tensor, _ in weight_tensors(parse(patchable.tflite))}
    assert types == {
        "float32": {"FLOAT32"},
        "float16": {"FLOAT16"},
        "dynamic": {"FLOAT32", "INT8"},
    }.get(quantization, {"INT8"})
    if quantization == "float32":
        assert found.difference <= 1e-5 * (1 if kind == "lost" else 1000)


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_layers_that_rescale_are_a_fresh_conversion(quantization):
    model, chip = rescaling_model(), Chip(StuckAtZero(0.5), seed=1)
    images = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    calibration = images if quantization == "int8" else None
    patchable = PatchableModel.convert(model, quantization, calibration, chips=[chip])
    found = against_conversion(patchable, model, chip, images)
    assert found.weights >= 0.9 * weights_of(patchable)


@pytest.mark.slow
def test_patched_chips_are_fresh_conversions():
    model = small_model()
    images = np.random.default_rng(0).normal(size=(50, 6, 6, 3)).astype(np.float32)
    patchable = PatchableModel.convert(model, "float32")
    for chip in CHIPS:
        assert against_conversion(patchable, model, chip, images).difference <= 1e-5
    kernel = np.asarray(model.get_layer("head").kernels["kernel"])
    offset = np.zeros_like(kernel)
    offset[:3] = 2.0
    stuck = Chip(measured={"head": Fault((offset == 0).astype(np.float32), offset)})
    assert against_conversion(patchable, model, stuck, images).difference <= 1e-5
    model.get_layer("head").bias.assign(np.ones(5))  # what a file of another model would do
    found = against_conversion(patchable, model, CHIPS[0], images)
    assert found.difference == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("quantization", ["float32", "int8", "float16"])
def test_a_wrong_byte_is_found(quantization, monkeypatch):
    patchable = export_models.patchable(quantization)
    patched = patchable.patch(CHIPS[0].faults(export_models.model()))
    tensor = patchable.places["head/kernel"][0].tensor
    patched[tensor.offset + 7 * tensor.dtype.itemsize - 1] ^= 0x10
    monkeypatch.setattr(patchable, "patch", lambda faults: patched)
    with pytest.raises(ExportError, match="1 of 160 weights of tensor '.*head.*fresh conversion"):
        against_conversion(patchable, export_models.model(), CHIPS[0], export_models.images(4))


def test_the_file_of_another_model_is_found():
    with pytest.raises(ExportError, match="of one graph"):
        wrong = PatchableModel.convert(small_model(), "float32")
        wrong.patch = lambda faults: export_models.patchable("float32").tflite
        against_conversion(wrong, small_model(), CHIPS[0], export_models.images(4))


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
