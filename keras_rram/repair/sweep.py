"""One walk of images through a model, on which its layers can be changed as they come."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.data import check_images
from keras_rram.layers import faulty_layers
from keras_rram.layers.normalization import normalize_by_batch
from keras_rram.repair.batch_norm import normalizations
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
            sums, see `gives_sums`; layers without one are absent.
    """

    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]
    followers: Mapping[str, str]


def walk(
    model: keras.Model,
    images: np.ndarray,
    norms: Mapping[str, Any],
    meet: Callable[[str, Any, np.ndarray], None],
) -> Walked:
    """Sends all images through a model at once, as in inference, normalized by their own batch.

    Args:
        model: built model, on any backend.
        images: float images `(n, ...)`; their activations must fit into memory.
        norms: the model's batch normalizations, by name.
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
            if gives_sums(layer):
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

    with replaced_calls(faulty_layers(model), make), replaced_calls(norms, normalize):
        model(ops.convert_to_tensor(images), training=False)
    return Walked({name: pooled(calls) for name, calls in found.items()}, followers)


def gives_sums(layer: Any) -> bool:
    """Whether the outputs of a Drop-Connect layer are linear in its weights.

    Behind an activation of the layer's own, batch normalization has other statistics than those of
    the sums; attention and recurrent layers have no such sums.
    """
    return getattr(layer, "activation", False) in (None, keras.activations.linear)


def check_followers(model: keras.Model, images: np.ndarray) -> None:
    """Raises ValueError unless a batch normalization takes the sums of a Drop-Connect layer.

    Args:
        model: built model, on any backend.
        images: some of those that the model takes `(n, ...)`; one will do.
    """
    layers = normalizations(model)
    if not walk(model, check_images(model, images), layers, lambda *_: None).followers:
        raise ValueError(without_followers(model))


def without_followers(model: keras.Model) -> str:
    """Returns why a repair of batch normalization right behind a layer cannot serve a model."""
    return (
        "expected a batch normalization right behind a Drop-Connect layer of linear activation. "
        f"Received: model '{model.name}', whose batch normalization takes something else, such as "
        "what an activation makes of a layer's sums (--repair=batch_norm serves it; so does map, "
        "with biases)"
    )
