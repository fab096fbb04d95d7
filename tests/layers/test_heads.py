"""Tests of `keras_rram.layers.heads`."""

import keras
import numpy as np
import pytest

from keras_rram.layers import is_binary, is_sigmoid, loss_of
from tests.helpers import to_numpy


def model(units, activation=None, *more):
    found = [keras.layers.Dense(units, activation=activation), *more]
    return keras.Sequential([keras.Input((4,)), *found], name="own")


def nested():
    inputs = keras.Input((4,))
    return keras.Model(inputs, model(3, "softmax")(inputs))


def by_operation():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.ops.softmax(keras.layers.Dense(3)(inputs)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs):
        return self.head(inputs)


@pytest.mark.parametrize(
    ("one", "kind"),
    [
        (model(3), "logits"),
        (model(3, "softmax"), "softmax"),
        (model(3, None, keras.layers.Softmax()), "softmax"),
        (model(3, None, keras.layers.Activation("softmax")), "softmax"),
        (nested(), "softmax"),
        (by_operation(), "softmax"),
        (Subclassed(), "softmax"),
        (model(1, "sigmoid"), "sigmoid"),
        (model(1, None, keras.layers.Activation("sigmoid")), "sigmoid"),
    ],
)
def test_the_loss_is_the_cross_entropy_of_what_the_model_gives(one, kind):
    """By NumPy, from the probabilities."""
    rng = np.random.default_rng(0)
    data, labels = rng.normal(size=(20, 4)).astype("float32"), rng.integers(0, 2, 20)
    outputs = to_numpy(one(data))
    probabilities = outputs.astype(np.float64)
    if kind == "logits":
        probabilities = np.exp(probabilities) / np.exp(probabilities).sum(1, keepdims=True)
    if kind == "sigmoid":
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
    expected = -np.log(probabilities[np.arange(20), labels]).mean()
    assert float(loss_of(one)(labels, outputs)) == pytest.approx(expected, rel=1e-5)
    assert is_binary(one) == is_sigmoid(one) == (kind == "sigmoid")


@pytest.mark.parametrize(
    ("one", "message"),
    [(model(1), "behind no sigmoid"), (model(3, "sigmoid"), "with outputs .*3.* behind a sigmoid")],
)
def test_what_is_no_classifier_is_refused(one, message):
    with pytest.raises(ValueError, match=f"expected a classifier.*'own'.*{message}"):
        loss_of(one)
