"""Puts a `CenteredInput` before each layer on faulty hardware of a model that there is already."""

from typing import Any

import keras

from keras_rram.layers.centered_input import CenteredInput
from keras_rram.layers.cloning import clone_model
from keras_rram.layers.convolution import _Convolution, _TransposedConvolution
from keras_rram.layers.dense import DropConnectDense, DropConnectEinsumDense
from keras_rram.layers.depthwise import (
    DropConnectDepthwiseConv1D,
    DropConnectDepthwiseConv2D,
    DropConnectSeparableConv1D,
    DropConnectSeparableConv2D,
)

_ONE_INPUT = (
    _Convolution,
    _TransposedConvolution,
    DropConnectDense,
    DropConnectEinsumDense,
    DropConnectDepthwiseConv1D,
    DropConnectDepthwiseConv2D,
    DropConnectSeparableConv1D,
    DropConnectSeparableConv2D,
)


def center_inputs(model: keras.Model) -> keras.Model:
    """Returns a model with a `CenteredInput` before each faulty convolution and dense layer.

    Its moving means are zero, so that the outputs are the same; training or `gather_statistics`
    finds them. The layers are those of `model`, which it shares. Recurrent layers, attention and
    what sits in wrappers keep their inputs.

    Args:
        model: functional or Sequential model of this package's layers.

    Raises:
        ValueError: if no layer is centred, or one has its channels first.
    """
    centers: dict[str, CenteredInput] = {}
    centered = _centered(model, centers)
    if not centers:
        raise ValueError(
            f"`centered_inputs=True` cannot take effect: model '{model.name}' has no faulty "
            "convolution or dense layer of its own."
        )
    return centered


def _centered(model: Any, centers: dict[str, CenteredInput]) -> keras.Model:
    def part(layer: Any) -> Any:
        return _centered(layer, centers) if isinstance(layer, keras.Model) else layer

    if isinstance(model, keras.Sequential):
        layers: list[Any] = [keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)]
        for layer in model.layers:
            layers += [_center(layer, centers)] if _is_faulty(layer) else []
            layers.append(part(layer))
        return keras.Sequential(layers, name=model.name)

    def call(layer: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_faulty(layer):
            inputs = _center(layer, centers)(inputs)
        return layer(inputs, *args, **kwargs)

    return clone_model(model, clone_function=part, call_function=call)


def _is_faulty(layer: Any) -> bool:
    return isinstance(layer, _ONE_INPUT) and layer.drop_connect is not None


def _center(layer: Any, centers: dict[str, CenteredInput]) -> CenteredInput:
    """Returns the layer's `CenteredInput`, one for all its calls."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise ValueError(
            "`centered_inputs=True` needs channels last. Received: layer "
            f"'{layer.name}' with data_format='{layer.data_format}'"
        )
    if layer.name not in centers:
        centers[layer.name] = CenteredInput(name=f"{layer.name}_center")
    return centers[layer.name]
