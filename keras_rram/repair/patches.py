"""Layers as matrices: which inputs each weight of a kernel is multiplied with.

The outputs of a dense layer and of a convolution are `y[n, g, c] = sum_r x[n, g, r] w[g, r, c]`:
`n` runs over images and positions, `g` over groups (the channels of a depthwise convolution, the
groups of a grouped one, else one), `r` over the weights of a window, `c` over the group's outputs.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_rram.faults.crossbar import Crossbar

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def check_layers(layers: Mapping[str, Any]) -> None:
    """Raises ValueError unless all layers, by name, are ones that `check_layer` takes."""
    for name, layer in layers.items():
        check_layer(f"{name}/kernel", layer)


def check_layer(name: str, layer: Any) -> None:
    """Raises ValueError unless the layer of a kernel is a dense layer or a convolution."""
    known = (keras.layers.Dense, *_CONVOLUTIONS, *_DEPTHWISE)
    if not isinstance(layer, known) or isinstance(layer, _TRANSPOSED):
        raise ValueError(
            "expected dense layers, convolutions and depthwise convolutions. Received: "
            f"{type(layer).__name__} of kernel '{name}', whose inputs this repair cannot unroll "
            "(--repair=batch_norm works with any layer, where there is batch normalization; remap, "
            "spare_columns and retraining work with any model)"
        )


def matrices(crossbar: Crossbar, kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel as an array `(groups, rows, columns)`."""
    return _ordered(crossbar, kernel).reshape(_sizes(crossbar))


def from_matrices(crossbar: Crossbar, found: np.ndarray) -> np.ndarray:
    """Returns what `matrices` was given."""
    axes = [axis for part in _axes(crossbar) for axis in part]
    split = found.reshape([crossbar.split[axis] for axis in axes])
    return split.transpose(np.argsort(axes)).reshape(crossbar.shape)


def patches(layer: Any, inputs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns what the kernel of a layer is multiplied with.

    Args:
        layer: a layer that `check_layer` takes.
        inputs: what comes into it.
        chosen: indices of output positions, counted over images and positions in order.

    Returns:
        Array `(len(chosen), groups, rows)`.
    """
    if not isinstance(layer, (*_CONVOLUTIONS, *_DEPTHWISE)):
        return inputs.reshape(-1, inputs.shape[-1])[chosen][:, None]
    if layer.data_format == "channels_first":
        inputs = np.moveaxis(inputs, 1, -1)
    sizes, before, after = _geometry(layer, inputs.shape[1:-1])
    padded = np.pad(inputs, [(0, 0), *zip(before, after, strict=True), (0, 0)])
    image, *place = np.unravel_index(chosen, (len(inputs), *sizes))
    window = []
    for offset in np.ndindex(*layer.kernel_size):
        at = (
            start * stride + step * dilation
            for start, stride, step, dilation in zip(
                place, layer.strides, offset, layer.dilation_rate, strict=True
            )
        )
        window.append(padded[(image, *at)])
    stacked = np.stack(window, axis=1)  # (n, window, channels)
    groups = stacked.shape[-1] if isinstance(layer, _DEPTHWISE) else layer.groups
    split = stacked.reshape(*stacked.shape[:2], groups, -1)
    return np.moveaxis(split, 2, 1).reshape(len(chosen), groups, -1)


def positions(layer: Any, shape: tuple[int, ...]) -> int:
    """Returns how many output positions a layer has for inputs of a shape, over all images."""
    if not isinstance(layer, (*_CONVOLUTIONS, *_DEPTHWISE)):
        return int(np.prod(shape[:-1]))
    spatial = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
    return int(shape[0] * np.prod(_geometry(layer, spatial)[0]))


def _geometry(layer: Any, spatial: tuple[int, ...]) -> tuple[tuple[int, ...], list[int], list[int]]:
    """Returns a convolution's output sizes, and its zeros before and after the inputs."""
    sizes, before, after = [], [], []
    for size, kernel, stride, dilation in zip(
        spatial, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True
    ):
        reach = (kernel - 1) * dilation + 1
        if layer.padding == "same":
            out = -(-size // stride)
            padding = max((out - 1) * stride + reach - size, 0)
            first = padding // 2
        else:
            padding = first = reach - 1 if layer.padding == "causal" else 0
            out = (size + padding - reach) // stride + 1
        sizes.append(out)
        before.append(first)
        after.append(padding - first)
    return tuple(sizes), before, after


def _axes(crossbar: Crossbar) -> tuple[list[int], list[int], list[int]]:
    shared = [axis for axis in crossbar.row_axes if axis in crossbar.column_axes]
    rows = [axis for axis in crossbar.row_axes if axis not in shared]
    return shared, rows, [axis for axis in crossbar.column_axes if axis not in shared]


def _sizes(crossbar: Crossbar) -> tuple[int, ...]:
    return tuple(int(np.prod([crossbar.split[axis] for axis in part])) for part in _axes(crossbar))


def _ordered(crossbar: Crossbar, kernel: np.ndarray) -> np.ndarray:
    axes = [axis for part in _axes(crossbar) for axis in part]
    return np.broadcast_to(kernel, crossbar.shape).reshape(crossbar.split).transpose(axes)
