"""What comes into each layer on average: measured once, or known from batch normalization."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.special import ndtr

from keras_rram.chips.chip import Chip
from keras_rram.chips.unrolling import crossbar_of
from keras_rram.faults import StuckAtZero
from keras_rram.repair.batch_norm import normalizations
from keras_rram.repair.hand import Hand
from keras_rram.repair.least_squares import sample
from keras_rram.repair.patches import check_layer, check_layers, matrices, patches, positions
from keras_rram.repair.sweep import gives_sums, walk


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """What a layer's weights are multiplied with, over images and positions.

    Attributes:
        mean: array `(groups, rows)`.
        second: second moments about the mean, `(groups, rows, rows)`; their diagonal alone is
            `(groups, rows)`.
        follower: name of the batch normalization that takes the layer's sums, or None: there is
            none behind a layer that has an activation of its own.
    """

    mean: np.ndarray
    second: np.ndarray
    follower: str | None

    def output(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and the variance of the outputs of weights `(groups, rows, columns)`."""
        mean = np.einsum("gr,grc->gc", self.mean, weights)
        if self.second.ndim == 2:
            return mean, np.einsum("gr,grc->gc", self.second, weights**2)
        return mean, np.einsum("grc,grs,gsc->gc", weights, self.second, weights, optimize=True)


def measured(
    hand: Hand, images: np.ndarray, samples: int, seed: int, chips: int = 0
) -> dict[str, Inputs]:
    """Measures the inputs of every Drop-Connect layer once, by layer name.

    Batch normalization takes the statistics of the images, as it does on a chip that is repaired.

    Args:
        hand: the model.
        images: float images `(n, ...)`.
        samples: output positions of a layer that are measured, at most.
        seed: of the choice of positions, and of the chips.
        chips: over how many chips the moments are averaged, drawn as Drop-Connect draws its masks;
            0 for the healthy model.
    """
    check_layers(hand.layers)
    rng = np.random.default_rng(seed)
    moments: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def meet(name: str, layer: Any, inputs: np.ndarray) -> None:
        chosen = sample(positions(layer, inputs.shape), samples, rng)
        x = np.moveaxis(patches(layer, inputs, chosen), 1, 0)
        mean = x.mean(1, keepdims=True, dtype=np.float64)
        x = np.ascontiguousarray(x - mean, np.float32)
        second = np.ascontiguousarray(np.swapaxes(x, 1, 2)) @ x / x.shape[1]
        moments.setdefault(name, []).append((mean[:, 0], second.astype(np.float64)))

    layers = normalizations(hand.model, required=False)
    with hand.healthy():
        for index in range(max(chips, 1)):
            chip = drop_connect_chip(hand, seed, index) if chips else None
            with nullcontext() if chip is None else chip.program(hand.model):
                found = walk(hand.model, images, layers, meet)
    return {
        name: Inputs(
            np.mean([mean for mean, _ in parts], axis=0),
            np.mean([second for _, second in parts], axis=0),
            found.followers.get(name),
        )
        for name, parts in moments.items()
    }


def drop_connect_chip(hand: Hand, seed: int, index: int) -> Chip:
    """Returns a chip at the largest drop rate of a model, for what all chips share."""
    rate = max(1 - one for one in expected_rates(hand.layers).values())
    return Chip(StuckAtZero(rate), seed, index, stream="training")


def known(hand: Hand) -> dict[str, Inputs]:
    """Returns the inputs of every Drop-Connect layer as the model knows them, without data.

    What leaves a batch normalization has the mean `beta` and the deviation `gamma` in training.
    Mean and variance of each channel are carried on from there through activations (those of a
    normal variable that is clipped), sums, padding and pooling, as if channels were independent.
    The model's input, behind a `Rescaling` or `Normalization` that is part of the model, is taken
    for normalized: mean 0, variance 1.

    Raises:
        ValueError: if the model is not a graph of layers, or has a layer of unknown effect.
    """
    channels: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    found: dict[str, Inputs] = {}
    kernels = {name.rpartition("/")[0]: name for name in hand.trained}

    def carry(graph: Any) -> None:
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                layer, outputs = node.operation, node.outputs[0]
                if node.is_input:
                    size = outputs.shape[-1]
                    channels.setdefault(id(outputs), (np.zeros(size), np.ones(size)))
                    continue
                given = [channels[id(tensor)] for tensor in node.input_tensors]
                if isinstance(layer, keras.Model):
                    part = _graph(layer)
                    channels.update(zip(map(id, part.inputs), given, strict=True))
                    carry(part)
                    channels[id(outputs)] = channels[id(part.outputs[0])]
                    continue
                if getattr(layer, "kernel", None) is None:
                    channels[id(outputs)] = _carried(layer, given)
                    continue
                name = kernels.get(layer.name, f"{layer.name}/kernel")
                check_layer(name, layer)
                shape = node.input_tensors[0].shape
                mean, variance = (_unrolled(layer, one, shape) for one in given[0])
                follower = _follower(outputs, graph) if gives_sums(layer) else None
                inputs = Inputs(mean, variance, follower)
                if layer.name in kernels:
                    found[layer.name] = inputs
                channels[id(outputs)] = _produced(layer, inputs)

    carry(_graph(hand.model))
    return found


