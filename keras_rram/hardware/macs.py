"""Multiply-accumulates of one call of a layer."""

import math
from typing import Any

import keras

from keras_rram.layers import CONVERTIBLE, DIGITAL, CenteredInput

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_RECURRENT = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)
_CONVOLUTIONAL_RECURRENT = (
    keras.layers.ConvLSTM1D,
    keras.layers.ConvLSTM2D,
    keras.layers.ConvLSTM3D,
)
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


def macs_of(layer: Any, input_shape: tuple, output_shape: tuple) -> int:
    """Returns the products of a kernel weight and an input value in one call, for one example.

    Args:
        layer: a built Keras or Drop-Connect layer.
        input_shape: shape of the input, the batch included; of attention layers that of `value`.
        output_shape: shape of the output; of attention layers that of the attention output.

    Raises:
        ValueError: if a size is unknown, or the layer has matrices of unknown use.
    """
    if isinstance(layer, keras.layers.Dense):
        return size(layer.kernel) * _positions(layer, output_shape[1:-1])
    if isinstance(layer, keras.layers.EinsumDense):
        return size(layer.kernel) * _positions(layer, _einsum_positions(layer, output_shape))
    if isinstance(layer, _SEPARABLE):
        kernels = size(layer.depthwise_kernel) + size(layer.pointwise_kernel)
        return kernels * _positions(layer, _image(layer, output_shape))
    if isinstance(layer, (*_CONVOLUTIONS, *_DEPTHWISE)):
        # A kernel of shape (..., channels / groups, filters) has one weight for each product of an
        # output position, whatever the groups.
        return size(layer.kernel) * _positions(layer, _image(layer, output_shape))
    if isinstance(layer, _TRANSPOSED):
        return size(layer.kernel) * _positions(layer, _image(layer, input_shape))
    if isinstance(layer, _RECURRENT):
        return _all_kernels(layer) * _positions(layer, input_shape[1:2])
    if isinstance(layer, _CONVOLUTIONAL_RECURRENT):
        steps, step = input_shape[1:2], (input_shape[0], *input_shape[2:])
        state = layer.cell.compute_output_shape(step)[0]
        return _all_kernels(layer) * _positions(layer, (*steps, *_image(layer.cell, state)))
    if isinstance(layer, _ATTENTION):
        return _attention(layer, input_shape[1:-1], output_shape[1:-1])
    matrices = [weight.path for weight in layer.weights if len(weight.shape) > 1]
    if matrices and not isinstance(layer, DIGITAL):
        raise ValueError(
            f"Cannot count the multiply-accumulates of layer '{layer.name}' of type "
            f"{type(layer).__name__}, which has the weights {matrices}. Expected one of "
            f"{sorted(kind.__name__ for kind in CONVERTIBLE)}, or a layer without a matrix."
        )
    return 0


def digital_operations_of(layer: Any, input_shape: tuple) -> int:
    """Returns what normalizing costs the digital periphery in one call, for one example.

    Additions and multiplications on each value: 1 to centre it; 6 for group and instance
    normalization (sum, difference, square, sum of squares, scale, shift), whose reciprocal roots,
    one for each group, do not count. A batch normalization costs nothing, as it is folded into the
    layer before it.

    Args:
        layer: a built layer.
        input_shape: shape of the input, the batch included.

    Raises:
        ValueError: if a size is unknown.
    """
    if isinstance(layer, keras.layers.GroupNormalization):
        return 6 * _positions(layer, input_shape[1:])
    if isinstance(layer, CenteredInput):
        return _positions(layer, input_shape[1:])
    return 0


def size(weight: Any) -> int:
    """Returns the number of elements of a weight."""
    return math.prod(weight.shape)


def _all_kernels(layer: Any) -> int:
    return size(layer.cell.kernel) + size(layer.cell.recurrent_kernel)


def _attention(layer: Any, source: tuple, target: tuple) -> int:
    """Counts the projections; products of two activations have no kernel weight."""
    kernels = {"_query_dense": target, "_gate_dense": target, "_output_dense": target}
    kernels |= {"_key_dense": source, "_value_dense": source}
    return sum(
        size(getattr(layer, part).kernel) * _positions(layer, sizes)
        for part, sizes in kernels.items()
        if hasattr(layer, part)
    )


def _einsum_positions(layer: Any, output_shape: tuple) -> tuple:
    """Returns the sizes of the output's axes that neither the kernel nor the batch has."""
    terms, _, output = layer.equation.replace(" ", "").partition("->")
    kernel = terms.split(",")[1]
    # One dot for each axis of an ellipsis.
    dots = len(output_shape) - len(output.replace("...", ""))
    axes = zip(output.replace("...", "." * dots), output_shape, strict=True)
    return tuple(count for letter, count in list(axes)[1:] if letter not in kernel)


def _image(layer: Any, shape: tuple) -> tuple:
    return shape[1:-1] if layer.data_format == "channels_last" else shape[2:]


def _positions(layer: Any, sizes: tuple) -> int:
    if None in sizes:
        raise ValueError(
            f"Cannot count the multiply-accumulates of layer '{layer.name}': expected known sizes. "
            f"Received: {sizes}. Build the model with a full `input_shape`."
        )
    return math.prod(sizes)
