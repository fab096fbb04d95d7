"""What a chip does to the outputs of each layer, against those of the healthy model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.chips import erase, program
from keras_rram.chips.inference import ChipInference
from keras_rram.evaluation.engines.protocol import achieved_rate
from keras_rram.faults import Fault
from keras_rram.layers import faulty_layers, faulty_weights
from keras_rram.layers.roles import role_of
from keras_rram.repair.calls import Call, replaced_calls

_BATCH = 64
_DEAD = 1e-6


@dataclass(frozen=True)
class LayerEffect:
    """How a layer's outputs on a chip differ from the healthy model's, for the same images.

    A channel's output on the chip is `a * healthy + b + rest` with the `a` and `b` of least
    squares. All figures are means over the channels that vary on the healthy model; they include
    what the faults of layers before did to the inputs.

    Attributes:
        layer: its name.
        role: its role in the network.
        weights: number of its weights on faulty hardware.
        rate: share of them that is faulty on this chip, in [0, 1].
        shift: root mean square of the channels' change of mean, in deviations of the healthy
            channel; 0 without a fault.
        scale: deviation of a channel as a multiple of the healthy one; 1 without a fault.
        lost: share of a channel's variance on the chip that is `rest`, `1 - r ** 2` with the
            correlation `r` of the two, in [0, 1]; 1 for a channel that is constant on the chip. No
            shift and scale, and so no batch normalization, brings it back.
        alone: accuracy with the faults of this layer only, all others healthy.
    """

    layer: str
    role: str
    weights: int
    rate: float
    shift: float
    scale: float
    lost: float
    alone: float


def layer_effects(
    model: keras.Model,
    faults: Mapping[str, Fault],
    images: np.ndarray,
    alone: Callable[[str], float],
) -> tuple[LayerEffect, ...]:
    """Compares the outputs of each layer on faulty hardware with those of the healthy model.

    Args:
        model: a built model with Drop-Connect layers; afterwards as before.
        faults: kernel name -> fault, as of `Chip.faults`.
        images: images `(n, ...)`, preprocessed as for the model.
        alone: the accuracy with the faults of one layer only, by its name.
    """
    layers = faulty_layers(model)
    moments = _moments(model, layers, faults, images)
    found = []
    for name, layer in layers.items():
        own = {
            kernel: fault for kernel, fault in faults.items() if kernel.rpartition("/")[0] == name
        }
        shift, scale, lost = moments[name].figures() if name in moments else (0.0, 1.0, 0.0)
        weights = faulty_weights(layer)
        rate = achieved_rate(own, weights)
        found.append(
            LayerEffect(name, role_of(layer), weights, rate, shift, scale, lost, alone(name))
        )
    return tuple(found)


class _Moments:
    """Sums over images of a channel's healthy outputs, those on the chip, and their products."""

    def __init__(self, channels: int):
        self.count = 0
        self.origin = np.zeros(channels)
        self.sums = np.zeros((5, channels))

    def add(self, healthy: np.ndarray, faulty: np.ndarray) -> None:
        """Adds outputs `(values, channels)` of the same images."""
        if not self.count:
            self.origin = healthy.mean(0)
        h, f = healthy - self.origin, faulty - self.origin
        self.count += len(h)
        self.sums += [h.sum(0), f.sum(0), (h * h).sum(0), (f * f).sum(0), (h * f).sum(0)]

    def figures(self) -> tuple[float, float, float]:
        """Returns shift, scale and lost."""
        h, f, hh, ff, hf = self.sums / self.count
        healthy, faulty = np.maximum(hh - h * h, 0), np.maximum(ff - f * f, 0)
        live = healthy > (_DEAD**2) * healthy.max(initial=0)
        if not live.any():
            return 0.0, 1.0, 0.0
        h, f, healthy, faulty = h[live], f[live], healthy[live], faulty[live]
        product = healthy * faulty
        covariance = hf[live] - h * f
        squared = np.divide(covariance**2, product, np.zeros_like(product), where=product > 0)
        shift = np.sqrt(np.mean((f - h) ** 2 / healthy))
        scale = np.mean(np.sqrt(faulty / healthy))
        return float(shift), float(scale), float(np.mean(1 - np.clip(squared, 0, 1)))


def _moments(
    model: keras.Model, layers: Mapping[str, Any], faults: Mapping[str, Fault], images: np.ndarray
) -> dict[str, _Moments]:
    def outputs(call: Any, batch: Any, arrays: Any) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {name: [] for name in layers}

        def recording(name: str, _: Any, own: Call) -> Call:
            def recorded(*args: Any, **kwargs: Any) -> Any:
                result = own(*args, **kwargs)
                found[name].append(ops.cast(keras.tree.flatten(result)[0], "float32"))
                return result

            return recorded

        with replaced_calls(layers, recording):
            call(ops.take(arrays, batch, axis=0))
        return found

    run = ChipInference(model, outputs, [images])
    with program(model, faults):  # offsets are there before the function is compiled
        pass
    sums: dict[str, _Moments] = {}
    for start in range(0, len(images), _BATCH):
        batch = np.arange(start, min(start + _BATCH, len(images)))
        with erase(model):
            healthy = _channels_last(layers, run(batch))
        with program(model, faults):
            faulty = _channels_last(layers, run(batch))
        for name, values in healthy.items():
            if name not in sums:
                sums[name] = _Moments(values.shape[-1])
            sums[name].add(values, faulty[name])
    return sums


def _channels_last(layers: Mapping[str, Any], outputs: Any) -> dict[str, np.ndarray]:
    """Returns the outputs of each layer that was called, as `(values, channels)`."""
    found = {}
    for name, calls in outputs.items():
        if not calls:
            continue
        axis = 1 if getattr(layers[name], "data_format", None) == "channels_first" else -1
        moved = [np.moveaxis(np.asarray(ops.convert_to_numpy(one)), axis, -1) for one in calls]
        parts = [one.reshape(-1, one.shape[-1]).astype(np.float64) for one in moved]
        found[name] = np.concatenate(parts)
    return found
