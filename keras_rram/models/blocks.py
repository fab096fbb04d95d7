"""Building blocks: convolution + normalization, linear bottleneck, ResNet basic block.

Every block is a function of a Keras tensor that names its layers `<place>_<role>`, and every layer
with a kernel comes from a `LayerFactory`, which knows the roles that sit on faulty hardware.
"""

from typing import Any

import keras

from keras_rram.models.arguments import check_choice, check_positive
from keras_rram.models.layer_factory import DATA_FORMAT, LayerFactory

KerasTensor = Any

SHORTCUTS = ("A", "projection")


def conv_bn(
    x: KerasTensor,
    filters: int,
    kernel_size: int,
    stride: int = 1,
    *,
    role: str,
    name: str,
    factory: LayerFactory | None = None,
    centered: bool = False,
    kernel_initializer: str | keras.Initializer = "he_normal",
) -> KerasTensor:
    """Convolution without bias, then normalization, of batches unless `factory` says otherwise.

    Args:
        x: images, shape `(batch, height, width, channels)`.
        filters: output channels.
        kernel_size: side of the kernel.
        stride: stride of the convolution; an output side is `ceil(side / stride)`.
        role: the convolution's role, see `keras_rram.layers.roles.ROLES`.
        name: layer name of the convolution, ends with the role; the normalization is `<name>_bn`
            (see `LayerFactory.normalize`), a centred input `<name>_center`.
        factory: which roles are faulty; None for plain Keras layers.
        centered: center the kernel on every `stride`-th pixel, first one included (zero padding on
            all sides, as Caffe and PyTorch do, hence the networks of He et al.), rather than
            `padding="same"`, which at stride 2 and even sides shifts it by one pixel.
        kernel_initializer: Keras initializer of the kernel.

    Returns:
        Tensor of shape `(batch, ceil(height / stride), ceil(width / stride), filters)`.
    """
    factory = factory or LayerFactory()
    x = factory.center(x, role=role, name=name)
    x, padding = _pad(x, kernel_size, stride, centered, name)
    x = factory.conv2d(
        filters,
        kernel_size,
        strides=stride,
        padding=padding,
        use_bias=False,
        kernel_initializer=kernel_initializer,
        role=role,
        name=name,
    )(x)
    return factory.normalize(x, name=name)


