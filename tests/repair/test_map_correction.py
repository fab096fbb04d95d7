"""Tests of `keras_rram.repair.map_correction` and `keras_rram.repair.input_means`."""

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, layers
from keras_rram.faults import StuckCells
from keras_rram.repair.batch_norm import BatchNormRecalibration
from keras_rram.repair.input_means import clipped_moments
from keras_rram.repair.learned_correction import LearnedCorrection
from keras_rram.repair.map_correction import MapCorrection, MeanRead
from tests.helpers import to_numpy
from tests.repair.networks import activated, images, network, statistics


@pytest.mark.parametrize("most", [None, 6.0])
def test_moments_of_clipped_normal_variables(most):
    mean, variance = np.array([-2.0, 0.0, 1.0, 5.5]), np.array([1.0, 4.0, 0.3, 2.0])
    draws = np.random.default_rng(0).normal(size=(200_000, 4)) * np.sqrt(variance) + mean
    clipped = np.clip(draws, 0, most)
    found = clipped_moments(mean, variance, most)
    np.testing.assert_allclose(found[0], clipped.mean(0), atol=0.02)
    np.testing.assert_allclose(found[1], clipped.var(0), atol=0.04)


def dense_chain(rate):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.DropConnectDense(5, drop_connect=rate, name="one"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.ReLU(),
            layers.DropConnectDense(3, drop_connect=rate, name="two"),
            keras.layers.BatchNormalization(name="bn2"),
            layers.DropConnectDense(2, drop_connect=rate, name="head"),
        ]
    )
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.dtype == "float32" and "fault" not in variable.name and len(variable.shape):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def test_without_data_the_mean_moves_by_the_sum_over_the_faults():
    """The formula by NumPy, with the mean of what a normal variable leaves behind a ReLU."""
    model, chip = dense_chain(0.3), Chip(StuckAtZero(0.4), seed=1)
    before = statistics(model)
    faults = chip.faults(model)
    bias = to_numpy(model.get_layer("head").bias)
    with chip.program(model), MapCorrection()(model, chip):
        after, moved = statistics(model), to_numpy(model.get_layer("head").bias)
    gamma, beta = (to_numpy(one) for one in model.get_layer("bn").trainable_variables)
    mu, v = clipped_moments(beta, gamma**2)
    w, m = to_numpy(model.get_layer("two").kernels["kernel"]), faults["two/kernel"].mask
    shift = ((m - 0.7) * w * mu[:, None]).sum(0)
    np.testing.assert_allclose(after["bn2"][0] - before["bn2"][0], shift, rtol=1e-4, atol=1e-5)
    ratio = ((m * w) ** 2 * v[:, None]).sum(0) / (0.7 * (w**2 * v[:, None]).sum(0))
    np.testing.assert_allclose(after["bn2"][1] / before["bn2"][1], ratio, rtol=1e-4)
    # The inputs have mean zero: nothing moves in front of the first batch normalization.
    np.testing.assert_allclose(after["bn"][0], before["bn"][0], rtol=1e-6)
    mean = to_numpy(model.get_layer("bn2").beta)
    head, lost = to_numpy(model.get_layer("head").kernels["kernel"]), faults["head/kernel"].mask
    np.testing.assert_allclose(
        bias - moved, ((lost - 0.7) * head * mean[:, None]).sum(0), rtol=1e-4, atol=1e-5
    )


def test_a_nested_model_behind_preprocessing_is_corrected_as_it_is_alone():
    alone = network(0.2)
    inputs = keras.Input(alone.input_shape[1:])
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    whole = keras.Model(inputs, keras.layers.Dropout(0.1)(alone(scaled)))
    chip, found = Chip(StuckAtZero(0.3), seed=1), []
    for model in (alone, whole):
        with chip.program(model), MapCorrection()(model, chip):
            found.append((statistics(alone), to_numpy(alone.get_layer("head").bias)))
    for name, values in found[0][0].items():
        np.testing.assert_array_equal(found[1][0][name], values)
    np.testing.assert_array_equal(found[1][1], found[0][1])
    assert found[0][0]["conv_bn"][1].min() < 1


def test_the_mean_of_the_moment_alone():
    model, chip = dense_chain(0.3), Chip(StuckAtZero(0.4), seed=1)
    before = statistics(model)
    with chip.program(model), MapCorrection(moments="mean")(model, chip):
        after = statistics(model)
    assert np.abs(after["bn2"][0] - before["bn2"][0]).max() > 0.01
    np.testing.assert_array_equal(after["bn2"][1], before["bn2"][1])


def test_padding_counts_in_the_mean_of_a_convolution():
    model, data = network(0.0), images(400)
    with BatchNormRecalibration(data, 1000)(model):
        exact = statistics(model)
    keras_model = network(0.0)
    for layer in keras_model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
    half = Chip(StuckAtZero(0.5), seed=2)
    with half.program(keras_model), BatchNormRecalibration(data, 1000)(keras_model):
        moved = statistics(keras_model)["depthwise_bn"][0]
    with half.program(keras_model), MapCorrection()(keras_model, half):
        predicted = statistics(keras_model)["depthwise_bn"][0]
    # Means alone say most of it, though the activations are not normal.
    wanted = moved - exact["depthwise_bn"][0]
    assert np.corrcoef(wanted, predicted)[0, 1] > 0.9


