"""Finds the bytes of each Keras kernel in a TFLite file, by content.

The converter transposes kernels, folds batch normalization into them, quantizes them, renames,
merges and reorders tensors, and promises nothing. What it cannot change is that a weight tensor is
its kernel, in some order of axes, times one factor for each output channel. So every kernel is
compared with every weight tensor of its size, and the factors come out of the comparison.
"""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from keras_rram.export.errors import UnmappableError
from keras_rram.export.flatbuffer import Graph, Tensor, parse
from keras_rram.export.kernels import Kernel
from keras_rram.export.place import INT8_LIMIT, Place

# Position of the weights among the inputs of each operator that has them.
WEIGHT_INPUTS = {
    "CONV_2D": (1,),
    "DEPTHWISE_CONV_2D": (1,),
    "FULLY_CONNECTED": (1,),
    "BATCH_MATMUL": (0, 1),
}
# The orders of a kernel's axes that TFLite stores. Convolution: OHWI; fully connected: OI;
# depthwise: 1HWC, or OHWI where the converter makes a convolution of it; the heads of attention
# are one axis there.
_ORDERS = {
    "dense": ((1, 0), (0, 1)),
    "projection": ((1, 2, 0), (0, 1, 2)),
    "merging": ((2, 0, 1), (0, 1, 2)),
    "convolution": ((3, 0, 1, 2),),
    "convolution of series": ((2, 0, 1),),
    "depthwise": ((0, 1, 2, 3), (2, 3, 0, 1)),
    "depthwise of series": ((0, 1, 2), (1, 2, 0)),
    "other": (),
}
# Kernels whose file has axes of theirs as one: the number of elements alone must fit.
_JOINED = ("projection", "merging", "depthwise", "depthwise of series")
_DTYPES = ("FLOAT32", "FLOAT16", "INT8")
# Rounding of the converter's own arithmetic, relative to a channel's largest weight.
_FLOAT_TOLERANCE = {"FLOAT32": 1e-5, "FLOAT16": 1e-3}
_ROUNDING = 0.51
_FITTED_ROUNDING = 1.0


def find_places(
    kernels: Mapping[str, Kernel],
    tflite: bytes | bytearray,
    gains: Mapping[str, float] | None = None,
) -> dict[str, tuple[Place, ...]]:
    """Finds every place of every kernel in a TFLite file.

    A layer that is called several times can have several places.

    Args:
        kernels: the kernels that the file was converted from, by name.
        tflite: bytes of the file.
        gains: kernel name -> factor on its weights in the file, 1 where absent.

    Returns:
        Kernel name -> its places, at least one.

    Raises:
        UnmappableError: if a kernel has no place, or one that is not its own alone. The message
            names the layer.
        ValueError: if `tflite` is not a TFLite file.
    """
    graph = parse(tflite)
    weights = [tensor for tensor, _ in weight_tensors(graph)]
    claims = [
        place
        for kernel in kernels.values()
        for tensor in weights
        if (place := match(kernel, tensor, tflite)) is not None
    ]
    live = _resolve([place for place in claims if place.is_live])
    claimed = {place.tensor.index for place in live}
    places: dict[str, tuple[Place, ...]] = {}
    for name, kernel in kernels.items():
        found = [place for place in live if place.kernel is kernel]
        unclaimed = [
            tensor.name
            for tensor in weights
            if tensor.index not in claimed
            and np.prod(tensor.shape) == kernel.values.size
            and tensor.read(tflite).any()
        ]
        if not found and not unclaimed:
            # All its channels are folded to zero, say by gammas of zero: faults change nothing.
            dead = [place for place in claims if not place.is_live]
            found = [place for place in dead if place.kernel is kernel][:1]
        if not found:
            raise UnmappableError(_explain(kernel, weights, unclaimed))
        gain = (gains or {}).get(name, 1.0)
        places[name] = tuple(
            dataclasses.replace(place, factor=place.factor / gain, gain=gain) for place in found
        )
    _check_alone(places, graph)
    return places


def match(kernel: Kernel, tensor: Tensor, tflite: bytes | bytearray) -> Place | None:
    """Returns the place of a kernel in a tensor, or None if the tensor does not hold it."""
    if int(np.prod(tensor.shape)) != kernel.values.size:
        return None
    for order in _ORDERS[kernel.kind]:
        shape = tuple(kernel.values.shape[axis] for axis in order)
        if _squeeze(shape) != _squeeze(tensor.shape) and kernel.kind not in _JOINED:
            continue
        stored = tensor.read(tflite).reshape(shape).astype(np.float64)
        reduced = tuple(
            position for position, axis in enumerate(order) if axis not in kernel.output_axes
        )
        values = kernel.values.transpose(order).astype(np.float64)
        factor = _fit(values, stored, reduced, tensor)
        if factor is not None:
            return Place(kernel, tensor, order, factor)
    return None


