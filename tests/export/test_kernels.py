import keras
import numpy as np
import pytest

from keras_rram import Chip, DropConnect, StuckAtZero, layers
from keras_rram.chips import program
from keras_rram.export.kernels import (
    chip_gains,
    kernels_of,
    scaled,
    weights_sha256,
)
from tests import export_models


def rescaling_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.DropConnectDense(5, drop_connect=DropConnect(0.2, rescale=True), name="scaled")(
        inputs
    )
    return keras.Model(inputs, layers.DropConnectDense(3, drop_connect=0.2, name="unscaled")(x))


def test_kernels_are_as_trained_whatever_is_programmed():
    model = export_models.build()
    before = {name: kernel.values for name, kernel in kernels_of(model).items()}
    digest = weights_sha256(model)
    with export_models.chip().program(model):
        after = kernels_of(model)
        assert weights_sha256(model) == digest
    for name, values in before.items():
        np.testing.assert_array_equal(after[name].values, values)
    assert before["separable/pointwise_kernel"].shape == (1, 1, 8, 8)
    assert kernels_of(model)["separable/depthwise_kernel"].kind == "depthwise"
    assert kernels_of(model)["separable/pointwise_kernel"].kind == "convolution"
    model.get_layer("head").bias.assign(np.ones(10))
    assert weights_sha256(model) != digest


def test_a_plain_model_has_its_kernels_and_one_without_any_is_refused():
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.SeparableConv2D(3, 3, name="a")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="b")(keras.layers.Flatten()(x)))
    assert set(kernels_of(model)) == {"a/depthwise_kernel", "a/pointwise_kernel", "b/kernel"}
    with pytest.raises(ValueError, match="no kernel"):
        kernels_of(keras.Model(inputs, keras.layers.Flatten()(inputs)))


def test_gains_are_the_largest_over_chips(monkeypatch):
    model = rescaling_model()
    chips = [Chip(StuckAtZero(rate)) for rate in (0.0, 0.5, 0.2)]
    assert chip_gains(chips, model) == {"scaled/kernel": 2.0}
    assert chip_gains(chips[:1], model) == {}
    assert chip_gains(chips, export_models.model()) == {}
    # No chip is drawn for that.
    monkeypatch.setattr(Chip, "faults", None)
    assert chip_gains(chips, model) == {"scaled/kernel": 2.0}


def test_scaled_breaks_nothing_and_gives_back():
    model = rescaling_model()
    Chip(StuckAtZero(0.5)).program(model)
    before = np.array(model.get_layer("scaled").fault_masks["kernel"])
    with program(model, scaled(model, {"scaled/kernel": 2.0})):
        assert (np.asarray(model.get_layer("scaled").fault_masks["kernel"]) == 2).all()
        assert (np.asarray(model.get_layer("unscaled").fault_masks["kernel"]) == 1).all()
    np.testing.assert_array_equal(model.get_layer("scaled").fault_masks["kernel"], before)