def _pad(x: KerasTensor, kernel_size: int, stride: int, centered: bool, name: str) -> Any:
    """Returns `x` ready for a convolution, and the convolution's `padding`."""
    if not centered or stride == 1 or kernel_size == 1:
        return x, "same"
    pad = keras.layers.ZeroPadding2D(kernel_size // 2, data_format=DATA_FORMAT, name=f"{name}_pad")
    return pad(x), "valid"


def mobilenet_initializer() -> keras.Initializer:
    """Returns a fresh initializer of MobileNetV2 kernels, that of its authors' code (TF-Slim)."""
    return keras.initializers.TruncatedNormal(stddev=0.09)


def linear_bottleneck(
    x: KerasTensor,
    filters: int,
    stride: int = 1,
    expansion: int = 6,
    *,
    name: str,
    factory: LayerFactory | None = None,
    broadcast_shortcut: bool = False,
    centered: bool = False,
) -> KerasTensor:
    """The linear bottleneck of MobileNetV2 (inverted residual).

    A 1x1 convolution expands the channels, a 3x3 depthwise convolution filters each, and a 1x1
    convolution projects them; batch normalization follows each of the three, ReLU6 the first two,
    and nothing the last (hence *linear*). The identity shortcut is added at stride 1 with as many
    channels out as in. Expansion 1 leaves out the first step.

    Reference: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
    table 1 and figure 4d (https://arxiv.org/abs/1801.04381).

    Args:
        x: images, shape `(batch, height, width, channels)`.
        filters: output channels.
        stride: stride of the depthwise convolution.
        expansion: channels between expansion and projection, as a multiple of the input channels.
        name: place in the network; the layers are `<name>_expand`, `<name>_depthwise` and
            `<name>_project`, each with `<layer>_bn`.
        factory: which roles are faulty; None for plain Keras layers.
        broadcast_shortcut: always add the input, repeating a single channel where `filters` is
            more: the deviation of the study's published code.
        centered: padding at stride 2, see `conv_bn`.

    Returns:
        Tensor of shape `(batch, ceil(height / stride), ceil(width / stride), filters)`.

    Raises:
        ValueError: if a size is not a positive integer, or if `broadcast_shortcut=True` and the
            input can be neither added nor broadcast to the output.

    Example:

    ```python
    inputs = keras.Input((28, 28, 8))
    outputs = linear_bottleneck(inputs, 8, name="block1", factory=LayerFactory(drop_connect=0.2))
    ```
    """
    check_positive(filters=filters, stride=stride, expansion=expansion)
    factory = factory or LayerFactory()
    channels = x.shape[-1]
    adds = stride == 1 and channels == filters
    if broadcast_shortcut and not adds and (stride != 1 or channels != 1):
        raise ValueError(
            "`broadcast_shortcut=True` needs stride 1 and an input of 1 channel or of `filters` "
            f"channels. Received: stride={stride}, filters={filters} and an input of {channels} "
            f"channels in bottleneck '{name}'. Leave out `broadcast_shortcut`."
        )
    y = x
    if expansion != 1:
        expand = f"{name}_expand"
        y = conv_bn(
            y,
            expansion * channels,
            1,
            role="expand",
            name=expand,
            factory=factory,
            kernel_initializer=mobilenet_initializer(),
        )
        y = keras.layers.ReLU(max_value=6.0, name=f"{expand}_relu")(y)

    depthwise = f"{name}_depthwise"
    y = factory.center(y, role="depthwise", name=depthwise)
    y, padding = _pad(y, 3, stride, centered, depthwise)
    y = factory.depthwise_conv2d(
        3,
        strides=stride,
        padding=padding,
        use_bias=False,
        depthwise_initializer=mobilenet_initializer(),
        name=depthwise,
    )(y)
    y = factory.normalize(y, name=depthwise)
    y = keras.layers.ReLU(max_value=6.0, name=f"{depthwise}_relu")(y)

    y = conv_bn(
        y,
        filters,
        1,
        role="project",
        name=f"{name}_project",
        factory=factory,
        kernel_initializer=mobilenet_initializer(),
    )
    if adds or broadcast_shortcut:
        y = keras.layers.Add(name=f"{name}_project_add")([x, y])
    return y


def basic_block(
    x: KerasTensor,
    filters: int,
    stride: int = 1,
    *,
    names: tuple[str, str],
    replaced: tuple[bool, bool] = (False, False),
    shortcut: str = "A",
    expansion: int = 6,
    factory: LayerFactory | None = None,
    widening: int = 1,
) -> KerasTensor:
    """The basic block of ResNet, whose convolutions may be replaced by linear bottlenecks.

    Two 3x3 convolutions, each with batch normalization; ReLU follows the first, and the sum of the
    second and the shortcut. A replaced convolution is a whole `linear_bottleneck` of the same
    filters and stride, and keeps the block's batch normalization (and ReLU) after it.

    Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5 left
    and section 4.2 (https://arxiv.org/abs/1512.03385).

    Args:
        x: images, shape `(batch, height, width, channels)`.
        filters: output channels.
        stride: stride of the first convolution and of the shortcut.
        names: places of the two convolutions: the layers are `<place>_conv`, or those of a
            `linear_bottleneck` named `<place>`; the block's batch normalization is
            `<place>_conv_bn` or `<place>_bn`.
        replaced: which of the two convolutions are linear bottlenecks.
        shortcut: where the output's shape differs from the input's, "A" takes every `stride`-th
            pixel and pads the channels with zeros, half on each side, without any parameter;
            "projection" is a 1x1 convolution with batch normalization (option B of the paper).
        expansion: expansion of the linear bottlenecks.
        factory: which roles are faulty; None for plain Keras layers.
        widening: channels between the two convolutions, as a multiple of `filters`.

    Returns:
        Tensor of shape `(batch, ceil(height / stride), ceil(width / stride), filters)`.

    Raises:
        ValueError: if a size is not a positive integer, if `shortcut` is unknown, or if option A
            would have to remove channels.

    Example:

    ```python
    inputs = keras.Input((32, 32, 16))
    outputs = basic_block(inputs, 32, stride=2, names=("c07", "c08"), replaced=(False, True))
    ```
    """
    check_positive(filters=filters, stride=stride, expansion=expansion, widening=widening)
    check_choice("shortcut", shortcut, SHORTCUTS)
    factory = factory or LayerFactory()

    def convolution(
        y: KerasTensor, filters: int, stride: int, name: str, replace: bool
    ) -> KerasTensor:
        if replace:
            y = linear_bottleneck(
                y, filters, stride, expansion, name=name, factory=factory, centered=True
            )
            return factory.normalize(y, name=name)
        return conv_bn(
            y,
            filters,
            3,
            stride,
            role="conv",
            name=f"{name}_conv",
            factory=factory,
            centered=True,
        )

    first, second = names
    y = convolution(x, widening * filters, stride, first, replaced[0])
    y = keras.layers.ReLU(name=f"{first}_relu")(y)
    y = convolution(y, filters, 1, second, replaced[1])

    name = f"{first}_shortcut"
    if stride != 1 or x.shape[-1] != filters:
        if shortcut == "A":
            x = _option_a_shortcut(x, filters, stride, name=name)
        else:
            x = conv_bn(x, filters, 1, stride, role="shortcut", name=name, factory=factory)
    y = keras.layers.Add(name=f"{second}_add")([x, y])
    return keras.layers.ReLU(name=f"{second}_relu")(y)


def _option_a_shortcut(x: KerasTensor, filters: int, stride: int, *, name: str) -> KerasTensor:
    """Takes every `stride`-th pixel and pads the channels with zeros, half on each side."""
    missing = filters - x.shape[-1]
    if missing < 0:
        raise ValueError(
            "shortcut='A' pads channels and cannot remove any. Received: an input of "
            f"{x.shape[-1]} channels for filters={filters}. Use shortcut='projection'."
        )
    if stride != 1:
        x = keras.layers.AveragePooling2D(
            pool_size=1, strides=stride, data_format=DATA_FORMAT, name=f"{name}_subsample"
        )(x)
    if missing:
        # Read as channels first, the last axis is the one of the "columns": Keras has no layer that
        # pads channels, and a plain layer serializes, converts and runs everywhere.
        columns = (missing // 2, missing - missing // 2)
        x = keras.layers.ZeroPadding2D(
            ((0, 0), columns), data_format="channels_first", name=f"{name}_pad"
        )(x)
    return x
