"""Tests of `keras_rram.layers.statistics`: what is gathered, and what is held still."""

import keras
import numpy as np
import pytest

from keras_rram import StuckAtZero, models, population
from keras_rram.faults import parse
from keras_rram.layers import (
    CenteredInput,
    DropConnect,
    DropConnectDense,
    DropConnectLSTM,
    DropConnectMultiHeadAttention,
    DropConnectTimeDistributed,
    fix_statistics,
    gather_statistics,
    statistics_layers,
)
from tests.helpers import to_numpy

INPUTS, UNITS, RATE = 20, 6, 0.3


def network(centered=False, kind=keras.layers.BatchNormalization, rescale=False):
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((INPUTS,))
    if centered:
        x = CenteredInput(name="center")(x)
    drop = DropConnect(RATE, rescale=rescale)
    x = DropConnectDense(UNITS, use_bias=False, drop_connect=drop, name="dense")(x)
    return keras.Model(inputs, kind(name="normalization", momentum=0.5)(x))


def features(count=512, seed=0):
    return np.random.default_rng(seed).gamma(2.0, 1.0, (count, INPUTS)).astype("float32")


def held(model, name="normalization"):
    return [to_numpy(weight) for weight in model.get_layer(name).non_trainable_weights]


def recurrent():
    """Two faulty layers of several kernels, one with two inputs, and normalizations behind them."""
    inputs = keras.Input((6, 4))
    x = DropConnectLSTM(4, return_sequences=True, drop_connect=RATE, name="lstm")(inputs)
    x = keras.layers.BatchNormalization(name="first")(x)
    x = DropConnectMultiHeadAttention(2, 3, drop_connect=RATE, name="attention")(x, inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization(name="second")(x))


@pytest.mark.parametrize("rescale", [False, True])
def test_pools_what_chips_do_to_mean_and_variance(rescale):
    model, inputs = network(rescale=rescale), features(60)
    chips = population(StuckAtZero(RATE), 5, seed=3)
    kernel = to_numpy(model.get_layer("dense").kernel)
    gather_statistics(model, inputs, masks=chips, batch_size=60)
    outputs = np.stack(
        [inputs @ (kernel * chip.faults(model)["dense/kernel"].mask) for chip in chips]
    ) / (1 - RATE if rescale else 1)
    mean, variance = held(model)
    np.testing.assert_allclose(mean, outputs.mean((0, 1)), rtol=1e-4, atol=1e-5)
    # The variance within each chip and that between them, which is that of all values together.
    np.testing.assert_allclose(variance, outputs.var((0, 1)), rtol=1e-4)
    assert (to_numpy(model.get_layer("dense").fault_masks["kernel"]) == 1).all()


def test_masks_are_fresh_and_add_the_variance_of_the_mean():
    model, inputs = network(), features()
    kernel = to_numpy(model.get_layer("dense").kernel).astype(np.float64)
    gather_statistics(model, inputs, masks=600, batch_size=512)
    mu, covariance = inputs.mean(0), np.cov(inputs.T, bias=True)
    keep = 1 - RATE
    mean = keep * mu @ kernel
    within = keep**2 * np.einsum("io,ij,jo->o", kernel, covariance, kernel)
    within += keep * RATE * (kernel**2 * inputs.var(0)[:, None]).sum(0)
    between = keep * RATE * (kernel**2 * (mu**2)[:, None]).sum(0)
    found_mean, found_variance = held(model)
    np.testing.assert_allclose(found_mean, mean, atol=5 * np.sqrt(between.max() / 600))
    np.testing.assert_allclose(found_variance, within + between, rtol=0.2)
    assert (between > within / 2).all()  # and no batch ever sees that part


def test_later_layers_see_inputs_normalized_as_on_a_chip():
    inputs = keras.Input((INPUTS,))
    x = DropConnectDense(UNITS, use_bias=False, drop_connect=RATE, name="dense")(inputs)
    x = keras.layers.BatchNormalization(name="first", center=False, scale=False)(x)
    model = keras.Model(inputs, keras.layers.BatchNormalization(name="second")(x))
    chips, values = population(StuckAtZero(RATE), 6), features(100)
    gather_statistics(model, values, chips, batch_size=100)
    kernel = to_numpy(model.get_layer("dense").kernel)
    outputs = np.stack([values @ (kernel * c.faults(model)["dense/kernel"].mask) for c in chips])
    scaled = (outputs - outputs.mean((0, 1))) / np.sqrt(outputs.var((0, 1)) + 1e-3)
    np.testing.assert_allclose(held(model, "second")[0], scaled.mean((0, 1)), atol=1e-4)
    np.testing.assert_allclose(held(model, "second")[1], scaled.var((0, 1)), rtol=1e-3)


