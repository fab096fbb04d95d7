"""The large networks of `keras.applications`, trained here for a moment, on pictures of digits."""

import functools
import json
import os

import keras
import numpy as np
import pytest
from keras import layers

from keras_rram import data, recalibrate_batch_norm, to_drop_connect
from tests.foreign.cases import by_tools
from tests.run_tools import run_main

CLASSES, RATE = 10, 0.02

big = pytest.mark.skipif(
    "KERAS_RRAM_BIG_MODELS" not in os.environ,
    reason="takes many minutes; KERAS_RRAM_BIG_MODELS=1 runs it",
)


def pictures(images):
    """Digits as color pictures of bytes, 96 x 96, as a user has them."""
    images = np.asarray(images).reshape(-1, 28, 28).repeat(3, 1).repeat(3, 2)
    images = np.pad(images, ((0, 0), (6, 6), (6, 6)))
    return np.repeat(images[..., None], 3, -1).astype(np.uint8)


@functools.cache
def trained(name):
    """Returns a model that is clearly above chance, with its training and its test data."""
    digits = data.load("digits", normalize="none")
    train, test = (
        (pictures(images), labels)
        for images, labels in (digits.arrays("train", 800), digits.arrays("test", 100))
    )
    keras.utils.set_random_seed(1)
    base = getattr(keras.applications, name)(
        input_shape=(96, 96, 3), include_top=False, weights=None, pooling="avg"
    )
    inputs = keras.Input((96, 96, 3))
    # MobileNetV2 is the one without preprocessing inside.
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs) if name == "MobileNetV2" else inputs
    x = layers.Dropout(0.1)(base(x))
    model = keras.Model(inputs, layers.Dense(CLASSES, name="head")(x), name=name.lower())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if name.startswith("ConvNeXt"):
        _train_head(model, base, *train)
        model.compile(loss=loss, metrics=["accuracy"])
        return model, train, test
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    model.fit(*train, batch_size=32, epochs=4, verbose=0)
    recalibrate_batch_norm(model, train[0][:200], batch_size=100, keep=True)
    return model, train, test


def through_tools(name, repair, folder):
    """Runs the tools, and exports in int8 too, whose classes a network of a few epochs tips."""
    found = by_tools(*trained(name), repair, folder, RATE)
    run_main("export_tflite", f"--model={folder}/mine.keras", "--convert",
             f"--data={folder}/mine.npz", f"--fault_rate={RATE}", "--chips=2",
             "--quantization=int8", f"--repair={repair}", "--min_agreement=0.9",
             "--max_accuracy_difference=0.06", f"--out={folder}/int8")  # fmt: skip
    sidecars = [json.loads(path.read_text()) for path in sorted((folder / "int8").glob("*.json"))]
    assert [each["method"] for each in sidecars] == ["converted", "patched", "patched"]
    assert all(each["verification"]["agreement"] >= 0.9 for each in sidecars)
    return found


def _train_head(model, base, images, labels):
    """Trains the last layer alone: from scratch the whole takes hours.

    Blocks start at a scale of 1e-6, which would hide what is in them.
    """
    for layer in base.layers:
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(np.full(layer.gamma.shape, 0.5))
    # The twin computes depthwise convolutions as such, 25 times as fast as Keras.
    found = to_drop_connect(base, 0.0).predict(images, batch_size=50, verbose=0)
    mean, deviation = found.mean(0), found.std(0) + 1e-3
    probe = keras.Sequential([keras.Input(found.shape[1:]), layers.Dense(CLASSES)])
    probe.compile(
        keras.optimizers.AdamW(3e-3, weight_decay=0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    probe.fit((found - mean) / deviation, labels, batch_size=32, epochs=40, verbose=0)
    kernel, bias = probe.get_weights()
    weights = [kernel / deviation[:, None], bias - (mean / deviation) @ kernel]
    model.get_layer("head").set_weights(weights)
