"""Tests of `keras_rram.layers.centered_input` and of putting it before a model's layers."""

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, bake, faulty_layers, models, to_drop_connect
from keras_rram.layers import CenteredInput, DropConnectDense, FusedGroupNormalization
from tests.helpers import tiny_images, tiny_model, to_numpy


def test_subtracts_the_moving_mean_and_moves_it_in_training():
    layer = CenteredInput(momentum=0.75)
    inputs = np.random.default_rng(0).normal(3.0, 1.0, (5, 4, 4, 2)).astype("float32")
    np.testing.assert_array_equal(to_numpy(layer(inputs)), inputs)
    np.testing.assert_array_equal(to_numpy(layer(inputs, training=True)), inputs)
    mean = 0.25 * inputs.mean((0, 1, 2))
    np.testing.assert_allclose(to_numpy(layer.moving_mean), mean, rtol=1e-6)
    for training in (False, True):
        found = to_numpy(layer(inputs, training=training))
        np.testing.assert_allclose(found, inputs - mean, atol=1e-6)
        layer.moving_mean.assign(mean)
    layer.trainable = False
    before = to_numpy(layer.moving_mean)
    layer(inputs, training=True)
    np.testing.assert_array_equal(to_numpy(layer.moving_mean), before)


@pytest.mark.parametrize("momentum", [1.0, -0.1, True])
def test_a_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match=r"`momentum` must be in \[0, 1\). Received"):
        CenteredInput(momentum)


def test_lost_weights_no_longer_shift_the_mean():
    rng = np.random.default_rng(0)
    inputs = rng.uniform(0, 2, (2000, 60)).astype("float32")
    center, dense = CenteredInput(momentum=0.0), DropConnectDense(50, drop_connect=0.3)
    centered = keras.Sequential([keras.Input((60,)), center, dense])
    raw = keras.Sequential([keras.Input((60,)), dense])
    center(inputs, training=True)
    shifts = {}
    for name, model in (("raw", raw), ("centered", centered)):
        healthy = to_numpy(model(inputs))
        with Chip(StuckAtZero(0.3)).program(model):
            faulty = to_numpy(model(inputs))
        shifts[name] = np.abs(faulty.mean(0) - healthy.mean(0)) / healthy.std(0)
    assert shifts["raw"].mean() > 0.5
    assert shifts["centered"].max() < 1e-4


def test_builders_centre_the_faulty_layers_alone():
    model = models.mini_mobilenet(
        1, drop_connect=0.2, scope="depthwise", centered_inputs=True, input_shape=(12, 12, 1)
    )
    centers = [layer.name for layer in model.layers if isinstance(layer, CenteredInput)]
    assert centers == ["block1_depthwise_center"]
    # Before the padding, whose zeros are then the mean.
    model = models.resnet20(drop_connect=0.2, scope="all", centered_inputs=True, width=4)
    names = [layer.name for layer in model.layers]
    assert names.index("c07_conv_center") < names.index("c07_conv_pad")
    assert {f"{name}_center" for name in faulty_layers(model)} <= set(names)


def test_centred_inputs_without_faulty_layers_are_refused():
    with pytest.raises(ValueError, match="cannot take effect without faulty layers"):
        models.resnet20(centered_inputs=True)


def trained(model, steps=3):
    images, labels = tiny_images()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, labels, epochs=steps, verbose=0)
    return images


@pytest.mark.parametrize("nested", [False, True])
def test_conversion_leaves_the_outputs_and_training_moves_the_means(nested):
    plain = bake(tiny_model())
    images, _ = tiny_images()
    if nested:
        plain = keras.Sequential([keras.Input((8, 8, 1)), plain, keras.layers.Dense(4, name="z")])
    twin = to_drop_connect(plain, 0.3, centered_inputs=True)
    np.testing.assert_array_equal(to_numpy(twin(images)), to_numpy(plain(images)))
    centers = {
        layer.name: layer for layer in twin._flatten_layers() if isinstance(layer, CenteredInput)
    }
    assert set(centers) == {f"{name}_center" for name in faulty_layers(twin)}
    trained(twin)
    assert all(to_numpy(layer.moving_mean).any() for layer in centers.values())
    with Chip(StuckAtZero(0.3)).program(twin):
        baked = bake(twin)
        np.testing.assert_allclose(to_numpy(baked(images)), to_numpy(twin(images)), atol=1e-5)
    assert not any(isinstance(layer, CenteredInput) for layer in baked._flatten_layers())


def test_a_centred_model_is_saved_whole(tmp_path):
    model = to_drop_connect(bake(tiny_model()), 0.3, centered_inputs=True)
    images = trained(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(images)), to_numpy(model(images)))


def test_conversion_puts_normalizations_of_each_image_in_the_place_of_batch_normalization():
    plain = models.mini_mobilenet(1, input_shape=(12, 12, 1), expansion=2)
    twin = to_drop_connect(plain, 0.2, normalization="instance")
    for layer in twin.layers:
        assert not isinstance(layer, keras.layers.BatchNormalization)
    before, after = (model.get_layer("block1_expand_bn") for model in (plain, twin))
    assert isinstance(after, FusedGroupNormalization) and after.groups == 64
    np.testing.assert_array_equal(to_numpy(after.gamma), to_numpy(before.gamma))
    with pytest.raises(ValueError, match="no batch normalization of images"):
        to_drop_connect(
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), 0.1, normalization="group"
        )
    with pytest.raises(ValueError, match="`normalization` must be one of"):
        to_drop_connect(plain, 0.1, normalization="layer")
