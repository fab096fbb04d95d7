"""Fingerprints: what must agree before results may be mixed."""

import dataclasses
import hashlib
import json
import sys

import keras
import numpy as np

from keras_rram.faults import FaultModel, parse, spec
from keras_rram.files import array_sha256
from keras_rram.layers import DropConnectMixin, faulty_layers
from keras_rram.noise.injection import read_noise_of


def model_sha256(model: keras.Model) -> str:
    """Returns the SHA-256 of what a model computes: weights, layers and their options.

    Left out is what differs between equal models: the programmed chip, drop rates, random states,
    and the names of layers that no fault can reach.
    """
    layers = faulty_layers(model)
    ignored = {
        id(variable)
        for layer in layers.values()
        for variable in (
            layer.drop_rate,
            *layer.fault_masks.values(),
            *layer.fault_offsets.values(),
        )
    }
    digest = hashlib.sha256()
    for layer in model._flatten_layers(include_self=False):
        if not layer._layers or layer.name in layers:
            name = layer.name if layer.name in layers else ""
            digest.update(json.dumps([type(layer).__name__, name, _options(layer)]).encode())
    for variable in model.trainable_variables + model.non_trainable_variables:
        values = keras.ops.convert_to_numpy(variable)
        # The states of random generators are integers.
        if id(variable) not in ignored and values.dtype.kind not in "iu":
            digest.update(array_sha256(values).encode())
    return digest.hexdigest()


def _options(layer: keras.Layer) -> str:
    try:
        config = layer.get_config()
    except NotImplementedError:
        return ""
    rescale = isinstance(layer, DropConnectMixin) and getattr(layer.drop_connect, "rescale", None)
    for name in ("name", "drop_connect", "fault_offsets", "trainable", "seed", "build_config"):
        config.pop(name, None)
    return json.dumps([config, rescale], sort_keys=True, default=repr)


def noises(model: keras.Model) -> list[str]:
    """Returns the kinds of noise on a model's reads, each with its layers unless all have it.

    A model's file holds none, and neither does `model_sha256`.
    """
    found = read_noise_of(model)
    kinds: dict[str, list[str]] = {}
    for name, noise in found.items():
        config = keras.saving.serialize_keras_object(noise)
        kinds.setdefault(json.dumps(config, sort_keys=True, default=str), []).append(name)
    if len(kinds) == 1 and len(found) == len(faulty_layers(model)):
        return list(kinds)
    return [f"{kind}: {', '.join(names)}" for kind, names in kinds.items()]


def text_without_rate(fault_model: FaultModel) -> str:
    """Returns a fault model as text, but for the rate that each chip's record has.

    A class of your own, which has no name in `keras_rram.faults.text`, is told by its fields; such
    a text identifies it but cannot be parsed.
    """
    try:
        return spec(fault_model, with_rate=False)
    except TypeError:
        if not dataclasses.is_dataclass(fault_model):
            raise
    fields = [field.name for field in dataclasses.fields(fault_model) if field.name != "rate"]
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        values = ", ".join(f"{name}={getattr(fault_model, name)!r}" for name in fields)
    return f"{type(fault_model).__qualname__}({values})"


def text_at_rate(text: str, rate: float) -> str:
    """Returns the text of a fault model at a rate, from that of `text_without_rate`."""
    try:
        return spec(parse(text, rate))
    except ValueError:
        return text  # a class of the user's own, or one without a rate to sweep
