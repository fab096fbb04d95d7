import re

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, bake, faulty_layers, to_drop_connect
from keras_rram.chips import audit
from keras_rram.layers import DropConnectMixin
from keras_rram.layers.cloning import copied
from keras_rram.layers.drop_connect import DropConnect
from keras_rram.layers.roles import role_of
from tests.helpers import tiny_images, tiny_model, to_numpy


def outputs(model, images):
    return to_numpy(model(images))


def plain_model():
    return bake(tiny_model())


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a minute elsewhere")
def test_mobilenet_v2_keeps_its_outputs_and_weights():
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=5)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    twin = to_drop_connect(model, 0.2)
    np.testing.assert_array_equal(outputs(twin, images), outputs(model, images))
    kernels = [layer for layer in model.layers if any(len(w.shape) > 1 for w in layer.weights)]
    assert list(faulty_layers(twin)) == [layer.name for layer in kernels]
    blocks = to_drop_connect(model, 0.2, where="blocks")
    assert {role_of(layer) for layer in faulty_layers(blocks).values()} == {
        "expand",
        "depthwise",
        "project",
    }


def test_sequential_and_nested_models():
    inner = plain_model()
    model = keras.Sequential([keras.Input((8, 8, 1)), inner, keras.layers.Dense(3, name="last")])
    images, _ = tiny_images()
    twin = to_drop_connect(model, DropConnect(0.2, seed=1))
    np.testing.assert_array_equal(outputs(twin, images), outputs(model, images))
    assert {"last", "head", "stem"} <= set(faulty_layers(twin))
    with Chip(StuckAtZero(0.3)).program(twin):
        np.testing.assert_allclose(outputs(bake(twin), images), outputs(twin, images), atol=1e-6)


def test_shared_layers_stay_shared():
    shared = keras.layers.Dense(4, name="shared")
    a, b = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([a, b], keras.layers.Add()([shared(a), shared(b)]))
    twin = to_drop_connect(model, 0.1)
    data = [np.ones((2, 4), "float32"), np.zeros((2, 4), "float32")]
    np.testing.assert_array_equal(to_numpy(twin(data)), to_numpy(model(data)))
    assert list(faulty_layers(twin)) == ["shared"]


def test_the_original_is_untouched_and_trains_apart():
    model = plain_model()
    before = [to_numpy(weight) for weight in model.weights]
    twin = to_drop_connect(model, 0.2)
    twin.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    twin.fit(*tiny_images(), verbose=0)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), value)


def test_a_model_with_a_loss_of_its_own_converts_and_stays_compiled():
    def loss(labels, outputs):
        return keras.losses.sparse_categorical_crossentropy(labels, outputs, from_logits=True)

    model = plain_model()
    model.compile("sgd", loss, metrics=["accuracy"])
    twin = to_drop_connect(model, 0.1, centered_inputs=True)
    images, labels = tiny_images(2)
    np.testing.assert_allclose(outputs(twin, images), outputs(model, images), atol=1e-5)
    assert model.compiled and not twin.compiled and not bake(twin).compiled
    model.fit(images, labels, verbose=0)


def test_where_takes_a_function_a_scope_or_roles():
    model = plain_model()
    by_function = to_drop_connect(model, 0.2, where=lambda layer: layer.name == "head")
    assert list(faulty_layers(by_function)) == ["head"]
    assert list(faulty_layers(to_drop_connect(model, 0.2, where=["stem"]))) == ["stem"]
    with pytest.raises(ValueError, match="was chosen"):
        to_drop_connect(model, 0.2, where="shortcut")
    with pytest.raises(ValueError, match="scope"):
        to_drop_connect(model, 0.2, where="nowhere")


def test_converting_again_changes_the_rate_and_keeps_the_chip():
    model = tiny_model(0.2)
    images, _ = tiny_images()
    Chip(StuckAtZero(0.3)).program(model)
    again = to_drop_connect(model, 0.4)
    np.testing.assert_array_equal(outputs(again, images), outputs(model, images))
    rates = {float(to_numpy(layer.drop_rate)) for layer in faulty_layers(again).values()}
    assert rates == {np.float32(0.4)}


