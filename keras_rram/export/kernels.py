"""The kernels of a model as NumPy arrays, under one name each, and their scales on chips."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.faults import Fault
from keras_rram.layers import CONVERTIBLE, DropConnectMixin, faulty_layers, weighted_layers
from keras_rram.layers.convolution import is_depthwise_convolution

# The kernel's axes that count output channels, for each kind of kernel. Kernels of the kind "other"
# have no place in a TFLite file that is known here. A projection, as attention has them, makes
# several heads of its inputs; a merging kernel takes several heads.
_OUTPUT_AXES = {
    "dense": (1,),
    "projection": (1, 2),
    "merging": (2,),
    "convolution": (3,),
    "convolution of series": (2,),
    "depthwise": (2, 3),
    "depthwise of series": (1, 2),
    "other": (),
}
_RECURRENT = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)
_OF_SERIES = (
    keras.layers.Conv1D,
    keras.layers.DepthwiseConv1D,
    keras.layers.SeparableConv1D,
)
_TWO_DIMENSIONAL = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """One kernel as Keras stores it.

    Attributes:
        name: `layer/kernel`, as in `Chip.faults`.
        kind: one of `_OUTPUT_AXES`.
        values: float32 array in the layout of Keras.
    """

    name: str
    kind: str
    values: np.ndarray

    @property
    def layer(self) -> str:
        """Name of the kernel's layer."""
        return self.name.rpartition("/")[0]

    @property
    def output_axes(self) -> tuple[int, ...]:
        """Axes of `values` that count output channels."""
        return _OUTPUT_AXES[self.kind]


def kernels_of(model: keras.Model) -> dict[str, Kernel]:
    """Returns the kernels that chips act on, by name, as trained and free of faults.

    Of a model without Drop-Connect layers, the kernels of all layers that have a Drop-Connect twin.

    Raises:
        ValueError: if the model has no such kernel.
    """
    layers = faulty_layers(model)
    if not layers:
        layers = {
            layer.name: layer for layer in weighted_layers(model) if type(layer) in CONVERTIBLE
        }
    found = _read(layers)
    if not found:
        raise ValueError(f"Model '{model.name}' has no kernel that a chip could hold.")
    return found


def clean_kernels_of(model: keras.Model) -> dict[str, Kernel]:
    """Returns the kernels of layers that could be on a chip and are not, by name."""
    return _read(_clean_layers(model))


def kernel_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns the variables of all kernels, on a chip or not, by name."""
    layers = {**faulty_layers(model), **_clean_layers(model)}
    return {
        f"{name}/{slot}": variable
        for name, layer in layers.items()
        for slot, variable in _variables(layer).items()
    }


def _clean_layers(model: keras.Model) -> dict[str, Any]:
    faulty = faulty_layers(model)
    return {
        layer.name: layer
        for layer in weighted_layers(model)
        if layer.name not in faulty
        and (type(layer) in CONVERTIBLE or isinstance(layer, DropConnectMixin))
    }


def _read(layers: Mapping[str, Any]) -> dict[str, Kernel]:
    found = {}
    for name, layer in layers.items():
        for slot, variable in _variables(layer).items():
            values = np.array(keras.ops.convert_to_numpy(variable), np.float32)
            key = f"{name}/{slot}"
            found[key] = Kernel(key, _kind(layer, slot), values)
    return found


def chip_gains(chips: Iterable[Chip], model: keras.Model) -> dict[str, float]:
    """Returns the largest factor that chips scale their healthy weights by, where it is not 1.

    Only layers with `DropConnect(rescale=True)` have one. An int8 file whose weights carry it
    leaves room for the weights of every such chip.
    """
    gains: dict[str, float] = {}
    if any(layer.drop_connect.rescale for layer in faulty_layers(model).values()):
        for chip in chips:
            for name, scale in chip.scales(model).items():
                gains[name] = max(gains.get(name, 1.0), scale)
    return {name: gain for name, gain in gains.items() if gain != 1}


def scaled(model: keras.Model, gains: Mapping[str, float]) -> dict[str, Fault]:
    """Returns the faults of a chip that breaks nothing and scales the weights by `gains`."""
    kernels = kernels_of(model)
    return {
        name: Fault(np.ones(kernels[name].values.shape, np.float32), scale=gain)
        for name, gain in gains.items()
    }


def weights_sha256(model: keras.Model) -> str:
    """Returns the SHA-256 of a model's trained weights, whatever chip is programmed in it."""
    programmed = {
        id(variable)
        for layer in faulty_layers(model).values()
        for variable in (
            layer.drop_rate,
            *layer.fault_masks.values(),
            *layer.fault_offsets.values(),
        )
    }
    digest = hashlib.sha256()
    for variable in model.weights:
        if id(variable) not in programmed:
            values = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
            digest.update(f"{values.dtype}{values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


def _variables(layer: keras.Layer) -> dict[str, keras.Variable]:
    if isinstance(layer, DropConnectMixin):
        return layer.kernels
    return CONVERTIBLE[type(layer)].kernels_in(layer)


def _kind(layer: keras.Layer, slot: str) -> str:
    if isinstance(layer, (keras.layers.Dense, *_RECURRENT)):
        return "dense"
    if isinstance(layer, keras.layers.MultiHeadAttention | keras.layers.GroupQueryAttention):
        return "merging" if slot == "output_kernel" else "projection"
    if isinstance(layer, keras.layers.EinsumDense):
        return _einsum_kind(layer.equation)
    is_depthwise = slot == "depthwise_kernel" or isinstance(
        layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D
    )
    if isinstance(layer, keras.layers.Conv2D):
        is_depthwise = is_depthwise_convolution(layer)
    kind = "depthwise" if is_depthwise else "convolution"
    if isinstance(layer, _TWO_DIMENSIONAL):
        return kind
    return f"{kind} of series" if isinstance(layer, _OF_SERIES) else "other"


def _einsum_kind(equation: str) -> str:
    """Returns the kind of an einsum's kernel, whose first axes are summed over."""
    terms, outputs = equation.replace(" ", "").split("->")
    axes = terms.split(",")[1]
    is_output = tuple(axis in outputs for axis in axes)
    kinds = {
        (False, True): "dense",
        (False, True, True): "projection",
        (False, False, True): "merging",
    }
    in_order = "".join(axis for axis in axes if axis in outputs)
    return kinds.get(is_output, "other") if outputs.endswith(in_order) else "other"