def _graph(model: Any) -> Any:
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs)
    if not hasattr(model, "_nodes_by_depth"):
        raise ValueError(
            f"expected a functional or Sequential model. Received: '{model.name}' of type "
            f"{type(model).__name__}, whose inputs have to be measured (give `images`)"
        )
    return model


def _unrolled(layer: Any, values: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """Returns the mean over positions of what weights meet, where all pixels hold `values`."""
    sizes = [1 if size is None else size for size in shape[1:-1]]
    image = np.broadcast_to(values, (1, *sizes, len(values)))
    return patches(layer, image, np.arange(positions(layer, image.shape))).mean(0)


def _produced(layer: Any, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    kernel = np.array(ops.convert_to_numpy(layer.kernel))
    mean, variance = inputs.output(matrices(crossbar_of(layer, "kernel", kernel.shape), kernel))
    bias = 0.0 if layer.bias is None else np.array(ops.convert_to_numpy(layer.bias))
    return _activated(layer.activation, mean.ravel() + bias, variance.ravel())


def _carried(layer: Any, given: list[tuple[np.ndarray, np.ndarray]]) -> Any:
    """Returns the mean and the variance of each channel behind a layer without a kernel."""
    (mean, variance), *others = given
    if isinstance(layer, keras.layers.BatchNormalization):
        gamma, beta = layer.gamma, layer.beta
        return (
            np.zeros_like(mean) if beta is None else np.float64(ops.convert_to_numpy(beta)),
            np.ones_like(mean) if gamma is None else np.float64(ops.convert_to_numpy(gamma)) ** 2,
        )
    if isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization):
        return np.zeros_like(mean), np.ones_like(mean)
    if isinstance(layer, keras.layers.ReLU) and not (layer.negative_slope or layer.threshold):
        return clipped_moments(mean, variance, layer.max_value)
    if isinstance(layer, keras.layers.Activation):
        return _activated(layer.activation, mean, variance)
    if isinstance(layer, keras.layers.Add):
        return sum((m for m, _ in others), mean), sum((v for _, v in others), variance)
    if isinstance(layer, keras.layers.ZeroPadding2D):
        if layer.data_format == "channels_last":
            return mean, variance
        # Channels that are padded by way of the other data format.
        return np.pad(mean, layer.padding[1]), np.pad(variance, layer.padding[1])
    keeps = (
        keras.layers.AveragePooling2D,
        keras.layers.GlobalAveragePooling2D,
        keras.layers.Dropout,
    )
    if isinstance(layer, keeps) and getattr(layer, "data_format", "") != "channels_first":
        return mean, variance
    raise ValueError(
        f"Layer '{layer.name}' of type {type(layer).__name__}: what it makes of a mean is not "
        "known. Give `images`, to measure it (--repair=map:images=512)."
    )


def _activated(activation: Callable[..., Any], mean: np.ndarray, variance: np.ndarray) -> Any:
    name = getattr(activation, "__name__", str(activation))
    if name == "linear":
        return mean, variance
    if name in ("relu", "relu6"):
        return clipped_moments(mean, variance, 6.0 if name == "relu6" else None)
    raise ValueError(
        f"expected the activations linear, relu and relu6. Received: {name} (give `images`, to "
        "measure what comes out of it)"
    )


def clipped_moments(
    mean: np.ndarray, variance: np.ndarray, most: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the variance of `min(max(x, 0), most)` for normal `x`."""
    deviation = np.sqrt(np.maximum(variance, 1e-12))
    low = -mean / deviation
    high = np.full_like(low, np.inf) if most is None else (most - mean) / deviation
    inside = ndtr(high) - ndtr(low)
    at_low, at_high = _density(low), _density(high)
    edge = 0.0 if most is None else most
    above = 1 - ndtr(high)
    first = mean * inside + deviation * (at_low - at_high) + edge * above
    reach = low * at_low - np.where(np.isinf(high), 0.0, high) * at_high
    second = (mean**2 + variance) * inside + variance * reach
    second += 2 * mean * deviation * (at_low - at_high) + edge**2 * above
    return first, np.maximum(second - first**2, 0.0)


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def _follower(tensor: Any, graph: Any) -> str | None:
    """Returns the batch normalization that takes a tensor, and nothing else takes."""
    users = [
        node.operation
        for nodes in graph._nodes_by_depth.values()
        for node in nodes
        if any(one is tensor for one in node.input_tensors)
    ]
    if len(users) == 1 and isinstance(users[0], keras.layers.BatchNormalization):
        return users[0].name
    return None


def expected_rates(layers: Mapping[str, Any]) -> dict[str, float]:
    """Returns the share of each layer's kernel that was there in training, on average.

    That is `1 - drop rate`, or 1 where Drop-Connect scales the kept weights.
    """
    return {
        name: 1.0 if layer.drop_connect.rescale else 1.0 - float(layer.drop_rate)
        for name, layer in layers.items()
    }
