"""Tests of `keras_rram.layers.group_normalization`: plain Keras is the oracle."""

import keras
import numpy as np
import pytest

from keras_rram import bake, models
from keras_rram.layers import FusedGroupNormalization
from keras_rram.layers.group_normalization import groups_of
from tests.helpers import gradients, to_numpy

IMAGES = (6, 5, 4, 8)
CASES = [
    (IMAGES, {"groups": -1}),
    (IMAGES, {"groups": 1}),
    (IMAGES, {"groups": 2}),
    (IMAGES, {"groups": 8, "epsilon": 0.1}),
    (IMAGES, {"groups": 4, "scale": False}),
    (IMAGES, {"groups": -1, "center": False}),
    (IMAGES, {"groups": -1, "center": False, "scale": False}),
    ((6, 8, 5, 4), {"groups": 2, "axis": 1}),
    (IMAGES, {"groups": 2, "dtype": "mixed_bfloat16"}),
    (IMAGES, {"groups": 2, "dtype": "float64"}),
    ((4, 7, 8), {"groups": 4}),
    ((16, 8), {"groups": 2}),
]


def pair(shape, options):
    plain, ours = keras.layers.GroupNormalization(**options), FusedGroupNormalization(**options)
    rng = np.random.default_rng(1)
    for layer in (plain, ours):
        layer.build(shape)
    values = [rng.uniform(0.5, 2, size=weight.shape) for weight in plain.weights]
    for layer in (plain, ours):
        layer.set_weights(values)
    return plain, ours, rng.normal(2.0, 3.0, size=shape).astype("float32")


@pytest.mark.parametrize(("shape", "options"), CASES)
def test_outputs_and_gradients_are_those_of_keras(shape, options):
    plain, ours, inputs = pair(shape, options)
    loose = 0.1 if "bfloat16" in options.get("dtype", "") else 2e-5
    outputs = [to_numpy(layer(inputs)).astype(np.float32) for layer in (plain, ours)]
    np.testing.assert_allclose(outputs[1], outputs[0], atol=loose, rtol=loose)
    for theirs, found in zip(
        *(gradients(each, inputs, True) for each in (plain, ours)), strict=True
    ):
        np.testing.assert_allclose(found, theirs, atol=10 * loose, rtol=10 * loose)


def test_a_chip_that_shifts_and_scales_a_channel_changes_nothing():
    layer = FusedGroupNormalization(-1, epsilon=1e-9)
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 4)).astype("float32")
    moved = images * np.array([0.5, 1, 2, 3], "float32") + np.array([1, -1, 0.3, 0], "float32")
    np.testing.assert_allclose(to_numpy(layer(moved)), to_numpy(layer(images)), atol=1e-5)


@pytest.mark.parametrize(
    ("normalization", "channels", "groups"),
    [("instance", 8, -1), ("group", 8, 2), ("group", 6, 3), ("group", 5, 5), ("group", 4, 1)],
)
def test_groups_have_four_channels_where_these_fit(normalization, channels, groups):
    assert groups_of(normalization, channels) == groups


def test_a_network_is_saved_and_baked():
    model = models.mini_mobilenet(
        1, drop_connect=0.2, normalization="group", input_shape=(12, 12, 1), expansion=2
    )
    kinds = {layer.name: type(layer) for layer in model.layers}
    assert kinds["block1_depthwise_gn"] is FusedGroupNormalization
    assert FusedGroupNormalization not in {type(layer) for layer in bake(model).layers}
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 1)).astype("float32")
    np.testing.assert_allclose(to_numpy(bake(model)(images)), to_numpy(model(images)), atol=1e-5)


def test_instance_normalization_of_a_single_pixel_is_refused():
    with pytest.raises(ValueError, match=r"single pixel at 'block1_depthwise_in'.*normalization="):
        models.mini_mobilenet(1, normalization="instance", input_shape=(4, 4, 1))


def test_an_unknown_normalization_is_refused():
    with pytest.raises(ValueError, match=r"`normalization` must be one of .*Received: .*'layer'"):
        models.resnet20(normalization="layer")
