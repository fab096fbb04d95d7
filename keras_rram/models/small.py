"""The classic small networks, without batch normalization: LeNet-5 and the perceptron."""

from collections.abc import Iterable

import keras

from keras_rram.layers.drop_connect import DropConnect
from keras_rram.models.arguments import check_input_shape, check_positive
from keras_rram.models.layer_factory import DATA_FORMAT, LayerFactory

# LeNet-5: filters of its two 5x5 convolutions, units of its two hidden dense layers.
FILTERS = (6, 16)
UNITS = (120, 84)


def lenet5(
    drop_connect: float | DropConnect | None = None,
    scope: str | Iterable[str] = "all",
    activation: str = "tanh",
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    name: str | None = None,
) -> keras.Model:
    """Builds LeNet-5, with every map of the second convolution connected to all maps before it.

    Use it where a small network without batch normalization is wanted.

    Reference: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proceedings
    of the IEEE 86 (1998), figure 2 (http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf), in the
    form of today: average pooling without weights and a dense layer of logits.

    Args:
        drop_connect: drop rate in `[0, 1)` or `DropConnect`; None for plain Keras layers.
        scope: roles that drop, if `drop_connect` is given: "all", "convolutions" (both), "hidden"
            (the two dense layers in front of the head), or any set of roles.
        activation: activation of all layers but the head, "tanh" as published or say "relu".
        input_shape: `(height, width, channels)` of the images. The first convolution pads them with
            two zeros on each side, as MNIST is to 32 x 32 pixels in the paper.
        classes: number of classes.
        name: name of the model.

    Returns:
        A functional model, `(batch, height, width, channels)` to logits `(batch, classes)`. Its
        kernel layers are `stem`, `c2_conv`, `fc1_hidden`, `fc2_hidden`, `head`.

    Raises:
        ValueError: if an argument is out of range, or `drop_connect` cannot take effect.

    Example:

    ```python
    model = keras_rram.models.lenet5(drop_connect=0.2)
    ```
    """
    check_positive(classes=classes)
    shape = check_input_shape(
        input_shape, 12, "a 5x5 convolution and two poolings follow the first"
    )
    factory = LayerFactory(drop_connect, scope)
    inputs = x = keras.Input(shape, name="image")
    for filters, role, layer, padding in zip(
        FILTERS, ("stem", "conv"), ("stem", "c2_conv"), ("same", "valid"), strict=True
    ):
        x = factory.conv2d(
            filters, 5, padding=padding, activation=activation, role=role, name=layer
        )(x)
        x = keras.layers.AveragePooling2D(2, data_format=DATA_FORMAT, name=f"{layer}_pool")(x)
    x = keras.layers.Flatten(data_format=DATA_FORMAT, name="flatten")(x)
    outputs = _dense(x, UNITS, activation, classes, factory)
    return factory.checked(keras.Model(inputs, outputs, name=name or "lenet5"))


def perceptron(
    hidden: Iterable[int] = (300, 100),
    drop_connect: float | DropConnect | None = None,
    scope: str | Iterable[str] = "all",
    activation: str = "relu",
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    name: str | None = None,
) -> keras.Model:
    """Builds a perceptron of three dense layers, or as many as you like.

    Use it as the plainest network there is: each layer is one matrix on a crossbar.

    Reference: LeNet-300-100 of LeCun et al., "Gradient-Based Learning Applied to Document
    Recognition", Proceedings of the IEEE 86 (1998), section III.C.4.

    Args:
        hidden: units of each layer in front of the head.
        drop_connect: drop rate in `[0, 1)` or `DropConnect`; None for plain Keras layers.
        scope: roles that drop, if `drop_connect` is given: "all", "hidden" (all but the head),
            "head".
        activation: activation of the hidden layers.
        input_shape: `(height, width, channels)` of the images, which are flattened.
        classes: number of classes.
        name: name of the model.

    Returns:
        A functional model, `(batch, height, width, channels)` to logits `(batch, classes)`. Its
        kernel layers are `fc1_hidden`, `fc2_hidden`, ..., `head`.

    Raises:
        ValueError: if an argument is out of range, or `drop_connect` cannot take effect.

    Example:

    ```python
    model = keras_rram.models.perceptron(drop_connect=0.2)
    ```
    """
    if isinstance(hidden, int | str):
        raise ValueError(f"`hidden` must be several sizes, say (300, 100). Received: {hidden!r}")
    units = tuple(hidden)
    for size in units:
        check_positive(hidden=size)
    check_positive(classes=classes)
    shape = check_input_shape(input_shape, 1, "it needs a pixel")
    factory = LayerFactory(drop_connect, scope)
    inputs = keras.Input(shape, name="image")
    x = keras.layers.Flatten(data_format=DATA_FORMAT, name="flatten")(inputs)
    outputs = _dense(x, units, activation, classes, factory)
    return factory.checked(keras.Model(inputs, outputs, name=name or "perceptron"))


def _dense(
    x: keras.KerasTensor,
    hidden: Iterable[int],
    activation: str,
    classes: int,
    factory: LayerFactory,
) -> keras.KerasTensor:
    for number, units in enumerate(hidden, start=1):
        x = factory.dense(units, activation=activation, role="hidden", name=f"fc{number}_hidden")(x)
    return factory.dense(classes, name="head")(x)
