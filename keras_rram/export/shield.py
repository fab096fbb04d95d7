"""Layers whose inputs a converter would take the last addition of into their own bias."""

import functools
from collections.abc import Iterator
from typing import Any

import keras
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
_CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
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
        if isinstance(layer, (keras.layers.Dense, *_CONVOLUTIONS))
        and any(_is_exposed(layer, node, own) for node in layer._inbound_nodes)
    }


@functools.cache
def shielded(kind: type[Any]) -> type[Any]:
    """Returns a class of layers whose inputs pass through a reshape to their own shape.

    The converter leaves it where it is, and does not look behind it. It costs no arithmetic.
    """

    def call(self: Any, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shape = tuple(inputs.shape[1:])
        flat = ops.reshape(inputs, (-1, functools.reduce(int.__mul__, shape), 1))
        return kind.call(self, ops.reshape(flat, (-1, *shape)), *args, **kwargs)

    return type(f"Shielded{kind.__name__}", (kind,), {"call": call})


def _is_exposed(layer: Any, node: Any, own: set[int]) -> bool:
    tensor = node.input_tensors[0]
    if None in tensor.shape[1:]:
        return False
    takes_arrays = isinstance(layer, keras.layers.Dense) and len(tensor.shape) == 2
    # A convolution takes in a single number only, and none where padding does not have it.
    if getattr(layer, "padding", "valid") != "valid":
        return False
    return any(_shifts(operation, step, takes_arrays, own) for operation, step in _before(tensor))


def _before(tensor: Any) -> Iterator[tuple[Any, Any]]:
    """Yields what made a tensor, and its call, behind layers that only pass on."""
    history = tensor._keras_history
    operation, step = history.operation, history.operation._inbound_nodes[history.node_index]
    if isinstance(operation, _PASSING):
        yield from _before(step.input_tensors[0])
    else:
        yield operation, step


def _shifts(operation: Any, node: Any, takes_arrays: bool, own: set[int]) -> bool:
    if isinstance(operation, keras.layers.InputLayer):
        return id(operation) not in own  # what comes into a model within a model is not known
    if not isinstance(operation, keras.Layer):
        return type(operation).__name__ in _ARITHMETIC and len(node.input_tensors) < 2
    is_single = node.output_tensors[0].shape[-1] == 1
    return isinstance(operation, _SHIFTING) and (takes_arrays or is_single)
