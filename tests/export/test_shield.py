"""Tests of `keras_rram.export.shield`: files of chips behind what adds constants to inputs."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_rram import Chip, StuckAtZero, models, to_drop_connect
from keras_rram.export import convert
from keras_rram.export.flatbuffer import parse
from keras_rram.export.litert_model import LiteRTModel
from keras_rram.export.patchable import PatchableModel
from keras_rram.export.shield import exposed_layers, shielded
from keras_rram.layers import CenteredInput, bake

FEATURES, IMAGES = (20,), (10, 10, 3)
GRAY, SERIES = (10, 10, 1), (7, 5)


def dense(name, units=6, activation=None):
    return layers.Dense(units, activation, name=name)


def einsum(name):
    return layers.EinsumDense("abc,cd->abd", (None, 6), bias_axes="d", name=name)


def attend(name):
    layer = layers.MultiHeadAttention(2, 3, name=name)
    return lambda x: layer(x, value=x)


def head():
    return [layers.GlobalAveragePooling2D(), dense("head")]


def preprocessed(model):
    """A model within a model, which cannot know what is in front of it."""
    return [lambda x: x / 2.0 - 1.0, model]


CASES = {
    "offset": (FEATURES, lambda: [layers.Rescaling(0.5, offset=-1.0), dense("behind")]),
    "arithmetic": (FEATURES, lambda: [lambda x: (x - 2.0) / 3.0, dense("behind")]),
    "centred": (FEATURES, lambda: [dense("a", 8, "relu"), CenteredInput(), dense("behind")]),
    "batch normalization": (FEATURES, lambda: [layers.BatchNormalization(), dense("behind")]),
    "behind a ReLU": (
        FEATURES,
        lambda: [dense("a", 8, "relu"), layers.BatchNormalization(), dense("behind")],
    ),
    "linear": (FEATURES, lambda: [dense("a", 8), layers.BatchNormalization(), dense("behind")]),
    "behind dropout": (
        FEATURES,
        lambda: [layers.BatchNormalization(), layers.Dropout(0.1), dense("behind")],
    ),
    "einsum": (
        SERIES,
        lambda: [layers.BatchNormalization(), einsum("behind"), layers.GlobalAveragePooling1D()],
    ),
    "attention": (
        SERIES,
        lambda: [lambda x: x / 2.0 - 1.0, attend("behind"), layers.GlobalAveragePooling1D()],
    ),
    "offset of images": (
        IMAGES,
        lambda: [layers.Rescaling(0.5, -1.0), layers.Conv2D(4, 3, name="behind"), *head()],
    ),
    "flattened": (
        IMAGES,
        lambda: [
            layers.Conv2D(3, 3, activation="relu", name="a"),
            layers.BatchNormalization(),
            layers.Flatten(),
            dense("behind"),
        ],
    ),
    "valid padding": (
        IMAGES,
        lambda: [lambda x: x / 2.0 - 1.0, layers.Conv2D(4, 3, name="behind"), *head()],
    ),
    "one channel": (GRAY, lambda: [CenteredInput(), layers.Conv2D(4, 3, name="behind"), *head()]),
    "depthwise": (
        IMAGES,
        lambda: [lambda x: x * 2.0 + 1.0, layers.DepthwiseConv2D(3, name="behind"), *head()],
    ),
    "nested": (
        IMAGES,
        lambda: preprocessed(
            keras.Sequential([keras.Input(IMAGES), layers.Conv2D(4, 3, name="behind"), *head()])
        ),
    ),
    "sequential": (
        FEATURES,
        lambda: [keras.Sequential([layers.BatchNormalization(), dense("behind")])],
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


def build(case):
    shape, make = CASES[case]
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(shape)
    for layer in make():
        x = layer(x)
    model = keras.Model(inputs, x)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.dtype == "float32":
            is_scale = "variance" in weight.path or "gamma" in weight.path
            weight.assign(
                rng.uniform(0.5, 1.5, weight.shape)
                if is_scale
                else rng.normal(0.3, 0.5, weight.shape)
            )
    return model, rng.normal(1.0, 1.0, (32, *shape)).astype("float32")


def difference(case):
    """Largest difference of a chip's patched file from Keras, relative to the largest output."""
    model, inputs = build(case)
    model = to_drop_connect(model, 0.3)
    chip = Chip(StuckAtZero(0.3))
    with chip.program(model):
        expected = np.asarray(keras.ops.convert_to_numpy(model(inputs)))
    patcher = PatchableModel.convert(model, "float32")
    outputs = LiteRTModel(bytes(patcher.patch(chip.faults(model))), batch_size=32).predict(inputs)
    return np.abs(outputs - expected).max() / np.abs(expected).max()


@each_case
def test_the_file_of_a_chip_computes_what_keras_does(case):
    assert exposed_layers(build(case)[0]) == {"behind"}
    assert difference(case) < 1e-5


@pytest.mark.parametrize(
    "case", ["offset", "arithmetic", "centred", "valid padding", "one channel", "attention"]
)
def test_without_the_shield_it_is_another_network(case, monkeypatch):
    monkeypatch.setattr("keras_rram.export.prepare.exposed_layers", lambda model: set())
    assert difference(case) > 0.01


@pytest.mark.parametrize("case", ["flattened", "valid padding"])
def test_int8_files_are_no_worse_than_without_faults(case):
    model, inputs = build(case)
    chip, model = Chip(StuckAtZero(0.05)), to_drop_connect(model, 0.3)
    patcher = PatchableModel.convert(model, "int8", inputs, chips=[chip])
    fault_free = patcher.verify(model, {}, inputs).max_difference
    assert patcher.verify(model, chip.faults(model), inputs).max_difference < 2 * fault_free


def test_networks_that_need_none_are_left_alone():
    plain = [
        models.mini_mobilenet(2),
        models.resnet20(),
        bake(models.mini_mobilenet(2, drop_connect=0.3, centered_inputs=True)),
        keras.Sequential([keras.Input(FEATURES), dense("a"), dense("b")]),
        keras.Sequential([keras.Input(IMAGES), layers.Conv2D(4, 3), layers.Flatten(), dense("b")]),
    ]
    assert [exposed_layers(model) for model in plain] == [set()] * len(plain)
    # A linear bottleneck: its normalization is folded into the convolution in front of it.
    inputs = keras.Input(IMAGES)
    x = layers.BatchNormalization()(layers.Conv2D(4, 1, name="project")(inputs))
    x = layers.Conv2D(4, 3, name="expand")(x)
    assert not exposed_layers(keras.Model(inputs, layers.add([x, x])))


def test_a_shield_is_one_reshape():
    model, _ = build("batch normalization")
    operators = [operator.name for operator in parse(convert(model, "float32")).operators]
    assert operators == ["MUL", "ADD", "RESHAPE", "FULLY_CONNECTED"]


def test_a_shielded_layer_is_its_layer():
    inputs = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    layer = layers.Dense(3)
    expected = layer(inputs)
    twin = shielded(layers.Dense).from_config(layer.get_config())
    twin.build((None, 5))
    twin.set_weights(layer.get_weights())
    np.testing.assert_array_equal(twin(inputs), expected)
