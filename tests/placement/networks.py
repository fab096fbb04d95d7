"""A small residual network with two normalizations, and images, for tests of placements."""

import functools

import keras
import numpy as np

from keras_rram import layers

SIZE = 6


@functools.cache
def images(count: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, SIZE, SIZE, 2)).astype("float32"), rng.integers(0, 3, count)


def residual(centered: bool = False) -> keras.Model:
    """stem - bn - (c1 - bn + itself) - pool - head; c1 and the head on faulty hardware."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((SIZE, SIZE, 2), name="image")
    x = layers.DropConnectConv2D(4, 3, padding="same", drop_connect=0.1, name="stem")(inputs)
    x = keras.layers.ReLU(name="stem_relu")(
        keras.layers.BatchNormalization(epsilon=1e-3, name="stem_bn")(x)
    )
    y = layers.CenteredInput(name="c1_center")(x) if centered else x
    y = layers.DropConnectConv2D(4, 3, padding="same", drop_connect=0.1, name="c1_conv")(y)
    y = layers.FusedBatchNormalization(name="c1_bn")(y)
    x = keras.layers.Add(name="add")([x, y])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.DropConnectDense(3, drop_connect=0.1, name="head")(x)
    model = keras.Model(inputs, outputs, name="residual")
    rng = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) * 0.5 + 0.1)
    for name in ("stem_bn", "c1_bn"):
        model.get_layer(name).moving_mean.assign(rng.normal(size=4))
        model.get_layer(name).moving_variance.assign(rng.uniform(0.5, 2, size=4))
    return model
