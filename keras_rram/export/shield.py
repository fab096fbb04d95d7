"""Layers whose inputs a converter would take the last addition of into their own bias."""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.layers import CenteredInput

Tensor = Any

_SHIFTING = (
    CenteredInput,
    keras.layers.BatchNormalization,
    keras.layers.Normalization,
    keras.layers.Rescaling,
)
_PASSING = (
    keras.layers.ActivityRegularization,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.Reshape,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
)
# Operations of Keras on tensors and numbers, which are no layers: `x / 127.5 - 1`.
_ARITHMETIC = frozenset(
    ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative", "Square", "Power")
)
# What takes an array of one number for each channel into its bias; others only a single number.
_DENSE = (keras.layers.Dense, keras.layers.EinsumDense)
_OTHERS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.GroupQueryAttention,
    keras.layers.MultiHeadAttention,
    keras.layers.SeparableConv2D,
)


def exposed_layers(model: keras.Model) -> set[str]:
    """Returns the names of the layers of a plain model that are to be `shielded`.

    A layer behind an addition of constants, `W (x + c) + b`, becomes `W x + (W c + b)` in a file,
    and the constants of a product are multiplied into its weights. Bias and weights then no longer
    are what a chip's faults are written into. So does batch normalization that no layer before it
    has taken in.

    Args:
        model: plain functional or Sequential model.
    """
    own = {id(tensor._keras_history.operation) for tensor in model.inputs}
    return {
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, (*_DENSE, *_OTHERS))
        and any(
            _is_exposed(layer, tensor, own)
            for node in layer._inbound_nodes
            for tensor in node.input_tensors
        )
    }


@functools.cache
def shielded(kind: type[Any]) -> type[Any]:
    """Returns a class of layers whose inputs pass through reshapes to their own shapes.

    The converter leaves it where it is, and does not look behind it. It costs no arithmetic.
    """

    @functools.wraps(kind.call)  # whose signature says how Keras builds it
    def call(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        args, kwargs = keras.tree.map_structure(_reshaped, (args, kwargs))
        return kind.call(self, *args, **kwargs)

    return type(f"Shielded{kind.__name__}", (kind,), {"call": call})


def _reshaped(value: Any) -> Any:
    """Returns a tensor of known shape behind a reshape, and anything else as it is."""
    if not ops.is_tensor(value) or None in value.shape[1:]:
        return value
    shape = tuple(value.shape[1:])
    return ops.reshape(ops.reshape(value, (-1, math.prod(shape), 1)), (-1, *shape))


def _is_exposed(layer: Any, tensor: Any, own: set[int]) -> bool:
    # A convolution takes in nothing that its padding does not have.
    if None in tensor.shape[1:] or getattr(layer, "padding", "valid") != "valid":
        return False
    operation, step = _maker(tensor)
    while isinstance(operation, _PASSING):
        operation, step = _maker(step.input_tensors[0])
    if isinstance(operation, keras.layers.InputLayer):
        return id(operation) not in own  # what comes into a model within a model is not known
    if not isinstance(operation, keras.Layer):
        return type(operation).__name__ in _ARITHMETIC and len(step.input_tensors) < 2
    takes_arrays = isinstance(layer, _DENSE)
    is_single = step.output_tensors[0].shape[-1] == 1
    if isinstance(operation, keras.layers.Rescaling):
        is_single |= np.size(operation.offset) == 1
    return isinstance(operation, _SHIFTING) and (takes_arrays or is_single)


def _maker(tensor: Any) -> tuple[Any, Any]:
    """Returns the operation that made a tensor, and its call."""
    history = tensor._keras_history
    return history.operation, history.operation._inbound_nodes[history.node_index]
