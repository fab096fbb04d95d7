"""What a TFLite file says about itself, and in which weights two of one conversion differ."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_rram.export.errors import ExportError
from keras_rram.export.flatbuffer import Graph, parse
from keras_rram.export.kernel_places import bias_tensors, weight_tensors


@dataclasses.dataclass(frozen=True)
class WeightSummary:
    """One weight tensor of a file.

    Attributes:
        tensor: number of the tensor.
        name: as the converter named it; usually contains the Keras layer's name.
        operator: the operator that uses it, `"CONV_2D"`.
        shape: as stored: OHWI of a convolution, 1HWC depthwise, OI fully connected.
        type: element type, `"INT8"`.
        zeros: number of weights that are zero.
        scales: smallest and largest quantization step; None for floats.
    """

    tensor: int
    name: str
    operator: str
    shape: tuple[int, ...]
    type: str
    zeros: int
    scales: tuple[float, float] | None

    @property
    def weights(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))

    @property
    def sparsity(self) -> float:
        """Share of the weights that are zero, in `[0, 1]`."""
        return self.zeros / self.weights


@dataclasses.dataclass(frozen=True)
class FileSummary:
    """A TFLite file; `print` it for a table.

    Attributes:
        size: in bytes.
        input: shape and type of the input.
        output: shape and type of the output.
        operators: operator name -> how often.
        weights: the weight tensors, in the order in which they are used.
    """

    size: int
    input: str
    output: str
    operators: Mapping[str, int]
    weights: tuple[WeightSummary, ...]

    def __str__(self) -> str:
        """Returns an aligned table with a total."""
        lines = [
            f"input {self.input}, output {self.output}, {self.size:,} bytes",
            "operators: "
            + ", ".join(f"{name} x{count}" for name, count in sorted(self.operators.items())),
            f"{'tensor':<44} {'operator':<18} {'shape':<16} {'type':<8} {'weights':>9} "
            f"{'zero':>7}  scale",
        ]
        for row in self.weights:
            scales = "-" if row.scales is None else f"{row.scales[0]:.3g} to {row.scales[1]:.3g}"
            shape = "x".join(map(str, row.shape))
            lines.append(
                f"{_shorten(row.name, 44):<44} {row.operator:<18} {shape:<16} {row.type:<8} "
                f"{row.weights:>9,} {row.sparsity:>7.2%}  {scales}"
            )
        total = sum(row.weights for row in self.weights)
        zeros = sum(row.zeros for row in self.weights)
        share = zeros / total if total else 0.0
        lines.append(f"{'total':<44} {'':<18} {'':<16} {'':<8} {total:>9,} {share:>7.2%}")
        return "\n".join(lines)


def summarize(tflite: bytes | bytearray) -> FileSummary:
    """Returns the layers, scales and sparsity of a TFLite file.

    Raises:
        ValueError: if `tflite` is not a TFLite file.

    Example:

    ```python
    print(summarize(flatbuffer.read("chip7.tflite")))
    ```
    """
    graph = parse(tflite)
    operators: dict[str, int] = {}
    for operator in graph.operators:
        operators[operator.name] = operators.get(operator.name, 0) + 1
    weights = []
    for tensor, operator_name in weight_tensors(graph):
        steps = tensor.scales
        weights.append(
            WeightSummary(
                tensor=tensor.index,
                name=tensor.name,
                operator=operator_name,
                shape=tensor.shape,
                type=tensor.type,
                zeros=int((tensor.read(tflite) == 0).sum()),
                scales=(float(steps.min()), float(steps.max())) if steps.size else None,
            )
        )
    return FileSummary(
        size=len(tflite),
        input=_ends(graph, graph.inputs),
        output=_ends(graph, graph.outputs),
        operators=operators,
        weights=tuple(weights),
    )


def changed_weights(base: bytes | bytearray, patched: bytes | bytearray) -> dict[int, int]:
    """Returns how many weights differ between two files of one conversion, by tensor number.

    In a float file of a repaired chip all of them do, since scales are in the weights.

    Raises:
        ValueError: if the files differ in more than weights, and what a repair changes: biases and
            steps of weights.
    """
    graph = same_graph(base, patched)
    return {
        tensor.index: int((tensor.read(base) != tensor.read(patched)).sum())
        for tensor, _ in weight_tensors(graph)
    }


def same_graph(base: bytes | bytearray, patched: bytes | bytearray) -> Graph:
    """Returns the graph of two files that differ only in what chips and repairs change.

    Raises:
        ExportError: if they differ in more than weights, their steps, and biases.
    """
    graph, other = parse(base), parse(patched)
    if len(base) == len(patched):
        same = np.frombuffer(base, np.uint8) == np.frombuffer(patched, np.uint8)
        weights = [tensor for tensor, _ in weight_tensors(graph)]
        for tensor in [*weights, *bias_tensors(graph)]:
            same[tensor.offset : tensor.offset + tensor.size] = True
            steps = tensor.scales_offset
            same[steps : steps + 4 * tensor.scales.size] = True
        if same.all():
            return graph
    raise ExportError(
        "Expected two files of one conversion, which differ in weights and biases alone. Received: "
        f"files of {len(base)} and {len(patched)} bytes with {len(graph.tensors)} and "
        f"{len(other.tensors)} tensors. Compare a chip's file with the base of its own export."
    )


def has_other_biases(graph: Graph, base: bytes | bytearray, patched: bytes | bytearray) -> bool:
    """Whether two files of a graph differ in biases or in steps: whether a repair changed one."""
    spans = [(each.offset, each.size) for each in bias_tensors(graph)]
    spans += [(each.scales_offset, 4 * each.scales.size) for each, _ in weight_tensors(graph)]
    return any(base[at : at + size] != patched[at : at + size] for at, size in spans)


def _ends(graph: Graph, numbers: tuple[int, ...]) -> str:
    return ", ".join(
        f"{'x'.join(map(str, graph.tensors[number].shape))} {graph.tensors[number].type}"
        for number in numbers
    )


def _shorten(name: str, width: int) -> str:
    """Returns the part of a converter's long name that names the operation."""
    part = name.rstrip(";").split(";")[-1]
    return part if len(part) <= width else "..." + part[3 - width :]
