"""Keras model in, Keras model out: the Drop-Connect twin of a model, and back to plain Keras."""

from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_rram import layers
from keras_rram.constraints import DropConnect
from keras_rram.normalization import FusedBatchNormalization
from keras_rram.roles import resolve_scope, role_of

Where = Callable[[keras.Layer], bool] | str | Iterable[str] | None

# Plain class -> Drop-Connect class. Subclasses of a plain class may compute something else.
CONVERTIBLE: dict[type, Any] = {
    keras.layers.Dense: layers.DropConnectDense,
    keras.layers.Conv2D: layers.DropConnectConv2D,
    keras.layers.DepthwiseConv2D: layers.DropConnectDepthwiseConv2D,
    keras.layers.SeparableConv2D: layers.DropConnectSeparableConv2D,
}
# And what a plain model has instead of a layer of this package.
_PLAIN: dict[Any, Any] = {
    **{twin: plain for plain, twin in CONVERTIBLE.items()},
    FusedBatchNormalization: keras.layers.BatchNormalization,
}


def to_drop_connect(
    model: keras.Model, rate: float | DropConnect, where: Where = None
) -> keras.Model:
    """Returns the Drop-Connect twin of a Keras model: same weights, same outputs.

    Args:
        model: a built functional or Sequential model, nested ones included.
        rate: drop rate in `[0, 1)`, or a `DropConnect`. Rate 0 is enough for a model that is only
            evaluated on chips.
        where: which layers with kernels are converted. A function of the layer; or a scope or roles
            (see `keras_rram.roles`); or None for all.

    Returns:
        A new model, not compiled. `model` is left as it is.

    Raises:
        ValueError: if the model cannot be rebuilt from its layers, or if a chosen layer has a
            kernel and no Drop-Connect twin (the message names it), or if none is chosen.

    Example:

    ```python
    model = keras.applications.MobileNetV2(weights=None)
    twin = keras_rram.to_drop_connect(model, 0.2, where="blocks")
    ```
    """
    drop_connect = rate if isinstance(rate, DropConnect) else DropConnect(rate)
    chosen = _predicate(where)
    converted: list[str] = []

    def convert(layer: keras.Layer) -> keras.Layer:
        if not _has_kernel(layer) or not chosen(layer):
            return _copy(layer)
        twin = CONVERTIBLE.get(type(layer))
        if isinstance(layer, layers.DropConnectMixin):
            twin = type(layer)
        if twin is None:
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) has a kernel, but no Drop-Connect "
                "twin. Leave it out with `where=`, for example "
                f"`where=lambda layer: layer.name != '{layer.name}'`. Layers with a twin: "
                f"{sorted(plain.__name__ for plain in CONVERTIBLE)}."
            )
        converted.append(layer.name)
        return twin.from_config({**_config(layer), "drop_connect": drop_connect})

    twin = _rebuild(model, convert)
    if not converted:
        raise ValueError(
            f"No layer of model '{model.name}' was chosen: `where={where!r}` fits none of its "
            "layers with kernels."
        )
    return twin


def bake(model: keras.Model) -> keras.Model:
    """Returns a plain Keras model whose weights are what the programmed chip holds.

    Args:
        model: a functional or Sequential model, programmed with a chip or not.

    Returns:
        A new model without a layer of this package, not compiled; its outputs equal those of
        `model` in inference.
    """

    def plain(layer: keras.Layer) -> keras.Layer:
        if type(layer) not in _PLAIN:
            return _copy(layer)
        config = layer.get_config()
        for name in ("drop_connect", "fault_offsets"):
            config.pop(name, None)
        return _PLAIN[type(layer)].from_config(config)

    return _rebuild(model, plain)


def _predicate(where: Where) -> Callable[[keras.Layer], bool]:
    if where is None:
        return lambda layer: True
    if callable(where):
        return where
    roles = resolve_scope(where)
    return lambda layer: role_of(layer) in roles


def _has_kernel(layer: keras.Layer) -> bool:
    return any(len(weight.shape) > 1 for weight in layer.weights)


def _config(layer: keras.Layer) -> dict[str, Any]:
    config = layer.get_config()
    config.pop("drop_connect", None)
    return config


def _copy(layer: keras.Layer) -> keras.Layer:
    return type(layer).from_config(layer.get_config())


def _rebuild(model: keras.Model, clone: Callable[[keras.Layer], keras.Layer]) -> keras.Model:
    """Clones a model layer by layer, then copies the weights."""
    for part in model._flatten_layers():
        # Keras does not export its functional class; what it has beyond a model is `operations`.
        is_graph = isinstance(part, keras.Sequential) or hasattr(part, "operations")
        if isinstance(part, keras.Model) and not is_graph:
            raise ValueError(
                f"Model '{part.name}' ({type(part).__name__}) is a subclassed model: Keras cannot "
                "rebuild it layer by layer. Use the layers of `keras_rram.layers` in its own code, "
                "or make it functional."
            )
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built. Call it on a batch, or give it a `keras.Input`."
        )
    try:
        twin = keras.models.clone_model(model, clone_function=clone, recursive=True)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"Keras could not clone model '{model.name}': {error}") from error
    if not twin.built:
        twin.build(model.input_shape)
    _copy_weights(model, twin)
    return twin


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    for old, new in zip(_leaves(source), _leaves(target), strict=True):
        effective = {}
        if _is_programmable(old) and not _is_programmable(new):
            effective = {id(old.kernels[slot]): old.effective_kernel(slot) for slot in old.kernels}
        # A twin's weights begin with those of its plain layer; its drop rate is its own.
        for variable, value in zip(new.weights, old.weights, strict=False):
            if value is not getattr(old, "drop_rate", None):
                # By way of NumPy: JAX arrays would be shared, and training gives them away.
                variable.assign(keras.ops.convert_to_numpy(effective.get(id(value), value)))


def _is_programmable(layer: keras.Layer) -> bool:
    return isinstance(layer, layers.DropConnectMixin) and layer.drop_connect is not None


def _leaves(model: keras.Model) -> list[keras.Layer]:
    return [layer for layer in model._flatten_layers() if layer.weights and not layer._layers]
