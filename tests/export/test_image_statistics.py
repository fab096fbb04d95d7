"""Tests of `keras_rram.export.image_statistics`: the Keras model is the oracle."""

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, gather_statistics
from keras_rram.export import PatchableModel, convert
from keras_rram.export.flatbuffer import parse
from keras_rram.export.image_statistics import ImageNormalization, image_statistics
from keras_rram.export.litert_model import LiteRTModel
from keras_rram.export.micro import run_micro
from keras_rram.models import mini_mobilenet
from tests.helpers import to_numpy

IMAGES = np.random.default_rng(0).normal(size=(24, 12, 12, 1)).astype(np.float32)


def network(normalization, centered=False):
    keras.utils.set_random_seed(1)
    model = mini_mobilenet(
        1,
        drop_connect=0.2,
        scope="all",
        expansion=2,
        normalization=normalization,
        centered_inputs=centered,
        input_shape=(12, 12, 1),
    )
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, keras.layers.GroupNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    if centered:
        gather_statistics(model, IMAGES, masks=4, batch_size=24)
    return model


@pytest.mark.parametrize("normalization", ["instance", "group"])
@pytest.mark.parametrize("images", [None, IMAGES])
def test_the_twin_computes_the_same_with_gains_and_without(normalization, images):
    model = network(normalization)
    twin = image_statistics(model, images)
    kinds = [type(layer) for layer in twin.layers]
    assert kinds.count(ImageNormalization) == 5
    np.testing.assert_allclose(to_numpy(twin(IMAGES)), to_numpy(model(IMAGES)), atol=1e-5)


def test_gains_bring_every_channel_to_one_variance():
    model = network("instance")
    probe = keras.Model(model.inputs, model.get_layer("block1_expand_in").input)
    twin = image_statistics(model, IMAGES)
    variance = probe.predict(IMAGES, verbose=0).var((1, 2)).mean(0)
    gains = twin.get_layer("block1_expand_in")._gains
    np.testing.assert_allclose(gains**2 * variance, 1, rtol=1e-4)


def test_a_model_without_group_normalization_is_left_alone():
    model = network("batch")
    assert image_statistics(model) is model


@pytest.mark.parametrize(
    ("normalization", "centered"), [("instance", False), ("group", True), ("batch", True)]
)
def test_files_of_chips_are_patched_and_do_what_the_model_does(normalization, centered):
    model, chip = network(normalization, centered), Chip(StuckAtZero(0.2))
    patcher = PatchableModel.convert(model, "float32")
    with chip.program(model):
        wanted = to_numpy(model(IMAGES))
    found = LiteRTModel(bytes(patcher.patch(chip.faults(model)))).predict(IMAGES)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    kinds = [operator.name for operator in parse(patcher.tflite).operators]
    # Of four axes throughout: no reshapes but the dense layer's shield from its centred input, and
    # of a centred input one addition is left.
    assert not {"TRANSPOSE", "BROADCAST_TO", "DIV"} & set(kinds)
    assert kinds.count("RESHAPE") == centered
    if normalization == "batch":
        assert kinds.count("ADD") == 5


@pytest.mark.parametrize(
    ("normalization", "centered"),
    [("instance", False), ("group", False), ("batch", True)],
)
def test_int8_files_hold_it_and_run_on_microcontrollers(normalization, centered):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")
    model = network(normalization, centered)
    tflite = convert(model, "int8", IMAGES)
    wanted, found = to_numpy(model(IMAGES)), LiteRTModel(tflite).predict(IMAGES)
    assert np.abs(found - wanted).max() < 0.2 * np.ptp(wanted)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95
    report = run_micro(tflite, IMAGES[:4])
    # Micro computes as LiteRT's reference kernels do, the floats too, but for a step in the dense
    # layer. XNNPACK rounds means and convolutions otherwise.
    report.check()
    assert report.max_steps <= 1 and report.xnnpack_steps <= 3 and report.agreement == 1
    if normalization != "batch":
        # The statistics are an island of floats, in full: nothing of it is in int8, nothing else is
        # in floats.
        operators, tensors = parse(tflite).operators, parse(tflite).tensors
        floats = [op.name for op in operators if tensors[op.outputs[0]].dtype == "float32"]
        integers = [op.name for op in operators if tensors[op.outputs[0]].dtype == "int8"]
        assert {"RSQRT", "SQUARED_DIFFERENCE", "SUB"} <= set(floats)
        assert not {"RSQRT", "SQUARED_DIFFERENCE", "SUB", "DEQUANTIZE"} & set(integers)
        assert floats.count("DEQUANTIZE") == integers.count("QUANTIZE") == 5
