"""Populations of models that this package did not build, over a loop of `model.evaluate`.

`litert_over_evaluate` is the time of a chip in what a user would write, a plain Keras model whose
kernels are multiplied with a mask and `model.evaluate` with its batch of 32, over that of a chip in
the LiteRT engine, for a small vision transformer and for MobileNetV2 at 96 x 96. Engines are timed
without what they do once for a population (conversion, compilation). Weights and images are random.
"""

import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np

from .timing import in_turn, ratio

SEED = 1
RATE = 0.1


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields the speed of two models that other people built."""
    import keras

    rounds = 1 if quick else 3
    yield from _speed("vit", _vit(), 100 if quick else 2_000, rounds)
    mobile = keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10)
    yield from _speed("mobilenet_v2", mobile, 50 if quick else 500, rounds)


def _speed(name: str, plain: Any, count: int, rounds: int) -> Iterator[tuple[str, float]]:
    from keras_rram import Chip, StuckAtZero, to_drop_connect
    from keras_rram.evaluation.engines.litert import LiteRTEngine, convert_once
    from keras_rram.evaluation.engines.protocol import Task

    rng = np.random.default_rng(SEED)
    images = rng.normal(size=(count, *plain.input_shape[1:])).astype("float32")
    labels = rng.integers(0, 10, count)
    plain.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    chip, twin = Chip(StuckAtZero(RATE), SEED), to_drop_connect(plain, 0.0)
    engine = LiteRTEngine(convert_once(twin, images, chip), labels)
    kernels = [weight for weight in plain.trainable_variables if "kernel" in weight.name]

    def loop() -> None:
        healthy = [np.array(kernel) for kernel in kernels]
        for kernel, values in zip(kernels, healthy, strict=True):
            kernel.assign(values * (rng.random(values.shape) >= RATE))
        plain.evaluate(images, labels, verbose=0)
        for kernel, values in zip(kernels, healthy, strict=True):
            kernel.assign(values)

    own, fast = in_turn([loop, lambda: engine.answer([Task(chip)])], rounds)
    yield f"litert_over_evaluate_{name}", ratio(own, fast)
    for who, seconds in (("evaluate", own), ("litert", fast)):
        yield f"{who}_images_per_second_{name}", count / statistics.median(seconds)


def _vit() -> Any:
    """Returns a vision transformer of four blocks for images of 32 x 32."""
    import keras
    from keras import layers, ops

    width, patches = 64, 64
    inputs = keras.Input((32, 32, 3))
    x = layers.Reshape((patches, width))(layers.Conv2D(width, 4, strides=4)(inputs))
    x = x + layers.Embedding(patches, width)(ops.arange(patches))
    for _ in range(4):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, width // 4)(y, y)])
        y = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