def test_measured_moments_are_exact_in_the_first_layer():
    model, data = network(), images()
    for fault_model in (StuckAtZero(0.3), StuckCells(stuck_off=0.1, stuck_on=0.1)):
        chip = Chip(fault_model, seed=5)
        with chip.program(model):
            with BatchNormRecalibration(data, 1000)(model):
                expected = statistics(model)
            with MapCorrection(data, chips=0)(model, chip):
                found = statistics(model)
        np.testing.assert_allclose(found["conv_bn"], expected["conv_bn"], rtol=1e-4, atol=1e-5)
        assert not np.allclose(found["grouped_bn"], expected["grouped_bn"], rtol=1e-4)


def test_measured_moments_of_a_healthy_chip_are_those_of_recalibration():
    model, data, chip = network(), images(), Chip(StuckAtZero(0.0))
    with BatchNormRecalibration(data, 1000)(model):
        expected = statistics(model)
    with MapCorrection(data, chips=0)(model, chip):
        found = statistics(model)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4)


def test_one_read_gives_the_means_that_follow_from_the_map():
    model, data = network(), images()
    chip = Chip(StuckCells(stuck_off=0.2, stuck_on=0.1), seed=6)
    with chip.program(model):
        with MapCorrection(data, chips=0)(model, chip):
            expected = statistics(model)
        before = statistics(model)
        with MeanRead(data)(model):
            found = statistics(model)
    for name in expected:
        np.testing.assert_allclose(found[name][0], expected[name][0], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(found[name][1], before[name][1])
    assert (MapCorrection().access_tier, MeanRead(data).access_tier) == ("C", "B")


def test_layers_of_unknown_effect_need_images():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.DropConnectDense(5, drop_connect=0.1),
            keras.layers.Softmax(),
            layers.DropConnectDense(2, drop_connect=0.1),
        ]
    )
    chip = Chip(StuckAtZero(0.2))
    with chip.program(model), pytest.raises(ValueError, match="Give `images`"):
        MapCorrection()(model, chip)
    with pytest.raises(ValueError, match="moments"):
        MapCorrection(moments="variance")


def rows(count=200):
    return np.random.default_rng(5).normal(size=(count, 4)).astype("float32")


@pytest.mark.parametrize("is_measured", [False, True])
def test_behind_an_activation_the_bias_takes_the_shift_of_the_sums(is_measured):
    """By NumPy; the batch normalization, which sees what the activation makes, stays."""
    rate, data, chip = 0.2, rows(), Chip(StuckAtZero(0.4), seed=1)
    model = activated(rate=rate)
    before, faults = statistics(model), chip.faults(model)
    biases = {name: to_numpy(model.get_layer(name).bias) for name in ("one", "two", "head")}
    repair = MapCorrection(data, chips=0) if is_measured else MapCorrection()
    with chip.program(model), repair(model, chip):
        after = statistics(model)
        moved = {name: to_numpy(model.get_layer(name).bias) for name in biases}
    kernels = {name: to_numpy(model.get_layer(name).kernels["kernel"]) for name in biases}
    means = {"one": np.zeros(4), "two": to_numpy(model.get_layer("one_bn").beta)}
    if is_measured:
        x = np.maximum(data @ kernels["one"] + biases["one"], 0)
        bn = model.get_layer("one_bn")
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + bn.epsilon) * to_numpy(bn.gamma)
        means = {"one": data.mean(0), "two": (x + to_numpy(bn.beta)).mean(0)}
    for name, mean in means.items():
        mask = faults[f"{name}/kernel"].mask
        shift = ((mask - (1 - rate)) * kernels[name] * mean[:, None]).sum(0)
        np.testing.assert_allclose(biases[name] - moved[name], shift, rtol=1e-3, atol=1e-5)
    assert np.abs(biases["two"] - moved["two"]).max() > 0.1
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


def test_a_read_moves_only_the_statistics_right_behind_a_layer():
    model, data, chip = activated("linear", "relu"), rows(), Chip(StuckAtZero(0.4), seed=1)
    before, layer = statistics(model), model.get_layer("one")
    kernel, mask = to_numpy(layer.kernels["kernel"]), chip.faults(model)["one/kernel"].mask
    repair = MeanRead(data)
    repair.check_model(model)
    with chip.program(model), repair(model, chip):
        after = statistics(model)
    expected = data.mean(0) @ (kernel * mask) + to_numpy(layer.bias)
    np.testing.assert_allclose(after["one_bn"][0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after["two_bn"], before["two_bn"])


def test_the_learned_correction_moves_only_the_statistics_right_behind_a_layer():
    model, data, chip = activated("linear", "relu", rate=0.2), rows(), Chip(StuckAtZero(0.4))
    before = statistics(model)
    with chip.program(model), LearnedCorrection(data, chips=2)(model, chip):
        after = statistics(model)
    assert not np.allclose(after["one_bn"], before["one_bn"], rtol=0.01)
    np.testing.assert_array_equal(after["two_bn"], before["two_bn"])


@pytest.mark.parametrize("repair", [MeanRead(rows()), LearnedCorrection(rows(), chips=2)])
def test_repairs_of_batch_normalization_refuse_models_with_activations_in_front_of_it(repair):
    model, chip = activated(), Chip(StuckAtZero(0.2))
    with pytest.raises(ValueError, match="linear activation.*--repair=batch_norm"):
        repair.check_model(model)
    with chip.program(model), pytest.raises(ValueError, match="linear activation"):
        repair(model, chip)


@pytest.mark.parametrize("data", [None, rows()])
def test_a_correction_with_nowhere_to_go_is_an_error(data):
    model, chip = activated(use_bias=False), Chip(StuckAtZero(0.2))
    with chip.program(model), pytest.raises(ValueError, match="layers with a bias"):
        MapCorrection(data)(model, chip)
