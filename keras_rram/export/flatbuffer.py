"""Where things are inside a TFLite file: tensors, their bytes, and the operators that use them."""

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_IDENTIFIER = b"TFL3"


def _names(enumeration: type) -> dict[int, str]:
    """Returns a schema enumeration as value -> name."""
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


_OPERATORS = _names(schema.BuiltinOperator)
_TYPES = _names(schema.TensorType)
_DTYPES: dict[str, np.dtype] = {
    "FLOAT32": np.dtype("<f4"),
    "FLOAT16": np.dtype("<f2"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the main subgraph.

    Attributes:
        index: number in the subgraph.
        name: name given by the converter; carries no promise.
        shape: dimensions as stored.
        type: element type as TFLite names it, `"INT8"`.
        buffer: number of the buffer that holds the data. Tensors of equal content may share one.
        offset: position of the first byte in the file; 0 for tensors without data.
        size: number of bytes, 0 for tensors without data (activations).
        scales: float64 quantization steps, one or one for each channel; empty when not quantized.
        zero_points: int64, likewise.
        axis: dimension that the scales belong to.
        scales_offset: position of the first of the scales in the file, which are little-endian
            float32; 0 when not quantized.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    type: str
    buffer: int
    offset: int
    size: int
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    scales_offset: int = 0

    @property
    def dtype(self) -> np.dtype | None:
        """NumPy type of the elements, None for types that NumPy does not have."""
        return _DTYPES.get(self.type)

    def read(self, data: Any) -> np.ndarray:
        """Returns the stored elements of this tensor in the file `data`, as a view."""
        if self.dtype is None or not self.size:
            raise ValueError(f"Tensor '{self.name}' ({self.type}) holds no readable data.")
        count = self.size // self.dtype.itemsize
        return np.frombuffer(data, self.dtype, count, self.offset).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of the main subgraph: its name and the numbers of its tensors (-1: absent)."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
    """The main subgraph of a TFLite file.

    Attributes:
        tensors: all tensors, in the order of the file.
        operators: all operators, in execution order.
        inputs: numbers of the graph's input tensors.
        outputs: numbers of the graph's output tensors.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def parse(data: bytes | bytearray) -> Graph:
    """Reads the structure of a TFLite file.

    Format: the FlatBuffers schema of TensorFlow Lite, as `ai_edge_litert` ships it.

    Args:
        data: the whole file.

    Returns:
        The main subgraph, with the position in `data` of every tensor's bytes.

    Raises:
        ValueError: if `data` is not a TFLite file, or is damaged or truncated.
    """
    if len(data) < 8 or bytes(data[4:8]) != _IDENTIFIER:
        raise ValueError(
            "Not a TFLite file: expected the identifier 'TFL3' at byte 4. "
            f"Received: {len(data)} bytes, with {bytes(data[4:8])!r} there"
        )
    try:
        graph = _parse(data)
    # Whatever a reader of damaged offsets can run into; FlatBuffers has no verifier in Python.
    except (
        struct.error,
        ValueError,
        IndexError,
        TypeError,
        OverflowError,
        AttributeError,
    ) as error:
        raise ValueError(
            f"A damaged or truncated TFLite file ({len(data)} bytes): {error}"
        ) from None
    return graph


def read(path: str | Path) -> bytes:
    """Returns the bytes of a TFLite file after checking that `parse` accepts them.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not a TFLite file; the message starts with the path.
    """
    data = Path(path).read_bytes()
    try:
        parse(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return data


def _parse(data: bytes | bytearray) -> Graph:
    model = schema.Model.GetRootAs(data, 0)
    if model.SubgraphsLength() < 1:
        raise ValueError("no subgraph")
    spans = [_span(model, number, len(data)) for number in range(model.BuffersLength())]
    subgraph = model.Subgraphs(0)
    tensors = tuple(
        _tensor(subgraph.Tensors(number), number, spans)
        for number in range(subgraph.TensorsLength())
    )
    operators = tuple(
        _operator(model, subgraph.Operators(number), len(tensors))
        for number in range(subgraph.OperatorsLength())
    )
    return Graph(
        tensors,
        operators,
        _numbers(subgraph.InputsAsNumpy(), len(tensors)),
        _numbers(subgraph.OutputsAsNumpy(), len(tensors)),
    )


def _span(model: Any, number: int, length: int) -> tuple[int, int]:
    """Returns the position and the size of a buffer's data."""
    buffer = model.Buffers(number)
    if buffer.Offset() > 1:
        raise ValueError("its weights lie outside the FlatBuffer (a file above 2 GB)")
    size = buffer.DataLength()
    if not size:
        return 0, 0
    # The generated accessors copy; the position itself takes the table's own field number.
    table = buffer._tab
    offset = table.Vector(table.Offset(4))
    if not 0 < offset <= length - size:
        raise ValueError(f"buffer {number} reaches beyond the end of the file")
    return offset, size


def _tensor(tensor: Any, index: int, spans: list[tuple[int, int]]) -> Tensor:
    buffer = tensor.Buffer()
    offset, size = spans[buffer]
    name = _TYPES[tensor.Type()]
    shape = tuple(int(n) for n in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
    dtype = _DTYPES.get(name)
    if size and dtype is not None and int(np.prod(shape)) * dtype.itemsize != size:
        raise ValueError(f"tensor {index} has shape {shape} but {size} bytes of {name}")
    scales, zero_points, axis, scales_offset = np.zeros(0), np.zeros(0, np.int64), 0, 0
    quantization = tensor.Quantization()
    if quantization is not None and quantization.ScaleLength():
        scales = quantization.ScaleAsNumpy().astype(np.float64)
        axis = quantization.QuantizedDimension()
        # As for buffers: the third field of the table, the vector of scales.
        scales_offset = quantization._tab.Vector(quantization._tab.Offset(8))
        zero_points = np.zeros(scales.size, np.int64)
        if quantization.ZeroPointLength():
            zero_points = quantization.ZeroPointAsNumpy().astype(np.int64)
    return Tensor(
        index=index,
        name=(tensor.Name() or b"").decode("utf-8", "replace"),
        shape=shape,
        type=name,
        buffer=buffer,
        offset=offset,
        size=size,
        scales=scales,
        zero_points=zero_points,
        axis=axis,
        scales_offset=scales_offset,
    )


def _operator(model: Any, operator: Any, tensors: int) -> Operator:
    code = model.OperatorCodes(operator.OpcodeIndex())
    name = _OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    if name == "CUSTOM":
        name = (code.CustomCode() or b"CUSTOM").decode("utf-8", "replace")
    return Operator(
        name,
        _numbers(operator.InputsAsNumpy(), tensors) if operator.InputsLength() else (),
        _numbers(operator.OutputsAsNumpy(), tensors) if operator.OutputsLength() else (),
    )


def _numbers(values: Any, tensors: int) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in values)
    if any(not -1 <= number < tensors for number in numbers):
        raise ValueError("a tensor number is out of range")
    return numbers
