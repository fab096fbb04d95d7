"""A plain model in the form that TFLite holds best, before it is converted."""

from collections.abc import Iterator
from typing import Any

import keras

from keras_rram.export.errors import ExportError
from keras_rram.export.shield import exposed_layers, shielded
from keras_rram.layers.convert import rebuild
from keras_rram.layers.convolution import is_depthwise_convolution

_RECURRENT = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)
MOST_STEPS = 256
"""Steps of a recurrent layer beyond which a file would have too many operators."""


def prepared(model: keras.Model) -> keras.Model:
    """Returns a plain model that converts to a file that can be patched.

    - Recurrent layers become a chain of steps: of a loop, TFLite makes one only for a fixed batch.
    - A layer behind a shift is shielded from it: its bias would else depend on all weights, and on
      their faults, see `exposed_layers`.
    - A convolution of one filter for each channel becomes a depthwise one, which LiteRT computes
      several times as fast, and which it can compute in int8.

    Args:
        model: plain functional or Sequential model.

    Returns:
        A new model of the same function, or `model` itself where it has no such layer.

    Raises:
        ExportError: if the number of steps of a recurrent layer is not known, or above
            `MOST_STEPS`.
    """
    recurrent = unrolled_layers(model)
    depthwise = {
        layer.name
        for layer in model._flatten_layers()
        if type(layer) is keras.layers.Conv2D and is_depthwise_convolution(layer)
    }
    exposed = exposed_layers(model)
    if not recurrent and not depthwise and not exposed:
        return model

    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if layer.name in recurrent:
            config = _with_unroll(config)
        if layer.name in depthwise:
            kind, config = keras.layers.DepthwiseConv2D, _depthwise(layer)
        else:
            kind = type(layer)
        return (shielded(kind) if layer.name in exposed else kind).from_config(config)

    return rebuild(model, clone)


def unrolled_layers(model: keras.Model) -> list[str]:
    """Returns the names of the recurrent layers of a model that `prepared` takes apart.

    Raises:
        ExportError: see there.
    """
    found = []
    for layer in _recurrent(model):
        shape = _shape(layer)
        if len(shape) < 2 or shape[1] is None or shape[1] > MOST_STEPS:
            raise ExportError(
                f"Layer '{layer.name}' ({type(layer).__name__}) is unrolled for TFLite, which "
                f"needs a fixed number of steps, {MOST_STEPS} at most. Received: inputs of shape "
                f"{shape}. Build the model on `keras.Input((steps, ...))`, with its weights."
            )
        found.append(layer.name)
    return found


def _recurrent(model: Any) -> Iterator[Any]:
    """Yields recurrent layers, `Bidirectional` ones whole."""
    for layer in model._layers:
        if isinstance(getattr(layer, "forward_layer", layer), _RECURRENT):
            yield layer
        elif isinstance(layer, keras.Model):
            yield from _recurrent(layer)


def _shape(layer: Any) -> tuple[int | None, ...]:
    """Returns the shape of a layer's inputs, `()` of one that is called several times."""
    try:
        return tuple(layer.input.shape)
    except (AttributeError, ValueError):
        return ()


def _depthwise(layer: Any) -> dict[str, Any]:
    """Returns the config of the depthwise convolution that a convolution is."""
    same = keras.layers.DepthwiseConv2D(
        layer.kernel_size,
        layer.strides,
        layer.padding,
        depth_multiplier=layer.filters // layer.groups,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
        activation=layer.activation,
        use_bias=layer.use_bias,
        name=layer.name,
        dtype=layer.dtype_policy,
    )
    return same.get_config()


def _with_unroll(config: Any) -> Any:
    """Returns a config in which every recurrent layer is unrolled."""
    if isinstance(config, list | tuple):
        return type(config)(_with_unroll(each) for each in config)
    if not isinstance(config, dict):
        return config
    return {key: True if key == "unroll" else _with_unroll(value) for key, value in config.items()}
