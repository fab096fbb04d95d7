"""The same network in `tf_keras`, for TensorFlow tools that do not know Keras 3."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import keras

from keras_rram.chips.chip import erase
from keras_rram.layers.convert import bake
from keras_rram.quiet import quiet

_LEGACY = "TF_USE_LEGACY_KERAS"

_CONVOLUTION = ("strides", "padding", "data_format", "dilation_rate", "activation", "use_bias")
_POOLING = ("pool_size", "strides", "padding", "data_format")

# Class -> the options that decide what it computes. A layer of the same name and with the same
# options in `tf_keras` has the same weights in the same order.
LAYERS: dict[type, tuple[str, ...]] = {
    keras.layers.Activation: ("activation",),
    keras.layers.Add: (),
    keras.layers.AveragePooling2D: _POOLING,
    keras.layers.BatchNormalization: ("axis", "momentum", "epsilon", "center", "scale"),
    keras.layers.Conv2D: ("filters", "kernel_size", "groups", *_CONVOLUTION),
    keras.layers.Dense: ("units", "activation", "use_bias"),
    keras.layers.DepthwiseConv2D: ("kernel_size", "depth_multiplier", *_CONVOLUTION),
    keras.layers.Dropout: ("rate",),
    keras.layers.Flatten: ("data_format",),
    keras.layers.GlobalAveragePooling2D: ("data_format", "keepdims"),
    keras.layers.MaxPooling2D: _POOLING,
    keras.layers.ReLU: ("max_value", "negative_slope", "threshold"),
    keras.layers.Softmax: ("axis",),
    keras.layers.ZeroPadding2D: ("padding", "data_format"),
}


@contextlib.contextmanager
def legacy_keras() -> Iterator[tuple[Any, Any]]:
    """Imports `tf_keras` and tensorflow-model-optimization for a `with` block.

    The import sets an environment variable, which child processes would get: it is put back.
    """
    before = os.environ.get(_LEGACY)
    try:
        with quiet():
            import tensorflow_model_optimization as tfmot
            import tf_keras
        yield tf_keras, tfmot
    finally:
        if before is None:
            os.environ.pop(_LEGACY, None)
        else:
            os.environ[_LEGACY] = before


def tf_keras_twin(model: keras.Model) -> Any:
    """Returns the plain `tf_keras` twin of a Keras model, as trained and free of faults.

    Args:
        model: functional or Sequential model of the layers in `LAYERS` and their Drop-Connect
            forms, one input, one output, Keras on TensorFlow.

    Returns:
        A functional `tf_keras.Model` with layers of the same names and equal outputs.

    Raises:
        ValueError: if a layer has no twin (the message names it), is called more than once, or the
            model is nested.
    """
    import tf_keras

    with erase(model):
        plain = bake(model)
    if isinstance(plain, keras.Sequential):
        plain = keras.Model(plain.inputs, plain.outputs)
    if not hasattr(plain, "_nodes_by_depth") or len(plain.inputs) != 1 or len(plain.outputs) != 1:
        raise ValueError(
            "Expected a functional or Sequential model with one input and one output. "
            f"Received: model '{model.name}' of type {type(model).__name__}"
        )
    (source,), (target,) = plain.inputs, plain.outputs
    inputs = tf_keras.Input(source.shape[1:], name=source._keras_history.operation.name)
    made = {id(source): inputs}
    twins: dict[str, Any] = {}
    for depth in sorted(plain._nodes_by_depth, reverse=True):
        for node in plain._nodes_by_depth[depth]:
            if node.is_input:
                continue
            layer = node.operation
            if layer.name in twins:
                raise ValueError(
                    f"Layer '{layer.name}' is called more than once, or its name is not its own."
                )
            twin = twins[layer.name] = _twin(layer, tf_keras.layers)
            tensors = [made[id(tensor)] for tensor in node.input_tensors]
            outputs = twin(tensors if isinstance(layer, keras.layers.Add) else tensors[0])
            made[id(node.outputs[0])] = outputs
            twin.set_weights([keras.ops.convert_to_numpy(weight) for weight in layer.weights])
    return tf_keras.Model(inputs, made[id(target)], name=model.name)


def _twin(layer: Any, library: Any) -> Any:
    options = LAYERS.get(type(layer))
    if options is None:
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has no `tf_keras` twin here. Layers "
            f"with one: {sorted(found.__name__ for found in LAYERS)}."
        )
    config = layer.get_config()
    chosen = {option: config[option] for option in options}
    activation = chosen.get("activation", "linear")
    if not isinstance(activation, str):
        raise ValueError(
            f"Layer '{layer.name}' has an activation without a name: {activation!r}. Expected one "
            "that Keras knows by name, or a layer of its own."
        )
    return getattr(library, type(layer).__name__)(name=layer.name, **chosen)
