"""Mini-MobileNet: a few linear bottlenecks and a dense head, for digits."""

from collections.abc import Iterable
from dataclasses import dataclass

import keras

from keras_rram.layers.drop_connect import DropConnect
from keras_rram.models.arguments import check_choice, check_input_shape, check_positive
from keras_rram.models.blocks import conv_bn, linear_bottleneck, mobilenet_initializer
from keras_rram.models.layer_factory import DATA_FORMAT, LayerFactory


@dataclass(frozen=True)
class _Variant:
    stem: int | None  # filters of the 3x3 stride 2 convolution at the start
    bottlenecks: tuple[tuple[int, int], ...]  # (filters, stride)
    top: int | None  # filters of the 1x1 convolution before the pooling; None: flatten, no pooling


VARIANTS = {
    # The study's network.
    "published": _Variant(
        stem=None,
        bottlenecks=((8, 1), (8, 1), (8, 1), (8, 1), (8, 1), (8, 1), (8, 1), (8, 1)),
        top=None,
    ),
    # In the manner of MobileNetV2: fewer pixels and more channels as it gets deeper.
    "strided": _Variant(
        stem=32,
        bottlenecks=((32, 2), (32, 1), (32, 1), (48, 2), (48, 1), (48, 1), (64, 1), (64, 1)),
        top=256,
    ),
}


def mini_mobilenet(
    bottlenecks: int = 2,
    variant: str = "strided",
    drop_connect: float | DropConnect | None = None,
    scope: str | Iterable[str] = "blocks",
    expansion: int = 6,
    broadcast_shortcut: bool = False,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    name: str | None = None,
    normalization: str = "batch",
    centered_inputs: bool = False,
) -> keras.Model:
    """Builds a mini-MobileNet: linear bottlenecks and a dense head.

    Use it for quick studies of fault tolerance. The bottlenecks are the first rows of the variant's
    table in `VARIANTS`.

    Source: the variant "published" is the network of "Exploration of Linear Bottleneck Architecture
    for RRAM Fault-tolerant Deep Learning" (2024), figure 1C. The blocks are those of MobileNetV2,
    see `linear_bottleneck`.

    Args:
        bottlenecks: number of linear bottlenecks, 1 to 8.
        variant: "strided" (a 3x3 stem at stride 2, bottlenecks with strides and growing channels, a
            1x1 convolution, global average pooling) or "published" (no stem, 8 channels, stride 1,
            flatten).
        drop_connect: drop rate in `[0, 1)` or `DropConnect`; None for plain Keras layers.
        scope: roles that drop, if `drop_connect` is given: "blocks" (all kernels of the
            bottlenecks), "depthwise", "convolutions", "all", or any set of roles.
        expansion: expansion of the bottlenecks.
        broadcast_shortcut: add the single input channel to all channels of the first bottleneck, as
            the study's published code does. Needs variant "published" and one input channel.
        input_shape: `(height, width, channels)` of the images.
        classes: number of classes.
        name: name of the model.
        normalization: "batch", "instance" or "group", see `LayerFactory`.
        centered_inputs: whether the inputs of faulty layers are centred, see `CenteredInput`.

    Returns:
        A functional model, `(batch, height, width, channels)` to logits `(batch, classes)`. Its
        kernel layers are `stem`, `block1_expand`, `block1_depthwise`, `block1_project`, ...,
        `top_conv`, `head`; "published" has no `stem` and no `top_conv`.

    Raises:
        ValueError: if an argument is out of range, or an option cannot take effect.

    Example:

    ```python
    model = keras_rram.models.mini_mobilenet(2, drop_connect=0.1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    ```
    """
    check_choice("variant", variant, VARIANTS)
    table = VARIANTS[variant]
    depth = len(table.bottlenecks)
    if isinstance(bottlenecks, bool) or bottlenecks not in range(1, depth + 1):
        raise ValueError(
            f"`bottlenecks` must be an integer from 1 to {depth}. "
            f"Received: bottlenecks={bottlenecks!r}"
        )
    rows = table.bottlenecks[: int(bottlenecks)]
    check_positive(expansion=expansion, classes=classes)
    least_side = _total_stride(table, rows)
    shape = check_input_shape(input_shape, least_side, f"its strides multiply to {least_side}")
    if broadcast_shortcut and (variant != "published" or shape[-1] != 1):
        raise ValueError(
            "`broadcast_shortcut=True` needs variant='published' and one input channel. "
            f"Received: variant={variant!r}, input_shape={input_shape}. Leave it out."
        )
    factory = LayerFactory(drop_connect, scope, normalization, centered_inputs)

    inputs = x = keras.Input(shape, name="image")
    if table.stem is not None:
        x = conv_bn(
            x,
            table.stem,
            3,
            2,
            role="stem",
            name="stem",
            factory=factory,
            kernel_initializer=mobilenet_initializer(),
        )
        x = keras.layers.ReLU(max_value=6.0, name="stem_relu")(x)
    for number, (filters, stride) in enumerate(rows, start=1):
        x = linear_bottleneck(
            x,
            filters,
            stride,
            expansion,
            name=f"block{number}",
            factory=factory,
            broadcast_shortcut=broadcast_shortcut,
        )
    if table.top is None:
        x = keras.layers.Flatten(data_format=DATA_FORMAT, name="flatten")(x)
    else:
        x = conv_bn(
            x,
            table.top,
            1,
            role="conv",
            name="top_conv",
            factory=factory,
            kernel_initializer=mobilenet_initializer(),
        )
        x = keras.layers.ReLU(max_value=6.0, name="top_conv_relu")(x)
        x = keras.layers.GlobalAveragePooling2D(data_format=DATA_FORMAT, name="pool")(x)
    x = factory.center(x, role="head", name="head")
    outputs = factory.dense(classes, name="head")(x)
    model_name = name or f"mini_mobilenet_{variant}_{bottlenecks}"
    return factory.checked(keras.Model(inputs, outputs, name=model_name))


def _total_stride(table: _Variant, rows: tuple[tuple[int, int], ...]) -> int:
    total = 1 if table.stem is None else 2
    for _, stride in rows:
        total *= stride
    return total
