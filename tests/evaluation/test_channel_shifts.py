"""Tests of `keras_rram.evaluation.channel_shifts` and of its picture."""

import keras
import numpy as np
import pytest
from matplotlib.image import imread

from keras_rram import StuckAtZero, population
from keras_rram.evaluation.channel_shifts import channel_shifts
from keras_rram.layers import DropConnectDense
from keras_rram.plots.channels import channel_clouds
from tests.helpers import to_numpy

CHIPS = population(StuckAtZero(0.3), 4, seed=1)


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9,))
    x = DropConnectDense(5, drop_connect=0.3, name="dense")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(x))


def test_means_and_deviations_are_those_of_the_faulty_matrix():
    model = network()
    images = np.random.default_rng(0).gamma(2, 1, (50, 9)).astype("float32")
    found = channel_shifts(model, "dense", images, CHIPS)
    kernel = to_numpy(model.get_layer("dense").kernel).astype(np.float64)
    outputs = np.stack([images @ (kernel * c.faults(model)["dense/kernel"].mask) for c in CHIPS])
    means, deviations = outputs.mean(1), outputs.std(1)
    shifts = (means - means.mean(0)) / deviations.mean(0)
    np.testing.assert_allclose(found.shifts, shifts, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.scales, deviations / deviations.mean(0), rtol=1e-4)
    assert found.spread == pytest.approx(np.sqrt((found.scales.std(0) ** 2).mean()))
    assert found.shift == pytest.approx(np.sqrt((found.shifts**2).mean()))
    assert (to_numpy(model.get_layer("dense").fault_masks["kernel"]) == 1).all()


def test_a_picture_is_a_small_png_that_is_always_the_same(tmp_path):
    images = np.random.default_rng(0).normal(size=(20, 9)).astype("float32")
    found = channel_shifts(network(), "dense", images, CHIPS)
    for name in ("a.png", "b.png"):
        channel_clouds({"before": found, "after": found}, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert imread(tmp_path / "a.png").std() > 0.02
    with pytest.raises(ValueError, match="at least one network"):
        channel_clouds({}, tmp_path / "c.png")


def test_one_chip_is_not_enough():
    with pytest.raises(ValueError, match="at least two chips. Received: 1"):
        channel_shifts(network(), "dense", np.zeros((2, 9)), CHIPS[:1])
