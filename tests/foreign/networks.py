"""Models as a stranger writes them: plain Keras, trained here for a moment, and their data."""

import functools

import keras
import numpy as np
from keras import layers, ops
from keras.src.applications import convnext, efficientnet_v2

CLASSES = 4


def pictures(count, size=16, seed=0):
    """Bytes: each class is a bright patch in a corner of its own, in noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = rng.integers(0, 120, (count, size, size, 3))
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[row * half : (row + 1) * half, column * half : (column + 1) * half, label % 3] += 70
    return images.astype(np.uint8), labels


def series(count, steps=12, seed=0):
    """Each class is a wave of a frequency of its own, in noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    time = np.arange(steps)[None, :, None]
    wave = np.sin(time * (labels[:, None, None] + 1) * 0.6 + rng.uniform(0, 1, (count, 1, 1)))
    noise = rng.normal(scale=0.3, size=(count, steps, 3))
    return (wave + noise).astype(np.float32), labels


def own_cnn():
    """Preprocessing inside, a convolution shared before two normalizations, residuals, a part."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 255.0)(inputs)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.8, name="stem_bn")(x))
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    for number in (1, 2):
        y = layers.BatchNormalization(momentum=0.8, name=f"bn_{number}")(shared(x))
        x = layers.Add()([layers.ReLU()(y), x])
    inside = keras.Input(x.shape[1:])
    y = layers.SeparableConv2D(12, 3, name="separable")(inside)
    y = layers.LeakyReLU()(layers.BatchNormalization(momentum=0.8, name="nested_bn")(y))
    nested = keras.Model(inside, y, name="nested")
    x = layers.GlobalAveragePooling2D()(nested(x))
    x = layers.Dense(16, activation="relu", name="hidden")(layers.Dropout(0.1)(x))
    return keras.Model(inputs, layers.Dense(CLASSES, name="head")(x), name="own_cnn")


def vit():
    """A small vision transformer: patches, positions, two blocks of attention."""
    width, patches = 16, 16
    inputs = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.Conv2D(width, 4, strides=4, name="patches")(x)
    x = layers.Reshape((patches, width))(x)
    x = x + layers.Embedding(patches, width, name="positions")(ops.arange(patches))
    for number in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.MultiHeadAttention(2, width // 2, name=f"attention_{number}")(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(2 * width, activation="gelu", name=f"expand_{number}")(y)
        x = layers.Add()([x, layers.Dense(width, name=f"project_{number}")(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(inputs, layers.Dense(CLASSES, name="head")(x), name="vit")


def lstm():
    """Two recurrent layers on a series of known length."""
    inputs = keras.Input((12, 3))
    x = layers.LSTM(12, return_sequences=True, name="first")(inputs)
    x = layers.LSTM(12, name="second")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="head")(x), name="lstm")


def families():
    """A block of EfficientNetV2 and one of ConvNeXt, as Keras builds them, behind a rescaling."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Normalization(mean=[100.0, 110.0, 120.0], variance=[2500.0] * 3)(inputs)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    x = layers.Activation("silu")(layers.BatchNormalization(momentum=0.8, name="stem_bn")(x))
    block = efficientnet_v2.MBConvBlock(8, 8, expand_ratio=2, se_ratio=0.25, name="mb")
    x = block(x)
    block = convnext.ConvNeXtBlock(8, drop_path_rate=0.1, layer_scale_init_value=0.5, name="next")
    x = layers.LayerNormalization(epsilon=1e-6, name="last")(block(x))
    outputs = layers.Dense(CLASSES, name="head")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs, name="families")
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.8
    return model


@functools.cache
def trained(name):
    """Returns a model that is trained for some epochs, with its training and its test data."""
    keras.utils.set_random_seed(1)
    build, source = {
        "own_cnn": (own_cnn, pictures),
        "vit": (vit, pictures),
        "families": (families, pictures),
        "lstm": (lstm, series),
    }[name]
    model, train, test = build(), source(400, seed=1), source(200, seed=2)
    model.compile(
        keras.optimizers.Adam(5e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*train, batch_size=32, epochs=6, verbose=0)
    return model, train, test
