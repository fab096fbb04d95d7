"""VGG13 for CIFAR-10."""

from collections.abc import Iterable

import keras

from keras_rram.layers.drop_connect import DropConnect
from keras_rram.models.arguments import check_input_shape, check_positive
from keras_rram.models.blocks import conv_bn
from keras_rram.models.layer_factory import DATA_FORMAT, LayerFactory

# Filters of the two convolutions of each stage; a 2x2 max pooling ends it.
STAGES = (64, 128, 256, 512, 512)


def vgg13(
    drop_connect: float | DropConnect | None = None,
    scope: str | Iterable[str] = "conv",
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    name: str | None = None,
    normalization: str = "batch",
    centered_inputs: bool = False,
) -> keras.Model:
    """Builds VGG13 with batch normalization and one dense layer, as is usual for CIFAR-10.

    Use it as the network without shortcuts and without bottlenecks.

    Reference: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", ICLR 2015, table 1, configuration B (https://arxiv.org/abs/1409.1556). Batch
    normalization, in place of the convolutions' biases, and a single dense layer for 32 x 32
    pixels: https://github.com/kuangliu/pytorch-cifar.

    Args:
        drop_connect: drop rate in `[0, 1)` or `DropConnect`; None for plain Keras layers.
        scope: roles that drop, if `drop_connect` is given: "conv" (all convolutions but the first),
            "convolutions", "all", or any set of roles.
        input_shape: `(height, width, channels)` of the images. Odd sides are rounded up by each of
            the five poolings.
        classes: number of classes.
        name: name of the model.
        normalization: "batch", "instance" or "group", see `LayerFactory`.
        centered_inputs: whether the inputs of faulty layers are centred, see `CenteredInput`.

    Returns:
        A functional model, `(batch, height, width, channels)` to logits `(batch, classes)`. Its
        kernel layers are `stem`, `c02_conv` to `c10_conv`, `head`.

    Raises:
        ValueError: if an argument is out of range, or `drop_connect` cannot take effect.

    Example:

    ```python
    model = keras_rram.models.vgg13(drop_connect=0.2)
    ```
    """
    check_positive(classes=classes)
    shape = check_input_shape(input_shape, 1, "a convolution needs a pixel")
    factory = LayerFactory(drop_connect, scope, normalization, centered_inputs)
    inputs = x = keras.Input(shape, name="image")
    for stage, filters in enumerate(STAGES):
        for number in (2 * stage + 1, 2 * stage + 2):
            role = "stem" if number == 1 else "conv"
            layer = "stem" if number == 1 else f"c{number:02d}_conv"
            x = conv_bn(x, filters, 3, role=role, name=layer, factory=factory)
            x = keras.layers.ReLU(name=f"{layer}_relu")(x)
        x = keras.layers.MaxPooling2D(
            2, padding="same", data_format=DATA_FORMAT, name=f"pool{stage + 1}"
        )(x)
    x = keras.layers.GlobalAveragePooling2D(data_format=DATA_FORMAT, name="pool")(x)
    x = factory.center(x, role="head", name="head")
    outputs = factory.dense(classes, name="head")(x)
    return factory.checked(keras.Model(inputs, outputs, name=name or "vgg13"))
