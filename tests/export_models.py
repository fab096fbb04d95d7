"""A small model with every kind of kernel, and its conversions, made once for all tests."""

import functools

import keras
import numpy as np

from keras_rram import Chip, StuckAtZero, layers
from keras_rram.export import PatchableModel

SHAPE = (12, 12, 2)


def images(count: int = 64) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, *SHAPE)).astype(np.float32)


def chip(index: int = 0, rate: float = 0.3) -> Chip:
    return Chip(StuckAtZero(rate), seed=3, index=index)


def set_batch_norm(model: keras.Model, seed: int = 1) -> keras.Model:
    """Gives batch normalizations statistics and signs that folding cannot miss."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            gamma = rng.uniform(1, 3, size) * rng.choice([-1, 1], size)
            beta, mean = rng.normal(scale=0.1, size=(2, size))
            layer.set_weights([gamma, beta, mean, rng.uniform(0.5, 1.5, size)])
    return model


def build() -> keras.Model:
    """All layers, with strides, groups, dilation, multipliers, and batch normalization or none."""
    keras.utils.set_random_seed(2)
    rate = 0.2
    inputs = keras.Input(SHAPE)
    x = layers.DropConnectConv2D(
        8, 3, padding="same", use_bias=False, drop_connect=rate, name="stem"
    )(inputs)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization(name="batch_normalization")(x))
    x = layers.DropConnectDepthwiseConv2D(
        3, strides=2, padding="same", use_bias=False, drop_connect=rate, name="depthwise"
    )(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="batch_normalization_1")(x))
    x = layers.DropConnectConv2D(8, 1, use_bias=False, drop_connect=rate, name="project")(x)
    shortcut = keras.layers.BatchNormalization(name="batch_normalization_2")(x)
    x = layers.DropConnectSeparableConv2D(
        8, 3, padding="same", use_bias=False, drop_connect=rate, name="separable"
    )(shortcut)
    x = keras.layers.Add()(
        [keras.layers.BatchNormalization(name="batch_normalization_3")(x), shortcut]
    )
    x = layers.DropConnectConv2D(
        12, 3, groups=4, activation="relu", drop_connect=rate, name="grouped"
    )(x)
    x = layers.DropConnectDepthwiseConv2D(
        3, padding="same", depth_multiplier=2, drop_connect=rate, name="multiplied"
    )(x)
    x = layers.DropConnectConv2D(
        8, 3, dilation_rate=2, padding="same", drop_connect=rate, name="dilated"
    )(x)
    x = keras.layers.Flatten()(x)
    x = layers.DropConnectDense(16, activation="relu", drop_connect=rate, name="hidden")(x)
    outputs = layers.DropConnectDense(10, drop_connect=rate, name="head")(x)
    return set_batch_norm(keras.Model(inputs, outputs, name="every_kernel"))


@functools.cache
def model() -> keras.Model:
    return build()


@functools.cache
def patchable(quantization: str) -> PatchableModel:
    calibration = images() if quantization in ("int8", "int16x8") else None
    return PatchableModel.convert(model(), quantization, calibration)
