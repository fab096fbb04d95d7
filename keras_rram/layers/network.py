"""The Drop-Connect layers of a model: find them, set their drop rate."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_rram.layers.drop_connect import DropConnect
from keras_rram.layers.mixin import DropConnectMixin
from keras_rram.layers.twins import CONVERTIBLE


def faulty_layers(model: keras.Layer) -> dict[str, Any]:
    """Returns the Drop-Connect layers of a model, by name, in the order of the model.

    Layers of nested models and of subclassed models count; those with `drop_connect=None` do not.

    Raises:
        TypeError: if it is no Keras model.
        ValueError: if two different layers share a name, since a chip knows layers by name.
    """
    check_model(model)
    found: dict[str, Any] = {}
    for layer in model._flatten_layers():
        if not isinstance(layer, DropConnectMixin) or layer.drop_connect is None:
            continue
        if found.setdefault(layer.name, layer) is not layer:
            raise ValueError(
                f"Two layers of model '{model.name}' are named '{layer.name}'. A chip assigns "
                "faults by layer name: give each layer its own."
            )
    return found


def faulty_weights(model: keras.Layer) -> int:
    """Returns how many weights of a built model, or of one of its layers, faults can reach."""
    return sum(
        int(np.prod(kernel.shape))
        for layer in faulty_layers(model).values()
        for kernel in layer.kernels.values()
    )


def check_weights(model: Any) -> None:
    """Checks that a model is one, built, and that its weights are numbers.

    Raises:
        TypeError: if it is no Keras model.
        ValueError: if it is not built, or if a weight is NaN or infinite.
    """
    check_model(model)
    if not model.built:
        raise ValueError(f"Model '{model.name}' is not built: call it on an input first.")
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight) if "float" in str(weight.dtype) else None
        if values is not None and not np.isfinite(values.astype(np.float32)).all():
            raise ValueError(
                f"Model '{model.name}' has NaN or infinite values in '{weight.path}': it computes "
                "nothing (its training may have diverged)."
            )


def set_drop_rate(model: keras.Layer, rate: float) -> None:
    """Assigns one drop rate to every Drop-Connect layer of a built model, without retracing.

    Raises:
        ValueError: if `rate` is outside `[0, 1)`, or if the model has no Drop-Connect layer.
    """
    rate = DropConnect(rate).rate
    layers = faulty_layers(model)
    if not layers:
        raise ValueError(
            f"Model '{model.name}' has no Drop-Connect layer to set a drop rate on. Convert it "
            "with `to_drop_connect(model, rate)` first."
        )
    for layer in layers.values():
        layer.drop_rate.assign(rate)


def weighted_layers(model: keras.Layer) -> Iterator[Any]:
    """Yields the layers of a model that have weights, each with the parts that belong to it.

    A layer made of others (a nested model, `Bidirectional`) is taken apart, but for those that have
    a Drop-Connect twin: a recurrent layer comes with its cell, attention with its projections.
    """
    check_model(model)
    seen: set[int] = set()

    def walk(layer: Any) -> Iterator[Any]:
        for part in layer._layers:
            if id(part) in seen:
                continue
            seen.add(id(part))
            if isinstance(part, DropConnectMixin) or type(part) in CONVERTIBLE or not part._layers:
                if part.weights:
                    yield part
            else:
                yield from walk(part)

    return walk(model)


def check_model(model: Any) -> None:
    """Raises TypeError for what is no Keras model."""
    if not isinstance(model, keras.Layer):
        raise TypeError(f"expected a Keras model. Received: {type(model).__name__}")
