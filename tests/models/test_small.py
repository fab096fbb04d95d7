import keras
import numpy as np
import pytest

from keras_rram import faulty_layers
from keras_rram.hardware import summary_table
from keras_rram.models import lenet5, perceptron
from tests.helpers import to_numpy


def trainable(model):
    return sum(np.prod(w.shape, dtype=int) for w in model.trainable_weights)


def test_lenet5_has_the_known_sizes():
    model = lenet5()
    # (5*5*1+1)*6 + (5*5*6+1)*16 + 401*120 + 121*84 + 85*10.
    assert trainable(model) == 156 + 2_416 + 48_120 + 10_164 + 850 == 61_706
    # 28*28 positions of 25*6, 10*10 of 150*16, then three matrices.
    assert summary_table(model).macs == 117_600 + 240_000 + 48_000 + 10_080 + 840
    assert model.get_layer("stem").activation is keras.activations.tanh


def test_perceptron_is_lenet_300_100():
    model = perceptron()
    assert trainable(model) == 785 * 300 + 301 * 100 + 101 * 10 == 266_610
    assert [layer.name for layer in model.layers if layer.weights] == [
        "fc1_hidden",
        "fc2_hidden",
        "head",
    ]
    assert perceptron((8,) * 4).count_params() == 785 * 8 + 3 * 72 + 90


@pytest.mark.parametrize(
    ("builder", "scope", "dropped"),
    [
        (lenet5, "all", ["stem", "c2_conv", "fc1_hidden", "fc2_hidden", "head"]),
        (lenet5, "convolutions", ["stem", "c2_conv"]),
        (perceptron, "all", ["fc1_hidden", "fc2_hidden", "head"]),
        (perceptron, "hidden", ["fc1_hidden", "fc2_hidden"]),
    ],
)
def test_scopes(builder, scope, dropped):
    assert list(faulty_layers(builder(drop_connect=0.2, scope=scope))) == dropped


@pytest.mark.parametrize("builder", [lenet5, perceptron])
def test_learns_on_images_of_another_shape(builder):
    keras.utils.set_random_seed(0)
    model = builder(drop_connect=0.1, input_shape=(12, 13, 2), classes=3)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 96)
    images = (
        rng.normal(size=(96, 12, 13, 2)).astype("float32") / 4 + (labels - 1)[:, None, None, None]
    )
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(images, labels, batch_size=16, epochs=8, verbose=0)
    assert (to_numpy(model(images)).argmax(-1) == labels).mean() > 0.8


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: lenet5(input_shape=(8, 8, 1)), "12"),
        (lambda: lenet5(drop_connect=0.2, scope="blocks"), "cannot take effect"),
        (lambda: perceptron(300), "hidden"),
        (lambda: perceptron((300, 0)), "hidden"),
    ],
)
def test_bad_arguments_are_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()
