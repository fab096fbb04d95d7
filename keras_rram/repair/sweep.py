"""One walk of images through a model, on which its layers can be changed as they come."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.layers import faulty_layers
from keras_rram.layers.normalization import normalize_by_batch
from keras_rram.repair.calls import Call, replaced_calls
from keras_rram.repair.statistics import pooled

Tensor = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Walked:
    """What a walk found.

    Attributes:
        statistics: name of a batch normalization -> mean and variance of what came into it, arrays
            `(channels,)`, float64.
        followers: name of a Drop-Connect layer -> name of the batch normalization that takes its
            outputs; layers without one are absent.
    """

    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]
    followers: Mapping[str, str]


def walk(
    model: keras.Model,
    images: np.ndarray,
    normalizations: Mapping[str, Any],
    meet: Callable[[str, Any, np.ndarray], None],
) -> Walked:
    """Sends all images through a model at once, as in inference, normalized by their own batch.

    Args:
        model: built model, on any backend.
        images: float images `(n, ...)`; their activations must fit into memory.
        normalizations: the model's batch normalizations, by name.
        meet: called for each Drop-Connect layer before its first call, with its name, the layer and
            what comes into it. It may change the layer's weights: what comes later sees that.
    """
    found: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    makers: dict[int, str] = {}
    followers: dict[str, str] = {}
    held = []  # or else an identity could come twice
    met: set[str] = set()

    def make(name: str, layer: Any, call: Call) -> Call:
        def replacement(inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if name not in met:
                met.add(name)
                meet(name, layer, np.array(ops.convert_to_numpy(inputs)))
            outputs = call(inputs, *args, **kwargs)
            held.append(outputs)
            makers[id(outputs)] = name
            return outputs

        return replacement

    def normalize(name: str, layer: Any, _: Call) -> Call:
        def replacement(inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if id(inputs) in makers:
                followers[makers[id(inputs)]] = name
            outputs, mean, variance = normalize_by_batch(layer, inputs)
            count = int(np.prod(inputs.shape)) // inputs.shape[layer.axis]
            values = (np.float64(ops.convert_to_numpy(one)) for one in (mean, variance))
            found.setdefault(name, []).append((count, *values))
            return outputs

        return replacement

    with replaced_calls(faulty_layers(model), make), replaced_calls(normalizations, normalize):
        model(ops.convert_to_tensor(images), training=False)
    return Walked({name: pooled(calls) for name, calls in found.items()}, followers)
