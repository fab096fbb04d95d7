"""What a TFLite file holds of a layer besides its kernel: batch normalization and bias.

The converter folds the layer's bias, and a batch normalization behind the layer, into the weight
tensor and the bias tensor of one operator:

    weights = kernel * scale,   bias = (layer's bias - mean) * scale + beta,
    scale = gamma / sqrt(variance + epsilon)

Which normalization takes the outputs of a layer shows when the model runs once; which of them, or
none, an operator has, follows from its numbers.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.export.flatbuffer import Graph, Operator, Tensor
from keras_rram.export.kernel_places import WEIGHT_INPUTS, data_tensor
from keras_rram.export.place import Place
from keras_rram.layers import weighted_layers
from keras_rram.repair.calls import Call, replaced_calls

# Rounding of the converter's own arithmetic, relative to the largest value of a layer.
_TOLERANCES = {"FLOAT32": 1e-5, "FLOAT16": 2e-3, "INT32": 1e-4, "INT64": 1e-4}
_ROUNDING = 0.51
# Steps of int8 weights are exact, but a factor that was fitted to rounded weights is not.
_FITTED = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """One operator of a file that computes a layer. Values are those of the model at the moment.

    Attributes:
        place: where the file holds the kernel.
        layer: the Keras layer.
        norm: the batch normalization that is folded in, or None.
        bias: the file's bias tensor; None where the operator has none.
        input_step: quantization step of the operator's inputs; 0 for float inputs.
        before: factor that was folded in from in front of the layer, that of a `Rescaling`.
        is_alone: whether no operator but those that are known reads the bias tensor.
    """

    place: Place
    layer: Any
    norm: Any
    bias: Tensor | None
    input_step: float
    before: float = 1.0
    is_alone: bool = True

    @property
    def scale(self) -> np.ndarray:
        """Factor on the weights of each output channel, float64 `(channels,)`."""
        return self.before * self.factor

    @property
    def factor(self) -> np.ndarray:
        """What the batch normalization multiplies each output channel with."""
        if self.norm is None:
            return np.ones(self.place.channels)
        gamma = 1.0 if self.norm.gamma is None else _values(self.norm.gamma)
        return gamma / np.sqrt(_values(self.norm.moving_variance) + self.norm.epsilon)

    @property
    def shift(self) -> np.ndarray:
        """What is added to each output channel, float64 `(channels,)`."""
        bias = getattr(self.layer, "bias", None) if self.is_last else None
        found = np.zeros(self.place.channels) if bias is None else _values(bias)
        if self.norm is None:
            return found
        beta = 0.0 if self.norm.beta is None else _values(self.norm.beta)
        return (found - _values(self.norm.moving_mean)) * self.factor + beta

    @property
    def is_last(self) -> bool:
        """Whether the kernel makes the layer's outputs: of a separable layer only one does."""
        slot = self.place.kernel.name.rpartition("/")[2]
        return not (slot == "depthwise_kernel" and hasattr(self.layer, "pointwise_kernel"))


@dataclasses.dataclass(frozen=True, eq=False)
class Folds:
    """The operators of a file that are understood.

    Attributes:
        of_tensor: number of a weight tensor -> the operators that use it.
        variables: what they hold of the model besides kernels, whole: a variable of which another
            part of the file holds something too is left out.
    """

    of_tensor: Mapping[int, Sequence[Fold]]
    variables: Sequence[Any]


def find_folds(
    model: keras.Model,
    places: Mapping[str, Sequence[Place]],
    graph: Graph,
    tflite: bytes | bytearray,
    sample: np.ndarray,
) -> Folds:
    """Finds what the operators of a file have folded in.

    Args:
        model: the model that the file was converted from, as it was then.
        places: kernel name -> its places, see `find_places`.
        graph: the file's graph.
        tflite: the file.
        sample: one input `(1, ...)`, to run the model with.
    """
    layers = {layer.name: layer for layer in weighted_layers(model)}
    followers, calls = _run(model, layers, sample)
    users = _weight_users(graph)
    found: dict[int, list[Fold]] = {}
    for kernel, held in places.items():
        layer = layers.get(kernel.rpartition("/")[0])
        norms = [] if layer is None else [*followers.get(layer.name, ()), None]
        for place in held:
            for operator in users.get(place.tensor.index, ()):
                fold = _fold(place, layer, norms, graph, operator, tflite)
                if fold is not None:
                    found.setdefault(place.tensor.index, []).append(fold)
    every = [fold for folds in found.values() for fold in folds]
    lonely = _lonely_biases(graph, every)
    counts = Counter(fold.layer.name for fold in every if fold.is_last)
    counts.update(fold.norm.name for fold in every if fold.norm is not None)
    whole = {
        id(each): each
        for fold in every
        for each in (fold.layer, fold.norm)
        if each is not None and counts[each.name] == calls[each.name]
    }
    return Folds(
        {
            index: [
                dataclasses.replace(f, is_alone=f.bias is None or f.bias.buffer in lonely)
                for f in folds
            ]
            for index, folds in found.items()
        },
        [variable for each in whole.values() for variable in _digital(each)],
    )


