"""Keras model in, Keras model out: the Drop-Connect twin of a model, and back to plain Keras."""

from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_rram.layers.centered_input import CenteredInput
from keras_rram.layers.centering import center_inputs
from keras_rram.layers.cloning import clone_model, follow_variables
from keras_rram.layers.drop_connect import DropConnect
from keras_rram.layers.group_normalization import (
    NORMALIZATIONS,
    FusedGroupNormalization,
    groups_of,
)
from keras_rram.layers.mixin import DropConnectMixin
from keras_rram.layers.network import check_model
from keras_rram.layers.normalization import FusedBatchNormalization
from keras_rram.layers.roles import resolve_scope, role_of
from keras_rram.layers.twins import CONVERTIBLE, DIGITAL
from keras_rram.layers.wrappers import DropConnectTimeDistributed

Where = Callable[[keras.Layer], bool] | str | Iterable[str] | None

# What a plain model has instead of a layer of this package.
_PLAIN: dict[Any, Any] = {
    **{twin: plain for plain, twin in CONVERTIBLE.items()},
    FusedBatchNormalization: keras.layers.BatchNormalization,
    FusedGroupNormalization: keras.layers.GroupNormalization,
}
# Layers around other layers -> their attributes that are these, by name in their config.
_WRAPPERS: dict[Any, dict[str, str]] = {
    keras.layers.TimeDistributed: {"layer": "layer"},
    DropConnectTimeDistributed: {"layer": "layer"},
    keras.layers.Bidirectional: {"layer": "forward_layer", "backward_layer": "backward_layer"},
}
_DROP_CONNECT_WRAPPERS: dict[Any, Any] = {keras.layers.TimeDistributed: DropConnectTimeDistributed}
_PLAIN_WRAPPERS: dict[Any, Any] = {twin: plain for plain, twin in _DROP_CONNECT_WRAPPERS.items()}


def to_drop_connect(
    model: keras.Model,
    rate: float | DropConnect,
    where: Where = None,
    centered_inputs: bool = False,
    normalization: str = "batch",
) -> keras.Model:
    """Returns the Drop-Connect twin of a Keras model: same weights, same outputs.

    Args:
        model: a built functional or Sequential model, nested ones included.
        rate: drop rate in `[0, 1)`, or a `DropConnect`. Rate 0 is enough for a model that is only
            evaluated on chips.
        where: which layers with kernels are converted. A function of the layer; or a scope or roles
            (see `keras_rram.layers.roles`); or None for all. Of `Bidirectional` and
            `TimeDistributed` the layers in them are asked about. Embeddings, normalizations and
            PReLU are digital and never converted; `audit` shows them.
        centered_inputs: whether a `CenteredInput` goes before each converted convolution and dense
            layer. The outputs stay the same: its means are zero until training or
            `gather_statistics` finds them.
        normalization: "batch" leaves normalizations as they are; "instance" and "group" put a
            `FusedGroupNormalization` in the place of each batch normalization of images, with its
            gamma and beta. The outputs then change, and the model needs a short fine-tuning.

    Returns:
        A new model, not compiled. `model` is left as it is.

    Raises:
        ValueError: if the model cannot be rebuilt from its layers, or if a chosen layer has a
            kernel and no Drop-Connect twin (the message names it), or if none is chosen; if
            `normalization` is unknown or the model has no batch normalization that it replaces, or
            if no input can be centred.

    Example:

    ```python
    model = keras.applications.MobileNetV2(weights=None)
    twin = keras_rram.to_drop_connect(model, 0.2, where="blocks")
    ```
    """
    drop_connect = rate if isinstance(rate, DropConnect) else DropConnect(rate)
    chosen = _predicate(where)
    converted: list[str] = []
    replaced: list[str] = []
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"`normalization` must be one of {list(NORMALIZATIONS)}. Received: "
            f"normalization={normalization!r}"
        )

    def convert(layer: keras.Layer) -> keras.Layer:
        kind = type(layer)
        if normalization != "batch" and _normalizes_images(layer):
            replaced.append(layer.name)
            return _of_each_image(layer, normalization)
        if kind in _WRAPPERS:
            before = len(converted)
            parts = _clone_parts(layer, convert)
            wrapper = _DROP_CONNECT_WRAPPERS.get(kind, kind) if len(converted) > before else kind
            return wrapper.from_config(parts)
        if not _has_kernel(layer) or not chosen(layer):
            return _copy(layer)
        twin = kind if isinstance(layer, DropConnectMixin) else CONVERTIBLE.get(kind)
        if twin is None:
            raise ValueError(_no_twin(layer))
        converted.append(layer.name)
        return twin.from_config({**_config(layer), "drop_connect": drop_connect})

    twin = rebuild(model, convert)
    if not converted:
        raise ValueError(
            f"No layer of model '{model.name}' was chosen: `where={where!r}` fits none of its "
            "layers with kernels."
        )
    if normalization != "batch" and not replaced:
        raise ValueError(
            f"`normalization='{normalization}'` cannot take effect: model '{model.name}' has no "
            "batch normalization of images of more than one pixel, channels last."
        )
    return center_inputs(twin) if centered_inputs else twin


