"""MobileNetV2, for CIFAR-10 and for large images."""

from collections.abc import Iterable
from dataclasses import dataclass

import keras

from keras_rram.layers.drop_connect import DropConnect
from keras_rram.models.arguments import check_choice, check_input_shape, check_positive
from keras_rram.models.blocks import conv_bn, linear_bottleneck, mobilenet_initializer
from keras_rram.models.layer_factory import DATA_FORMAT, LayerFactory


@dataclass(frozen=True)
class _Variant:
    stem_stride: int
    stages: tuple[tuple[int, int, int, int], ...]  # (expansion, filters, bottlenecks, stride)


VARIANTS = {
    # Table 2 of the paper, for 224 x 224 pixels.
    "imagenet": _Variant(
        stem_stride=2,
        stages=(
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ),
    ),
    # The same without the first two strides, for 32 x 32 pixels.
    "cifar": _Variant(
        stem_stride=1,
        stages=(
            (1, 16, 1, 1),
            (6, 24, 2, 1),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ),
    ),
}
_STEM, _TOP = 32, 1280


def mobilenet_v2(
    alpha: float = 1.0,
    variant: str = "cifar",
    drop_connect: float | DropConnect | None = None,
    scope: str | Iterable[str] = "blocks",
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    name: str | None = None,
    normalization: str = "batch",
    centered_inputs: bool = False,
) -> keras.Model:
    """Builds MobileNetV2.

    Use it where a real network of linear bottlenecks is wanted, `mini_mobilenet` for digits.

    Reference: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
    table 2 (https://arxiv.org/abs/1801.04381). The strides of the variant "cifar" are those of
    https://github.com/kuangliu/pytorch-cifar (94.4% on CIFAR-10), whose blocks differ from the
    paper's: a 1x1 convolution on every shortcut at stride 1 that changes the channels.

    Args:
        alpha: width, the factor on the channels of all layers, rounded to a multiple of 8 as the
            authors do (never down by more than a tenth); the last convolution is not made narrower.
        variant: "cifar" (three strides, 32 x 32 pixels to 4 x 4) or "imagenet" (five).
        drop_connect: drop rate in `[0, 1)` or `DropConnect`; None for plain Keras layers.
        scope: roles that drop, if `drop_connect` is given: "blocks" (all kernels of the
            bottlenecks), "depthwise", "convolutions", "all", or any set of roles.
        input_shape: `(height, width, channels)` of the images.
        classes: number of classes.
        name: name of the model.
        normalization: "batch", "instance" or "group", see `LayerFactory`.
        centered_inputs: whether the inputs of faulty layers are centred, see `CenteredInput`.

    Returns:
        A functional model, `(batch, height, width, channels)` to logits `(batch, classes)`. Its
        kernel layers are `stem`, `block1_depthwise`, `block1_project`, `block2_expand`, ...,
        `block17_project`, `top_conv`, `head`. The first bottleneck does not expand.

    Raises:
        ValueError: if an argument is out of range, or `drop_connect` cannot take effect.

    Example:

    ```python
    model = keras_rram.models.mobilenet_v2(alpha=0.5, drop_connect=0.3)
    ```
    """
    check_choice("variant", variant, VARIANTS)
    check_positive(classes=classes)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not alpha > 0:
        raise ValueError(f"`alpha` must be a positive number. Received: alpha={alpha!r}")
    table = VARIANTS[variant]
    least_side = table.stem_stride
    for _, _, _, stride in table.stages:
        least_side *= stride
    shape = check_input_shape(input_shape, least_side, f"its strides multiply to {least_side}")
    factory = LayerFactory(drop_connect, scope, normalization, centered_inputs)

    def conv_relu6(
        x: keras.KerasTensor, filters: int, kernel_size: int, stride: int, role: str, name: str
    ) -> keras.KerasTensor:
        x = conv_bn(
            x,
            filters,
            kernel_size,
            stride,
            role=role,
            name=name,
            factory=factory,
            kernel_initializer=mobilenet_initializer(),
        )
        return keras.layers.ReLU(max_value=6.0, name=f"{name}_relu")(x)

    inputs = keras.Input(shape, name="image")
    x = conv_relu6(inputs, _rounded(alpha * _STEM), 3, table.stem_stride, "stem", "stem")
    number = 1
    for expansion, filters, bottlenecks, stride in table.stages:
        for bottleneck in range(bottlenecks):
            x = linear_bottleneck(
                x,
                _rounded(alpha * filters),
                1 if bottleneck else stride,
                expansion,
                name=f"block{number}",
                factory=factory,
            )
            number += 1
    x = conv_relu6(x, _rounded(max(alpha, 1.0) * _TOP), 1, 1, "conv", "top_conv")
    x = keras.layers.GlobalAveragePooling2D(data_format=DATA_FORMAT, name="pool")(x)
    x = factory.center(x, role="head", name="head")
    outputs = factory.dense(classes, name="head")(x)
    model_name = name or f"mobilenet_v2_{variant}_{alpha:g}"
    return factory.checked(keras.Model(inputs, outputs, name=model_name))


def _rounded(channels: float) -> int:
    """Returns the nearest multiple of 8, 8 at least, and not below 90% of `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