def _weight_users(graph: Graph) -> dict[int, list[Operator]]:
    found: dict[int, list[Operator]] = {}
    for operator in graph.operators:
        for position in WEIGHT_INPUTS.get(operator.name, ()):
            if position < len(operator.inputs) and operator.inputs[position] >= 0:
                tensor = data_tensor(graph, operator.inputs[position])
                found.setdefault(tensor.index, []).append(operator)
    return found


def _fold(
    place: Place,
    layer: Any,
    norms: Sequence[Any],
    graph: Graph,
    operator: Operator,
    tflite: bytes | bytearray,
) -> Fold | None:
    """Returns the fold that an operator's numbers are those of, if there is one and no other."""
    bias = None
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        bias = data_tensor(graph, operator.inputs[2])
        if not bias.size:
            return None
    step = graph.tensors[operator.inputs[0]].scales
    folds = [
        Fold(place, layer, norm, bias, float(step[0]) if step.size == 1 else 0.0) for norm in norms
    ]
    folds = [fold for fold in folds if fold.norm is None or fold.is_last]
    fits = [fold for fold in folds if _fits(fold, tflite)]
    if not fits:
        rescaled = [dataclasses.replace(fold, before=_before(fold)) for fold in folds]
        fits = [fold for fold in rescaled if _fits(fold, tflite)]
    return fits[0] if len(fits) == 1 else None


def _before(fold: Fold) -> float:
    """Returns the one factor that would make up for what a fold's own scale leaves."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = _held(fold.place) / fold.factor
    known = ratio[np.isfinite(ratio)]
    return float(np.median(known)) if known.size else 1.0


def _held(place: Place) -> np.ndarray:
    """Returns the factor on a kernel's weights in the file, in units of the weights."""
    return place.channel_factors * place.gain * place.tensor_steps


def _fits(fold: Fold, tflite: bytes | bytearray) -> bool:
    """Whether a file holds a fold's scale and shift."""
    place, scale, shift = fold.place, fold.scale, fold.shift
    held, tolerance = _held(place), _FITTED if place.is_integer else _TOLERANCES["FLOAT16"]
    known = ~np.isnan(held)
    if (np.abs(held - scale)[known] > tolerance * np.abs(scale[known])).any():
        return False
    if fold.bias is None:
        return not shift.any()
    stored = fold.bias.read(tflite).astype(np.float64)
    if stored.size != shift.size:
        return False
    allowed = np.full(shift.size, _TOLERANCES[fold.bias.type] * np.abs(shift).max(initial=1e-6))
    if fold.bias.scales.size:
        stored = stored.ravel() * fold.bias.scales
        allowed += _ROUNDING * fold.bias.scales
    return bool((np.abs(stored.ravel() - shift) <= allowed).all())


def _lonely_biases(graph: Graph, folds: Sequence[Fold]) -> set[int]:
    """Returns the buffers of bias tensors that nothing but the biases of folds is read from."""
    known: Counter[int] = Counter()
    for fold in folds:
        if fold.bias is not None:
            known[fold.bias.buffer] += 1
    read: Counter[int] = Counter()
    for operator in graph.operators:
        if operator.name == "DEQUANTIZE":
            continue
        for index in operator.inputs:
            if index >= 0:
                read[data_tensor(graph, index).buffer] += 1
    return {buffer for buffer, count in known.items() if read[buffer] == count}


def _run(
    model: keras.Model, layers: Mapping[str, Any], sample: np.ndarray
) -> tuple[dict[str, list[Any]], Counter[str]]:
    """Runs a model; returns which batch normalizations follow each layer, and counts the calls."""
    norms = {
        name: layer
        for name, layer in layers.items()
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    followers: dict[str, list[Any]] = {}
    calls: Counter[str] = Counter()
    makers: dict[int, str] = {}
    held = []  # or else an identity could come twice

    def make(name: str, layer: Any, call: Call) -> Call:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            if name in norms and id(args[0]) in makers:
                before = followers.setdefault(makers[id(args[0])], [])
                if layer not in before:
                    before.append(layer)
            outputs = call(*args, **kwargs)
            held.append(outputs)
            makers[id(outputs)] = name
            return outputs

        return replacement

    with replaced_calls(layers, make):
        model(ops.convert_to_tensor(sample), training=False)
    return followers, calls


def _digital(layer: Any) -> list[Any]:
    names = ["bias"]
    if isinstance(layer, keras.layers.BatchNormalization):
        names = ["gamma", "beta", "moving_mean", "moving_variance"]
    return [found for name in names if (found := getattr(layer, name, None)) is not None]


def _values(variable: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), np.float64)