def test_a_deep_network_is_normalized_over_its_chips():
    """The oracle: on those chips and images, what leaves a normalization is as its gamma says."""
    images = np.random.default_rng(0).normal(size=(48, 8, 8, 3)).astype("float32")
    model = models.resnet20(width=4, drop_connect=0.2, scope="convolutions", input_shape=(8, 8, 3))
    chips = population(parse("differential_pair:stuck_off=0.1,stuck_on=0.05"), 3, seed=1)
    gather_statistics(model, images, chips, batch_size=16)
    last = keras.Model(model.inputs[0], model.get_layer("c17_conv_bn").output)
    found = []
    for number, chip in enumerate(chips):
        with chip.program(model):
            found.append(to_numpy(last(images[16 * number : 16 * number + 16])))
    values = np.stack(found)
    layer = model.get_layer("c17_conv_bn")
    variance = to_numpy(layer.moving_variance)
    np.testing.assert_allclose(values.mean((0, 1, 2, 3)), 0, atol=1e-4)
    expected = variance / (variance + layer.epsilon)
    np.testing.assert_allclose(values.var((0, 1, 2, 3)), expected, rtol=1e-3)


@pytest.mark.parametrize("make", [lambda: models.mini_mobilenet(1, drop_connect=RATE), recurrent])
def test_compiled_it_is_what_it_is_layer_by_layer(monkeypatch, make):
    found = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = make()
        values = np.random.default_rng(0).gamma(2.0, size=(24, *model.input_shape[1:]))
        gather_statistics(model, values.astype("float32"), masks=4, batch_size=5)
        found.append(model.non_trainable_variables)
        monkeypatch.setattr("keras_rram.layers.statistics._compiled", lambda function: function)
    for compiled, eager in zip(*found, strict=True):
        np.testing.assert_allclose(to_numpy(compiled), to_numpy(eager), rtol=1e-4, atol=1e-5)


def test_centred_inputs_get_the_mean():
    model, inputs = network(centered=True), features(40)
    gather_statistics(model, inputs, masks=3, batch_size=40)
    np.testing.assert_allclose(held(model, "center")[0], inputs.mean(0), rtol=1e-5)


def test_fixed_statistics_stay_and_training_sees_them():
    model, inputs = network(centered=True), features(64)
    model.get_layer("dense").drop_rate.assign(0.0)
    gather_statistics(model, inputs, masks=2, batch_size=64)
    before = held(model) + held(model, "center")
    with fix_statistics(model):
        np.testing.assert_allclose(
            to_numpy(model(inputs + 1, training=True)), to_numpy(model(inputs + 1)), atol=1e-5
        )
        model.compile("sgd", "mse")
        gamma = to_numpy(model.get_layer("normalization").gamma)
        model.fit(inputs, np.zeros((64, UNITS)), epochs=2, verbose=0)
    assert (to_numpy(model.get_layer("normalization").gamma) != gamma).all()
    for old, new in zip(before, held(model) + held(model, "center"), strict=True):
        np.testing.assert_array_equal(new, old)
    model(inputs + 1, training=True)
    assert (held(model)[0] != before[0]).all()


def test_the_networks_of_this_package_have_their_statistics_gathered():
    model = models.mini_mobilenet(
        1, drop_connect=0.3, centered_inputs=True, input_shape=(12, 12, 1), expansion=2
    )
    images = np.random.default_rng(0).normal(size=(16, 12, 12, 1)).astype("float32")
    gather_statistics(model, images, masks=2, batch_size=16)
    assert len(statistics_layers(model)) == 5 + 3
    for layer in statistics_layers(model).values():
        assert to_numpy(layer.moving_mean).any(), layer.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 0}, "`masks` must be an integer >= 1. Received: masks=0"),
        ({"masks": []}, "`masks` must be a number or chips. Received: no chip"),
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
        ({"images": np.zeros((3, 4), "float32")}, "`images` must be a non-empty array of numbers"),
        ({"images": np.zeros((3, INPUTS), bool)}, "`images` must be .*Received: .*bool"),
        ({"images": np.full((3, INPUTS), np.nan, "float32")}, "statistics that are not finite"),
    ],
)
def test_says_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        gather_statistics(network(), **{"images": features(4), **options})


def test_models_without_statistics_or_masks_are_refused():
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    images = np.zeros((2, 3), "float32")
    for function in (lambda: gather_statistics(plain, images), lambda: fix_statistics(plain)):
        with pytest.raises(ValueError, match="has no statistics"):
            function()
    normalized = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    with pytest.raises(ValueError, match="no Drop-Connect layer: there are no masks to draw"):
        gather_statistics(normalized, images)


@pytest.mark.parametrize("chips", [True, False])
def test_each_mask_is_that_of_a_whole_sequence(chips):
    """A dense layer that is called in each time step has the statistics of one that is not."""
    masks = population(StuckAtZero(RATE), 24, seed=3) if chips else 300
    sequences = features(600).reshape(200, 3, INPUTS)
    found = []
    for is_distributed in (True, False):
        keras.utils.set_random_seed(0)
        layer = DropConnectDense(UNITS, drop_connect=RATE, name="dense")
        inputs = keras.Input((3, INPUTS))
        x = (DropConnectTimeDistributed(layer) if is_distributed else layer)(inputs)
        model = keras.Model(inputs, keras.layers.BatchNormalization(name="normalization")(x))
        gather_statistics(model, sequences, masks, batch_size=200 if chips else 8)
        found.append(held(model))
    (mean, variance), (expected_mean, expected_variance) = found
    spread = np.sqrt(expected_variance)
    np.testing.assert_allclose(mean / spread, expected_mean / spread, atol=1e-4 if chips else 0.2)
    np.testing.assert_allclose(variance, expected_variance, rtol=1e-4 if chips else 0.3)
