"""What outputs say: classes, sides of 0.5, values; and labels that fit them."""

import keras
import numpy as np
import pytest

from keras_rram.export.answers import accuracy, agreement, checked_labels, kind_of


def model(units, activation=None, shape=(4,)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Dense(units, activation)(inputs), name="own")


def test_the_kind_of_an_answer():
    floats = np.array([[0.5, 2.0, 1.0]])
    assert kind_of(model(3)) == kind_of(model(3), np.array([2])) == "class"
    assert kind_of(model(3, "sigmoid")) == kind_of(model(1, "sigmoid"), np.array([0])) == "sides"
    assert kind_of(model(1)) == kind_of(model(3), floats) == "value"
    assert kind_of(model(3), np.eye(3)) == "class"  # of which `checked_labels` says what is meant


def test_answers_by_hand():
    one, other = np.array([[0.2], [0.7], [0.51], [0.4]]), np.array([[0.1], [0.9], [0.49], [0.3]])
    assert agreement("sides", one, other) == 0.75
    assert accuracy("sides", one, np.array([[0], [1], [0], [1]])) == 0.5
    assert agreement("class", np.eye(3), np.eye(3)[[0, 2, 1]]) == pytest.approx(1 / 3)
    assert accuracy("class", np.eye(3), np.array([0, 1, 1])) == pytest.approx(2 / 3)
    # Outputs from 0 to 10: 0.5 is the same, 0.6 is not.
    wanted = np.array([[0.0], [10.0], [5.0], [4.0]])
    assert agreement("value", wanted + [[0.4], [-0.4], [0.6], [-0.6]], wanted) == 0.5
    assert accuracy("value", wanted, None) is None


def test_labels_that_fit():
    assert checked_labels(model(1), np.array([0.5, 2.0]), 2) is None
    assert checked_labels(model(1, "sigmoid"), np.array([0, 1]), 2).shape == (2, 1)
    tags = np.array([[0, 1], [1, 1]])
    assert (checked_labels(model(2, "sigmoid"), tags, 2) == tags).all()
    words = np.array([[0, 1, 2]])
    assert (checked_labels(model(3, shape=(3, 4)), words, 1) == words).all()
    for units, activation, labels, message in (
        (1, "sigmoid", np.array([0, 2]), "must be 0 and 1"),
        (1, "sigmoid", np.array([0, 1, 1]), "one for each image"),
        (3, None, np.eye(3)[:2], "one-hot labels"),
        (3, None, np.array([0, 3]), "as the model has outputs"),
        (3, None, np.array([0.0, 1.0]), "one integer|2 integers"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_labels(model(units, activation), labels, 2)
