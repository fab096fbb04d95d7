"""A small network with layers of every kind that repairs unroll."""

import keras
import numpy as np

from keras_rram import layers, recalibrate_batch_norm

SIDE, CLASSES = 7, 3


def images(count=24, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, SIDE, SIDE, 2)).astype("float32")


def network(rate=0.3, seed=1):
    """A convolution, a depthwise and a grouped one, with batch normalization, and a dense head."""
    conv = {"padding": "same", "drop_connect": rate}
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 2)),
            layers.DropConnectConv2D(6, 3, strides=2, use_bias=False, name="conv", **conv),
            keras.layers.BatchNormalization(name="conv_bn"),
            keras.layers.ReLU(),
            layers.DropConnectDepthwiseConv2D(3, depth_multiplier=2, name="depthwise", **conv),
            keras.layers.BatchNormalization(name="depthwise_bn"),
            keras.layers.ReLU(max_value=6.0),
            layers.DropConnectConv2D(8, (1, 2), groups=2, name="grouped", **conv),
            keras.layers.BatchNormalization(name="grouped_bn"),
            keras.layers.GlobalAveragePooling2D(),
            layers.DropConnectDense(CLASSES, drop_connect=rate, name="head"),
        ]
    )
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        low = 0.5 if variable.name == "gamma" else -0.7
        variable.assign(rng.uniform(low, low + 1.4, variable.shape))
    return model


def activated(first="relu", second="relu", use_bias=True, rate=0.0):
    """Dense layers with activations of their own in front of batch normalization."""
    options = {"drop_connect": rate, "use_bias": use_bias}
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.DropConnectDense(5, activation=first, name="one", **options),
            keras.layers.BatchNormalization(name="one_bn"),
            layers.DropConnectDense(6, activation=second, name="two", **options),
            keras.layers.BatchNormalization(name="two_bn"),
            layers.DropConnectDense(3, name="head", **options),
        ]
    )
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.dtype == "float32" and "fault" not in variable.name and len(variable.shape):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def settled(model):
    """Gives a network biases, and the statistics of its own data, as training does."""
    recalibrate_batch_norm(model, images(200, seed=3), keep=True)
    rng = np.random.default_rng(4)
    for layer in model.layers:
        for bias in (getattr(layer, "beta", None), getattr(layer, "bias", None)):
            if bias is not None:
                bias.assign(rng.normal(scale=0.3, size=bias.shape))
    return model


def statistics(model):
    return {
        layer.name: tuple(
            np.array(keras.ops.convert_to_numpy(one))
            for one in (layer.moving_mean, layer.moving_variance)
        )
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }
