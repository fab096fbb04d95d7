import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, faulty_layers, layers
from keras_rram.evaluation.engines import clean_prefix
from keras_rram.evaluation.engines.clean_prefix import cut
from keras_rram.hardware import summary_table
from keras_rram.models import resnet20


@pytest.fixture(scope="module")
def network():
    return resnet20((13,), drop_connect=0.2, width=4)


def test_the_two_parts_are_the_model(network):
    found = cut(network, images=10)
    assert found is not None and not faulty_layers(found.prefix)
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
    chip = Chip(StuckAtZero(0.3), 1, 2)
    with chip.program(network):
        expected = np.asarray(network(images))
        parts = np.asarray(found.suffix(found.prefix(images)))
    np.testing.assert_allclose(parts, expected, rtol=1e-6, atol=1e-6)


def test_a_chip_is_the_same_on_the_part(network):
    found = cut(network, images=10)
    chip = Chip(StuckAtZero(0.3), 1, 2)
    whole, part = chip.faults(network), chip.faults(found.suffix)
    assert list(whole) == list(part)
    for name, fault in whole.items():
        np.testing.assert_array_equal(fault.mask, part[name].mask)


def test_it_cuts_behind_the_last_clean_block(network):
    found = cut(network, images=10)
    names = {layer.name for layer in found.prefix.layers}
    # Convolution 13 begins a block, whose shortcut leaves from the output of convolution 12.
    assert "c12_conv" in names and not any(name.startswith("c13") for name in names)
    share = summary_table(found.prefix).macs / summary_table(network).macs
    assert found.share == share > 0.6


def test_no_cut_where_none_pays_or_nothing_is_clean(network):
    assert cut(network, images=10, least_share=0.9) is None
    assert cut(resnet20(drop_connect=0.2, scope="all", width=4), images=10) is None
    assert cut(resnet20((1,), drop_connect=0.2, width=4), images=10) is None


def test_the_cache_has_a_limit(network, monkeypatch):
    size = 4 * 10 * 16 * 16 * 8  # float32, images, the output of convolution 12
    monkeypatch.setattr(clean_prefix, "CACHE_BYTES", size)
    assert cut(network, images=10) is not None
    monkeypatch.setattr(clean_prefix, "CACHE_BYTES", size - 1)
    found = cut(network, images=10)
    assert found is None or np.prod(found.prefix.output_shape[1:]) < 16 * 16 * 8


def test_a_skip_connection_over_the_cut_prevents_it():
    inputs = keras.Input((8,))
    x = early = keras.layers.Dense(64, name="clean")(inputs)
    x = keras.layers.Dense(64, name="clean2")(x)
    x = layers.DropConnectDense(8, drop_connect=0.1)(x)
    outputs = keras.layers.Concatenate()([x, early])
    found = cut(keras.Model(inputs, outputs), images=10, least_share=0.0)
    assert found.prefix.output.name == early.name


def test_models_without_a_graph_are_left_whole():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    assert cut(Own(), images=10) is None
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(64),
            layers.DropConnectDense(4, drop_connect=0.1),
        ]
    )
    assert cut(model, images=10).share == pytest.approx(512 / 768)