def bake(model: keras.Model) -> keras.Model:
    """Returns a plain Keras model whose weights are what the programmed chip holds.

    Args:
        model: a functional or Sequential model, programmed with a chip or not.

    Returns:
        A new model without a layer of this package, not compiled; its outputs equal those of
        `model` in inference.
    """

    def plain(layer: keras.Layer) -> keras.Layer:
        if type(layer) in _WRAPPERS:
            wrapper = _PLAIN_WRAPPERS.get(type(layer), type(layer))
            return wrapper.from_config(_clone_parts(layer, plain))
        if type(layer) is CenteredInput:
            # Its variance is 1 when new, and stays so.
            return keras.layers.BatchNormalization(
                center=False, scale=False, epsilon=0.0, name=layer.name, dtype=layer.dtype_policy
            )
        if type(layer) not in _PLAIN:
            return _copy(layer)
        config = layer.get_config()
        for name in ("drop_connect", "fault_offsets"):
            config.pop(name, None)
        return _PLAIN[type(layer)].from_config(config)

    return rebuild(model, plain)


def rebuild(model: keras.Model, clone: Callable[[keras.Layer], keras.Layer]) -> keras.Model:
    """Clones a model layer by layer, then copies the weights.

    Args:
        model: built functional or Sequential model.
        clone: returns the layer in the place of one. It has its weights, in their order, whose axes
            may be split in another way; or none at all.

    Raises:
        ValueError: if the model is none that can be cloned.
    """
    check_model(model)
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
    twin = _clone_model(model, clone)
    if not twin.built:
        twin.build(model.input_shape)
    _copy_weights(model, twin)
    return twin


def _normalizes_images(layer: Any) -> bool:
    """Whether a layer is a batch normalization of images of more than one pixel."""
    if not isinstance(layer, keras.layers.BatchNormalization) or layer.axis not in (-1, 3):
        return False
    try:
        shape = layer.input.shape
    except (AttributeError, ValueError):  # called several times, or never by itself
        return False
    return len(shape) == 4 and not shape[1] == shape[2] == 1


def _of_each_image(layer: Any, normalization: str) -> keras.Layer:
    return FusedGroupNormalization(
        groups_of(normalization, layer.input.shape[-1]),
        epsilon=layer.epsilon,
        center=layer.center,
        scale=layer.scale,
        name=layer.name,
        dtype=layer.dtype_policy,
    )


def _predicate(where: Where) -> Callable[[keras.Layer], bool]:
    if where is None:
        return lambda layer: True
    if callable(where):
        return where
    roles = resolve_scope(where)
    return lambda layer: role_of(layer) in roles


def _has_kernel(layer: keras.Layer) -> bool:
    # `x + y` in a functional model is an operation, which is no layer.
    if not isinstance(layer, keras.Layer) or isinstance(layer, DIGITAL):
        return False
    return any(len(weight.shape) > 1 for weight in layer.weights)


