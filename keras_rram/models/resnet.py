"""The ResNets for CIFAR-10, with any of their convolutions replaced by a linear bottleneck."""

from collections.abc import Iterable

import keras

from keras_rram.layers.drop_connect import DropConnect
from keras_rram.models.arguments import check_choice, check_input_shape, check_positive
from keras_rram.models.blocks import SHORTCUTS, basic_block, conv_bn
from keras_rram.models.layer_factory import DATA_FORMAT, LayerFactory

# Layers with weights -> basic blocks in each of the three stages: depth = 6 n + 2.
DEPTHS = {20: 3, 32: 5, 44: 7, 56: 9, 110: 18}
# One row for each stage: filters as a multiple of the width, and stride of its first block.
STAGES = ((1, 1), (2, 2), (4, 2))


def resnet(
    depth: int = 20,
    replaced: Iterable[int] = (),
    drop_connect: float | DropConnect | None = None,
    scope: str | Iterable[str] | None = None,
    expansion: int = 6,
    shortcut: str = "A",
    width: int = 16,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    name: str | None = None,
    normalization: str = "batch",
    centered_inputs: bool = False,
    widened: Iterable[int] = (),
) -> keras.Model:
    """Builds a ResNet for small images, with chosen convolutions replaced by linear bottlenecks.

    Use it to see what depth does to fault tolerance; `resnet20` is the study's network. The stem is
    convolution 0 and stays; the two convolutions of each basic block are numbered from 1. The
    first convolutions of the second and of the third stage have stride 2, and so do the
    bottlenecks that replace them.

    Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2 and
    table 6 (https://arxiv.org/abs/1512.03385): 0.27, 0.46, 0.66, 0.85 and 1.7 million parameters at
    20, 32, 44, 56 and 110 layers. Numbering and replacement: "Exploration of Linear Bottleneck
    Architecture for RRAM Fault-tolerant Deep Learning" (2024), figures 1D and 4.

    Args:
        depth: layers with weights: 20, 32, 44, 56 or 110.
        replaced: numbers of the replaced convolutions, each from 1 to `depth - 2`.
        drop_connect: drop rate in `[0, 1)` or `DropConnect`; None for plain Keras layers.
        scope: roles that drop, if `drop_connect` is given: "blocks" (all kernels of the
            bottlenecks), "depthwise", "convolutions" (of the whole network), "all", or any set of
            roles. None: "blocks" where convolutions are replaced, "conv" (all convolutions of
            the basic blocks) where none is.
        expansion: expansion of the bottlenecks.
        shortcut: "A" (no parameters) or "projection", see `basic_block`.
        width: filters of the stem and of the first stage; the others have 2 and 4 times as many.
        input_shape: `(height, width, channels)` of the images.
        classes: number of classes.
        name: name of the model; default `resnet<depth>`.
        normalization: "batch", "instance" or "group", see `LayerFactory`.
        centered_inputs: whether the inputs of faulty layers are centred, see `CenteredInput`.
        widened: numbers of convolutions with twice the filters; each the first of its block, an odd
            number, so that no shortcut changes.

    Returns:
        A functional model, `(batch, height, width, channels)` to logits `(batch, classes)`. Its
        kernel layers are `stem`, `c01_conv`, `c02_conv`, ..., `head`; a replaced convolution 7 is
        `c07_expand`, `c07_depthwise`, `c07_project`, a projection `c07_shortcut`.

    Raises:
        ValueError: if an argument is out of range, a number comes twice, or `drop_connect` cannot
            take effect.

    Example:

    ```python
    model = keras_rram.models.resnet(56, drop_connect=0.2, scope="convolutions")
    ```
    """
    if isinstance(depth, bool) or depth not in DEPTHS:
        raise ValueError(f"`depth` must be one of {sorted(DEPTHS)}. Received: depth={depth!r}")
    numbers = _checked_numbers(replaced, last=depth - 2)
    wide = _checked_numbers(widened, last=depth - 2, name="widened")
    if any(number % 2 == 0 for number in wide):
        raise ValueError(
            "`widened` must hold first convolutions of blocks, odd numbers: the second one's "
            f"filters are those of the shortcut. Received: widened={wide!r}"
        )
    check_positive(expansion=expansion, width=width, classes=classes)
    check_choice("shortcut", shortcut, SHORTCUTS)
    shape = check_input_shape(input_shape, 4, "two of its blocks halve the image")
    if scope is None:
        scope = "blocks" if numbers else "conv"
    factory = LayerFactory(drop_connect, scope, normalization, centered_inputs)

    inputs = x = keras.Input(shape, name="image")
    x = conv_bn(x, width, 3, role="stem", name="stem", factory=factory)
    x = keras.layers.ReLU(name="stem_relu")(x)
    first = 1
    for multiple, stride in STAGES:
        for block in range(DEPTHS[depth]):
            x = basic_block(
                x,
                multiple * width,
                1 if block else stride,
                names=(f"c{first:02d}", f"c{first + 1:02d}"),
                replaced=(first in numbers, first + 1 in numbers),
                shortcut=shortcut,
                expansion=expansion,
                factory=factory,
                widening=2 if first in wide else 1,
            )
            first += 2
    x = keras.layers.GlobalAveragePooling2D(data_format=DATA_FORMAT, name="pool")(x)
    x = factory.center(x, role="head", name="head")
    outputs = factory.dense(classes, kernel_initializer="he_normal", name="head")(x)
    return factory.checked(keras.Model(inputs, outputs, name=name or f"resnet{depth}"))


def _checked_numbers(given: Iterable[int], last: int, name: str = "replaced") -> tuple[int, ...]:
    if isinstance(given, int | str) or not isinstance(given, Iterable):
        raise ValueError(
            f"`{name}` must be several numbers of convolutions, say (10,). "
            f"Received: {name}={given!r}"
        )
    numbers = tuple(given)
    for number in numbers:
        if isinstance(number, bool) or number not in range(1, last + 1):
            raise ValueError(
                f"`{name}` must hold integers from 1 to {last}. Received: {name}={numbers!r}"
            )
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"`{name}` must name each convolution once. Received: {name}={numbers!r}")
    return numbers
