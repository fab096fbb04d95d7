"""Fingerprints: what must agree before results may be mixed."""

import hashlib
import json
from typing import Any

import keras
import numpy as np

from keras_rram.evaluation.engines.keras import Repair
from keras_rram.faults import FaultModel, serialize
from keras_rram.layers import DropConnectMixin, faulty_layers


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


def array_sha256(*arrays: np.ndarray) -> str:
    """Returns the SHA-256 of arrays: types, shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def without_rate(fault_model: FaultModel) -> dict[str, Any]:
    """Returns a fault model as plain values, but for the rate that each chip's record has."""
    described = serialize(fault_model)
    config = described["config"]
    return {**described, "config": {**config, "rate": None} if "rate" in config else config}


def describe_repair(repair: Repair | None) -> str:
    """Returns what tells a repair from another: its `fingerprint`, or else its name."""
    if repair is None:
        return "none"
    kind = repair if hasattr(repair, "__qualname__") else type(repair)
    name = f"{kind.__module__}.{kind.__qualname__}"  # type: ignore[attr-defined]
    return str(getattr(repair, "fingerprint", name))


def _options(layer: keras.Layer) -> str:
    try:
        config = layer.get_config()
    except NotImplementedError:
        return ""
    rescale = isinstance(layer, DropConnectMixin) and getattr(layer.drop_connect, "rescale", None)
    for name in ("name", "drop_connect", "fault_offsets", "trainable", "seed", "build_config"):
        config.pop(name, None)
    return json.dumps([config, rescale], sort_keys=True, default=repr)