def _no_twin(layer: keras.Layer) -> str:
    hint = (
        "use the layers of `keras_rram.layers` in its code, or leave it out"
        if layer._layers
        else "leave it out"
    )
    return (
        f"Layer '{layer.name}' ({type(layer).__name__}) has a kernel, but no Drop-Connect twin: "
        f"{hint} with `where=`, for example `where=lambda layer: layer.name != '{layer.name}'`. "
        f"Layers with a twin: {sorted(plain.__name__ for plain in CONVERTIBLE)}, also within "
        f"{sorted(wrapper.__name__ for wrapper in _WRAPPERS if wrapper not in _PLAIN_WRAPPERS)}."
    )


def _clone_parts(layer: Any, clone: Callable[[keras.Layer], keras.Layer]) -> dict[str, Any]:
    """Returns the config of a layer around other layers, with these cloned by `clone`."""
    config = layer.get_config()
    for key, attribute in _WRAPPERS[type(layer)].items():
        part = getattr(layer, attribute)
        cloned = _clone_model(part, clone) if isinstance(part, keras.Model) else clone(part)
        config[key] = keras.saving.serialize_keras_object(cloned)
    return config


def _clone_model(model: keras.Model, clone: Callable[[keras.Layer], keras.Layer]) -> keras.Model:
    # Keras takes no `call_function` for a Sequential model, whose layers are called with nothing.
    call = None if isinstance(model, keras.Sequential) else _call
    try:
        return clone_model(model, clone_function=clone, call_function=call, recursive=True)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"Keras could not clone model '{model.name}': {error}") from error


def _call(layer: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(layer, keras.layers.GroupNormalization):
        # Left by the batch normalization whose place it takes.
        kwargs.pop("mask", None)
    return layer(*args, **kwargs)


def _config(layer: keras.Layer) -> dict[str, Any]:
    config = layer.get_config()
    config.pop("drop_connect", None)
    return config


def _copy(layer: keras.Layer) -> keras.Layer:
    return type(layer).from_config(layer.get_config())


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies all weights but drop rates; what a chip does, where the target can hold it.

    Where it cannot, the target gets the effective kernels.
    """
    effective: dict[int, Any] = {}
    programmed: set[int] = set()
    pairs = list(zip(source._flatten_layers(), target._flatten_layers(), strict=True))
    for old, new in pairs:
        for layer in (old, new):
            if _is_programmable(layer):
                programmed |= {id(variable) for variable in _fault_variables(layer).values()}
        if not _is_programmable(old):
            continue
        if _is_programmable(new):
            held = _fault_variables(new)
            for name, variable in _fault_variables(old).items():
                if name != "drop_rate":
                    held[name].assign(keras.ops.convert_to_numpy(variable))
        else:
            effective |= {id(old.kernels[slot]): old.effective_kernel(slot) for slot in old.kernels}
    for old, new in pairs:
        for variables in ("_trainable_variables", "_non_trainable_variables"):
            theirs, ours = (
                [each for each in getattr(layer, variables) if id(each) not in programmed]
                for layer in (old, new)
            )
            # A converted layer's weights begin with those of the original; it may have its own.
            for value, variable in zip(theirs, ours, strict=False):
                # By way of NumPy: JAX arrays would be shared, and training gives them away.
                values = keras.ops.convert_to_numpy(effective.get(id(value), value))
                variable.assign(values.reshape(variable.shape))
    follow_variables(target)


def _is_programmable(layer: keras.Layer) -> bool:
    return isinstance(layer, DropConnectMixin) and layer.drop_connect is not None


def _fault_variables(layer: Any) -> dict[str, keras.Variable]:
    """Returns the variables that a Drop-Connect layer has and its Keras parent has not."""
    return {
        "drop_rate": layer.drop_rate,
        **{f"mask/{slot}": variable for slot, variable in layer.fault_masks.items()},
        **{f"offset/{slot}": variable for slot, variable in layer.fault_offsets.items()},
    }
