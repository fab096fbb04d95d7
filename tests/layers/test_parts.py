"""Tests of several masks in a batch, `DropConnect(masks=)`."""

import keras
import numpy as np
import pytest

from keras_rram import DropConnect
from keras_rram.layers import (
    DropConnectConv2D,
    DropConnectDense,
    DropConnectLSTM,
    DropConnectMultiHeadAttention,
    DropConnectTimeDistributed,
)
from tests.helpers import to_numpy


def dense(masks, units=50, rate=0.3, **options):
    layer = DropConnectDense(units, drop_connect=DropConnect(rate, seed=1, masks=masks), **options)
    layer.build((None, 6))
    return layer


def test_each_part_of_a_batch_has_a_mask_of_its_own():
    """Unit vectors as inputs give the effective kernel as output."""
    layer = dense(4)
    outputs = to_numpy(layer(np.tile(np.eye(6, dtype="float32"), (4, 1)), training=True))
    kernel = to_numpy(layer.kernel)
    parts = outputs.reshape(4, 6, 50)
    assert all(np.isin(part[kernel != 0] / kernel[kernel != 0], (0, 1)).all() for part in parts)
    lost = parts == 0
    assert abs(lost.mean() - 0.3) < 0.05
    together = [np.mean(lost[0] & lost[other]) for other in (1, 2, 3)]
    assert np.max(together) < 0.15  # independent: 0.09; the same mask: 0.3
    np.testing.assert_allclose(
        to_numpy(layer(np.eye(6, dtype="float32"))), kernel, err_msg="inference drops nothing"
    )


@pytest.mark.parametrize("size", [1, 3, 5, 8, 9])
def test_a_batch_of_any_size_keeps_its_order(size):
    layer = dense(4, rate=0.0)
    inputs = np.random.default_rng(0).normal(size=(size, 6)).astype("float32")
    np.testing.assert_allclose(
        to_numpy(layer(inputs, training=True)), inputs @ to_numpy(layer.kernel), atol=1e-5
    )


@pytest.mark.parametrize(
    ("make", "is_product"),
    [
        (lambda **options: DropConnectDense(7, activation="relu", **options), True),
        (lambda **options: DropConnectConv2D(7, 1, activation="relu", **options), True),
        (lambda **options: DropConnectConv2D(7, 1, strides=2, **options), False),
        (lambda **options: DropConnectConv2D(8, 1, groups=2, **options), False),
        (lambda **options: DropConnectConv2D(7, 3, **options), False),
    ],
)
def test_parts_as_one_product_are_what_they_are_in_turn(make, is_product, monkeypatch):
    inputs = np.random.default_rng(0).normal(size=(8, 5, 4, 6)).astype("float32")
    found = []
    for forced in (None, False):
        keras.utils.set_random_seed(0)
        layer = make(drop_connect=DropConnect(0.4, rescale=True, seed=3, masks=4), name="layer")
        layer.build((None, 5, 4, 6))
        layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
        assert layer.is_product == is_product
        if forced is not None:
            monkeypatch.setattr(type(layer), "is_product", forced)
        found.append(to_numpy(layer(inputs, training=True)))
    np.testing.assert_allclose(*found, atol=1e-5)
    assert np.abs(found[0] - to_numpy(layer(inputs))).max() > 0.1, "nothing was dropped"


def test_batch_normalization_pools_the_masks():
    """Inputs of mean mu: a mask shifts each output's mean, and that is variance of the pool."""
    layer = dense(512, units=3, use_bias=False)
    normalization = keras.layers.BatchNormalization(momentum=0.0)
    inputs = np.tile(np.float32([[1, 2, 0.5, 3, 1, 2]]), (512, 1))
    normalization(layer(inputs, training=True), training=True)
    kernel, squares = to_numpy(layer.kernel), inputs[0] ** 2
    shift = np.sqrt(0.3 * 0.7 * squares @ kernel**2)
    np.testing.assert_allclose(
        to_numpy(normalization.moving_mean), 0.7 * inputs[0] @ kernel, atol=shift.max() / 5
    )
    np.testing.assert_allclose(
        to_numpy(normalization.moving_variance), shift**2, rtol=0.2, err_msg="one mask would give 0"
    )


def test_fit_takes_a_last_batch_that_no_number_of_masks_divides(tmp_path):
    drop_connect = DropConnect(0.2, seed=0, masks=4)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            DropConnectConv2D(4, 3, drop_connect=drop_connect),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            DropConnectDense(2, drop_connect=drop_connect),
        ]
    )
    model.compile("sgd", "mse")
    images = np.random.default_rng(0).normal(size=(11, 8, 8, 1)).astype("float32")
    model.fit(images, np.zeros((11, 2)), batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.drop_connect.masks for layer in again.layers if hasattr(layer, "masks")] == [4, 4]
    np.testing.assert_array_equal(
        again.predict(images, verbose=0), model.predict(images, verbose=0)
    )


def test_layers_of_sequences_have_one_mask_for_all_steps_of_a_part():
    steps = np.tile(np.eye(6, dtype="float32")[None], (2, 1, 1))
    layer = DropConnectTimeDistributed(dense(2))
    first, second = to_numpy(layer(steps, training=True)) == 0
    assert layer.masks == 2 and not np.array_equal(first, second)
    repeated = np.ones((4, 5, 6), "float32")
    outputs = to_numpy(layer(repeated, training=True))
    np.testing.assert_array_equal(outputs, np.broadcast_to(outputs[:, :1], outputs.shape))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[1], outputs[2])

    drop_connect = DropConnect(0.5, seed=0, masks=3)
    attention = DropConnectMultiHeadAttention(2, 4, drop_connect=drop_connect)
    same = np.ones((6, 5, 6), "float32")
    outputs = to_numpy(attention(same, same, training=True))
    lstm = DropConnectLSTM(4, return_sequences=True, drop_connect=drop_connect)
    for found in (outputs, to_numpy(lstm(same, training=True))):
        np.testing.assert_allclose(found[0], found[1], atol=1e-6)
        assert np.abs(found[1] - found[2]).max() > 1e-3

    stateful = DropConnectLSTM(4, stateful=True, drop_connect=drop_connect)
    with pytest.raises(ValueError, match="stateful"):
        stateful(same, training=True)


def test_one_mask_is_what_it_was():
    assert DropConnect(0.1).get_config() == {"rate": 0.1, "rescale": False, "seed": None}
    for masks in (0, 2.0, True):
        with pytest.raises(ValueError, match="masks"):
            DropConnect(0.1, masks=masks)