def _fit(
    values: np.ndarray, stored: np.ndarray, reduced: tuple[int, ...], tensor: Tensor
) -> np.ndarray | None:
    """Returns `factor` with `stored = values * factor`, one for each channel, or None."""
    squares = (values**2).sum(reduced, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = (values * stored).sum(reduced, keepdims=True) / squares
    if tensor.type != "INT8":
        largest = np.abs(stored).max(reduced, keepdims=True)
        tolerance = _FLOAT_TOLERANCE[tensor.type] * largest
        fits = np.abs(stored - values * np.nan_to_num(factor)) <= tolerance
        return factor if fits.all() else None
    if tensor.zero_points.any():
        return None
    # A channel's step is its largest weight / 127, which is exact where the fit to rounded
    # integers is not.
    with np.errstate(invalid="ignore", divide="ignore"):
        largest = INT8_LIMIT / np.abs(values).max(reduced, keepdims=True)
    exact = np.copysign(largest, factor)

    def error(factor: np.ndarray) -> np.ndarray:
        return np.abs(stored - values * np.nan_to_num(factor, posinf=0)).max(reduced, keepdims=True)

    factor = np.where(error(exact) <= _ROUNDING, exact, factor)
    factor[squares == 0] = np.nan
    return factor if (error(factor) <= _FITTED_ROUNDING).all() else None


def weight_tensors(graph: Graph) -> list[tuple[Tensor, str]]:
    """Returns the tensors with data that operators use as weights, and the operators' names."""
    dequantized = {
        operator.outputs[0]: operator.inputs[0]
        for operator in graph.operators
        if operator.name == "DEQUANTIZE"
    }
    users: dict[int, str] = {}
    for operator in graph.operators:
        for position in WEIGHT_INPUTS.get(operator.name, ()):
            if position < len(operator.inputs):
                number = operator.inputs[position]
                users.setdefault(dequantized.get(number, number), operator.name)
    found = [(graph.tensors[number], name) for number, name in users.items() if number >= 0]
    return [(tensor, name) for tensor, name in found if tensor.size and tensor.type in _DTYPES]


def bias_tensors(graph: Graph) -> list[Tensor]:
    """Returns the tensors with data that the same operators add."""
    found = {
        data_tensor(graph, operator.inputs[2]).index
        for operator in graph.operators
        if operator.name in WEIGHT_INPUTS and len(operator.inputs) > 2 and operator.inputs[2] >= 0
    }
    return [graph.tensors[number] for number in sorted(found) if graph.tensors[number].size]


def data_tensor(graph: Graph, number: int) -> Tensor:
    """Returns the tensor with the data of an operator's input: float16 is dequantized first."""
    for operator in graph.operators:
        if operator.name == "DEQUANTIZE" and operator.outputs[0] == number:
            return graph.tensors[operator.inputs[0]]
    return graph.tensors[number]


def _resolve(places: list[Place]) -> list[Place]:
    """Settles tensors that more than one kernel fits, by the layer's name in the tensor's."""
    settled = []
    for _, group in itertools.groupby(
        sorted(places, key=lambda place: place.tensor.index), lambda place: place.tensor.index
    ):
        rivals = list(group)
        if len(rivals) > 1:
            named = [place for place in rivals if _is_named_after(place.tensor, place.kernel)]
            if len(named) != 1:
                raise UnmappableError(
                    f"Layers {sorted(place.kernel.layer for place in rivals)} hold the same "
                    f"weights up to a factor, and tensor '{rivals[0].tensor.name}' could be any "
                    "of theirs. Layers of identical weights on a chip cannot be told apart in a "
                    "file."
                )
            rivals = named
        settled += rivals
    return settled


def _is_named_after(tensor: Tensor, kernel: Kernel) -> bool:
    parts = tensor.name.replace(";", "/").split("/")
    return any(part.rpartition("_")[0] == kernel.layer or part == kernel.layer for part in parts)


def _check_alone(places: Mapping[str, tuple[Place, ...]], graph: Graph) -> None:
    """Refuses bytes that a kernel shares with another tensor of the file."""
    owners = {
        place.tensor.index: name
        for name, found in places.items()
        for place in found
        if place.is_live
    }
    for index, name in owners.items():
        buffer = graph.tensors[index].buffer
        for tensor in graph.tensors:
            if tensor.buffer == buffer and owners.get(tensor.index) != name:
                other = owners.get(tensor.index, tensor.name)
                raise UnmappableError(
                    f"Kernel '{name}' shares its bytes with '{other}', since the two are equal in "
                    "this file: faults of one would change the other."
                )


def _explain(kernel: Kernel, weights: list[Tensor], unclaimed: list[str]) -> str:
    size = kernel.values.size
    if not any(np.prod(tensor.shape) == size for tensor in weights):
        reason = f"the file has no weight tensor of {size} elements"
    elif unclaimed:
        reason = (
            f"the tensors of its size are not the kernel times one factor for each output channel "
            f"(closest: '{unclaimed[0]}'). Something else is folded into the weights, or the file "
            "is of another model"
        )
    else:
        reason = "all tensors of its size belong to other layers (equal layers are merged)"
    return (
        f"Layer '{kernel.layer}': no place for kernel '{kernel.name}' of shape "
        f"{kernel.values.shape} in the TFLite file: {reason}."
    )


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