def test_bake_gives_plain_keras_with_the_chip_in_the_weights(tmp_path):
    model = tiny_model()
    images, _ = tiny_images()
    with Chip(StuckAtZero(0.3), seed=2).program(model):
        baked = bake(model)
        np.testing.assert_allclose(outputs(baked, images), outputs(model, images), atol=1e-6)
    assert not any(isinstance(layer, DropConnectMixin) for layer in baked.layers)
    assert np.mean(to_numpy(baked.get_layer("head").kernel) == 0) > 0.1
    baked.save(tmp_path / "baked.keras")
    loaded = keras.models.load_model(tmp_path / "baked.keras")
    np.testing.assert_array_equal(outputs(loaded, images), outputs(baked, images))


@keras.saving.register_keras_serializable(package="tests")
class Block(keras.layers.Layer):
    """A user's own layer, made of layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 4)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: keras.layers.RNN(keras.layers.LSTMCell(4), return_sequences=True), "(RNN)"),
        (lambda: Block(name="mine"), "'mine' (Block)"),
        (lambda: keras.layers.TimeDistributed(Block(name="mine")), "'mine' (Block)"),
    ],
)
def test_a_kernel_without_a_twin_is_an_error_that_names_the_layer(layer, message):
    inputs = keras.Input((8, 2))
    x = keras.layers.Conv1D(3, 3, name="one_d")(inputs)
    odd = layer()
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(odd(x)))
    with pytest.raises(ValueError, match=re.escape(message)):
        to_drop_connect(model, 0.2)
    twin = to_drop_connect(model, 0.2, where=lambda layer: layer.name not in (odd.name, "mine"))
    assert list(faulty_layers(twin)) == ["one_d", "head"]
    assert audit(twin).clean
    images = np.ones((1, 8, 2), "float32")
    np.testing.assert_array_equal(outputs(twin, images), outputs(model, images))


def test_embeddings_and_scales_stay_digital_and_the_audit_shows_them():
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(9, 4, name="embedding"),
            keras.layers.PReLU(name="prelu"),
            keras.layers.LayerNormalization(axis=(1, 2), name="scale"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="head"),
        ]
    )
    twin = to_drop_connect(model, 0.2)
    assert list(faulty_layers(twin)) == ["head"]
    assert audit(twin).clean == ("embedding", "prelu", "scale")
    tokens = np.arange(6)[None] % 9
    np.testing.assert_array_equal(outputs(twin, tokens), outputs(model, tokens))


def test_layers_in_wrappers_are_converted_and_baked(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            keras.layers.Bidirectional(
                keras.layers.LSTM(4, return_sequences=True, name="lstm"),
                backward_layer=keras.layers.GRU(
                    4, return_sequences=True, go_backwards=True, name="gru"
                ),
            ),
            keras.layers.TimeDistributed(keras.layers.Dense(2, name="each"), name="steps"),
        ]
    )
    sequences = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    twin = to_drop_connect(model, 0.2)
    np.testing.assert_array_equal(outputs(twin, sequences), outputs(model, sequences))
    assert set(faulty_layers(twin)) == {"forward_lstm", "gru", "each"}
    assert not audit(twin).clean
    with Chip(StuckAtZero(0.3)).program(twin):
        baked = bake(twin)
        assert not faulty_layers(baked)
        np.testing.assert_allclose(outputs(baked, sequences), outputs(twin, sequences), atol=1e-6)
        twin.save(tmp_path / "twin.keras")
        loaded = keras.models.load_model(tmp_path / "twin.keras")
        np.testing.assert_array_equal(outputs(loaded, sequences), outputs(twin, sequences))
    only = to_drop_connect(model, 0.2, where=lambda layer: layer.name == "each")
    assert list(faulty_layers(only)) == ["each"]


def test_subclassed_and_unbuilt_models_are_errors():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="subclassed model"):
        to_drop_connect(Subclassed(name="mine"), 0.2)
    with pytest.raises(ValueError, match="not built"):
        to_drop_connect(keras.Sequential([keras.layers.Dense(3)]), 0.2)


def test_an_adapted_normalization_goes_along():
    """It computes with tensors that it has derived from its variables."""
    features = np.random.default_rng(0).normal(5.0, 3.0, (40, 6)).astype("float32")
    normalization = keras.layers.Normalization()
    normalization.adapt(features)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(3)(normalization(inputs)))
    twin = to_drop_connect(model, 0.0)
    for one in (twin, bake(twin), copied(twin)):
        np.testing.assert_allclose(outputs(one, features), outputs(model, features), atol=1e-5)
