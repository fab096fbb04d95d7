"""Small trained classifiers of real digits, and the loop that every engine must match."""

import functools

import keras
import numpy as np

import keras_rram
from keras_rram import Chip, data, erase, layers


@functools.cache
def digits(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Test digits: images (count, 28, 28, 1) and labels."""
    return data.load("digits").arrays("test", count)


@functools.cache
def training_digits(count: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    return data.load("digits").arrays("train", count)


def classifier(
    first: float | None = 0.1, last: float | None = 0.1, rescale: bool = False
) -> keras.Model:
    """A convolution of 8 channels and a dense head that is fitted by least squares.

    `first` and `last` are the drop rates of the two; None makes a plain Keras layer.
    """
    rng = np.random.default_rng(0)
    options = [
        None if rate is None else keras_rram.DropConnect(rate, rescale=rescale)
        for rate in (first, last)
    ]
    inputs = keras.Input((28, 28, 1), name="image")
    x = layers.DropConnectConv2D(
        8, 3, strides=3, activation="relu", drop_connect=options[0], name="conv"
    )(inputs)
    features = keras.layers.Flatten(name="flatten")(x)
    outputs = layers.DropConnectDense(10, drop_connect=options[1], name="head")(features)
    model = keras.Model(inputs, outputs, name="digits")
    convolution, head = model.get_layer("conv"), model.get_layer("head")
    convolution.kernels["kernel"].assign(rng.normal(size=(3, 3, 1, 8)) * 0.4)
    images, labels = training_digits()
    found = keras.ops.convert_to_numpy(keras.Model(inputs, features)(images))
    found = np.concatenate([found, np.ones((len(found), 1))], axis=1)
    wanted = 2.0 * np.eye(10)[labels] - 1.0
    gram = found.T @ found + 30.0 * np.eye(found.shape[1])
    weights = np.linalg.solve(gram, found.T @ wanted)
    head.kernels["kernel"].assign(weights[:-1])
    head.bias.assign(weights[-1])
    return model


def keras_accuracy(path: object, images: np.ndarray, labels: np.ndarray) -> float:
    """What `model.evaluate` says of a saved model: share of right answers."""
    model = keras.models.load_model(path)
    model.compile(metrics=["accuracy"], loss="sparse_categorical_crossentropy")
    accuracy = model.evaluate(images, labels, verbose=0)[1]
    return round(accuracy * len(labels)) / len(labels)


def right_answers(
    model: keras.Model, chip: Chip | None, images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """What a user would write: program, predict, compare."""
    with erase(model) if chip is None else chip.program(model):
        return model.predict(images, batch_size=100, verbose=0).argmax(-1) == labels
