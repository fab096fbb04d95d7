"""ResNet20 for CIFAR-10, with any of its 18 convolutions replaced by a linear bottleneck."""

from collections.abc import Iterable

import keras

from keras_rram.layers.drop_connect import DropConnect
from keras_rram.models.resnet import resnet


def resnet20(
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
    """Builds ResNet20, with chosen convolutions replaced by linear bottlenecks.

    Use it to find which convolutions can move to faulty hardware. The stem is convolution 0 and
    stays; the two convolutions of the nine basic blocks are numbered 1 to 18. Convolutions 7 and 13
    have stride 2, and so do the bottlenecks that replace them.

    Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2
    (https://arxiv.org/abs/1512.03385), 20 layers. Numbering and replacement: "Exploration of Linear
    Bottleneck Architecture for RRAM Fault-tolerant Deep Learning" (2024), figures 1D and 4.

    Args:
        replaced: numbers of the replaced convolutions, each 1 to 18.
        drop_connect: drop rate in `[0, 1)` or `DropConnect`; None for plain Keras layers.
        scope: roles that drop, if `drop_connect` is given: "blocks" (all kernels of the
            bottlenecks), "depthwise", "convolutions" (of the whole network), "all", or any set of
            roles. None: "blocks" where convolutions are replaced, "conv" (all convolutions of
            the basic blocks) where none is.
        expansion: expansion of the bottlenecks.
        shortcut: "A" (no parameters) or "projection", see `basic_block`.
        width: filters of the stem and of the first three blocks; the others have 2 and 4 times as
            many.
        input_shape: `(height, width, channels)` of the images.
        classes: number of classes.
        name: name of the model.
        normalization: "batch", "instance" or "group", see `LayerFactory`.
        centered_inputs: whether the inputs of faulty layers are centred, see `CenteredInput`.
        widened: numbers of convolutions with twice the filters, odd ones, see `resnet`.

    Returns:
        A functional model, `(batch, height, width, channels)` to logits `(batch, classes)`. Its
        kernel layers are `stem`, `c01_conv` to `c18_conv`, `head`; a replaced convolution 7 is
        `c07_expand`, `c07_depthwise`, `c07_project`, a projection `c07_shortcut`.

    Raises:
        ValueError: if an argument is out of range, a number comes twice, or `drop_connect` cannot
            take effect.

    Example:

    ```python
    model = keras_rram.models.resnet20(replaced=(4, 10, 16), drop_connect=0.3)
    model = keras_rram.models.resnet20(drop_connect=0.2, scope="convolutions")
    ```
    """
    return resnet(
        20,
        replaced,
        drop_connect,
        scope,
        expansion=expansion,
        shortcut=shortcut,
        width=width,
        input_shape=input_shape,
        classes=classes,
        name=name,
        normalization=normalization,
        centered_inputs=centered_inputs,
        widened=widened,
    )
