"""What a network costs, layer by layer, and the share of it on faulty hardware."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import keras

from keras_rram.hardware.cost import HardwareCost, hardware_costs
from keras_rram.hardware.macs import digital_operations_of, macs_of, size
from keras_rram.layers import DropConnectMixin
from keras_rram.layers.roles import role_of


@dataclass(frozen=True)
class SummaryRow:
    """One layer of a `Summary`.

    Attributes:
        name: layer name.
        layer_class: class name of the layer.
        role: role of a layer with a kernel, else "".
        parameters: trained weights, bias, gamma and beta included; moving statistics and fault
            masks are not.
        macs: multiply-accumulates for one example, zero for layers without a kernel.
        faulty: whether it is a Drop-Connect layer, whose kernels sit on faulty hardware.
        faulty_parameters: weights on faulty hardware: the kernels, not the bias.
        digital_operations: what it costs the digital periphery for one example, if it normalizes,
            see `keras_rram.hardware.macs.digital_operations_of`.
    """

    name: str
    layer_class: str
    role: str
    parameters: int
    macs: int
    faulty: bool
    faulty_parameters: int
    digital_operations: int = 0


@dataclass(frozen=True)
class Summary:
    """Parameters and multiply-accumulates of a network; `str()` prints a table.

    Attributes:
        rows: one row for each layer with parameters, in the order of the network.
        hardware: cells and tiles under each mapping that was asked for.
    """

    rows: tuple[SummaryRow, ...]
    hardware: tuple[HardwareCost, ...] = ()

    @property
    def parameters(self) -> int:
        """Trained weights of all layers."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one example."""
        return sum(row.macs for row in self.rows)

    @property
    def faulty_parameters(self) -> int:
        """Weights on faulty hardware."""
        return sum(row.faulty_parameters for row in self.rows)

    @property
    def faulty_macs(self) -> int:
        """Multiply-accumulates on faulty hardware."""
        return sum(row.macs for row in self.rows if row.faulty)

    @property
    def digital_operations(self) -> int:
        """Additions and multiplications of normalizations, for one example."""
        return sum(row.digital_operations for row in self.rows)

    @property
    def faulty_parameters_share(self) -> float:
        """`faulty_parameters / parameters`, in `[0, 1]`."""
        return self.faulty_parameters / self.parameters if self.parameters else 0.0

    @property
    def faulty_macs_share(self) -> float:
        """`faulty_macs / macs`, in `[0, 1]`."""
        return self.faulty_macs / self.macs if self.macs else 0.0

    def place(self, name: str) -> "Summary":
        """Returns the part of one place: the layers named `name` or `<name>_...`.

        Raises:
            ValueError: if no layer with parameters is there.
        """
        rows = tuple(row for row in self.rows if f"{row.name}_".startswith(f"{name}_"))
        if not rows:
            raise ValueError(
                "`name` must be a layer name or what comes before a `_` in one. "
                f"Received: name={name!r}, where the layers are {[row.name for row in self.rows]}"
            )
        names = {row.name for row in rows}
        hardware = tuple(
            replace(cost, rows=tuple(r for r in cost.rows if r.kernel.rpartition("/")[0] in names))
            for cost in self.hardware
        )
        return Summary(rows, hardware)

    def to_dict(self) -> dict[str, Any]:
        """Returns the totals and, under "rows", one dict for each row: plain values for JSON."""
        return {
            "parameters": self.parameters,
            "macs": self.macs,
            "faulty_parameters": self.faulty_parameters,
            "faulty_macs": self.faulty_macs,
            "digital_operations": self.digital_operations,
            "faulty_parameters_share": self.faulty_parameters_share,
            "faulty_macs_share": self.faulty_macs_share,
            "rows": [asdict(row) for row in self.rows],
            **({"hardware": [cost.to_dict() for cost in self.hardware]} if self.hardware else {}),
        }

    def __str__(self) -> str:
        """Returns the table as aligned text, then those of the hardware."""
        lines = [("layer", "class", "role", "parameters", "macs", "faulty")]
        for row in self.rows:
            faulty = "yes" if row.faulty else ""
            counts = (f"{row.parameters:,}", f"{row.macs:,}")
            lines.append((row.name, row.layer_class, row.role, *counts, faulty))
        lines.append(("total", "", "", f"{self.parameters:,}", f"{self.macs:,}", ""))
        share = (f"{self.faulty_parameters_share:.1%}", f"{self.faulty_macs_share:.1%}")
        lines.append(("on faulty hardware", "", "", *share, ""))
        widths = [max(len(line[column]) for line in lines) for column in range(6)]
        rule = "  ".join("-" * width for width in widths)
        text = []
        for line in lines:
            cells = [
                cell.rjust(width) if column in (3, 4) else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            text.append("  ".join(cells).rstrip())
        table = "\n".join([text[0], rule, *text[1:-2], rule, *text[-2:]])
        if self.digital_operations:
            table += f"\ndigital operations of normalizations: {self.digital_operations:,}"
        return "\n\n".join([table, *map(str, self.hardware)])


def summary_table(
    model: keras.Model, mappings: Any = (), tile: tuple[int, int] | int = (128, 128)
) -> Summary:
    """Counts parameters and multiply-accumulates of a model, and how many sit on faulty hardware.

    Works on functional and Sequential models, nested ones included. A layer that is called twice
    counts its parameters once and its multiply-accumulates twice. A multiply-accumulate is one
    product of a kernel weight and an input value, positions in the padding included; additions of
    biases, normalizations, activations and products of two activations (as in attention) do not
    count.

    Args:
        model: a functional or built Sequential model whose image sizes are known.
        mappings: also count cells and tiles of the layers on faulty hardware, under these mappings
            of weights to cells: keys of `keras_rram.hardware.cost.MAPPINGS`, mappings, or a dict of
            them by name. See `hardware_cost`.
        tile: rows (word lines) and columns (bit lines) of a tile.

    Returns:
        A `Summary`.

    Raises:
        TypeError: if `model` is neither functional nor a built Sequential model.
        ValueError: if a layer's multiply-accumulates cannot be counted: its sizes are not known, or
            it has matrices of unknown use.

    Example: the overhead of a linear bottleneck over the convolution that it replaces.

    ```python
    bottleneck = summary_table(resnet20(replaced=(10,))).place("c10")
    convolution = summary_table(resnet20()).place("c10")
    bottleneck.parameters / convolution.parameters  # 14,912 / 9,280 = 1.61
    bottleneck.macs / convolution.macs  # 3,588,096 / 2,359,296 = 1.52
    ```
    """
    macs: dict[int, int] = {}
    digital: dict[int, int] = {}
    layers: dict[int, keras.Layer] = {}
    for layer, input_shape, output_shape, times in _calls(model):
        layers[id(layer)] = layer
        count = times * macs_of(layer, input_shape, output_shape)
        macs[id(layer)] = macs.get(id(layer), 0) + count
        count = times * digital_operations_of(layer, input_shape)
        digital[id(layer)] = digital.get(id(layer), 0) + count
    rows = tuple(
        _row(layer, macs[key], digital[key]) for key, layer in layers.items() if layer.weights
    )
    return Summary(rows, hardware_costs(model, mappings, tile))


def _calls(model: Any) -> Iterator[tuple[keras.Layer, Any, Any, int]]:
    """Yields (layer, input shape, output shape, times) of each call, nested models unfolded."""
    if isinstance(model, keras.Sequential) and model.built:
        # A Sequential model has no graph of its own: this makes one out of the same layers.
        model = keras.Function(model.inputs, model.outputs)
    if not hasattr(model, "_nodes_by_depth"):
        raise TypeError(
            "`summary_table` takes a functional model or a built Sequential model. "
            f"Received: {model!r} (of type {type(model).__name__})"
        )
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            layer = node.operation
            if node.is_input or not isinstance(layer, keras.Layer):
                continue
            if isinstance(layer, keras.Model):
                yield from _calls(layer)
            else:
                yield from _unwrapped(layer, _input(node).shape, node.outputs[0].shape)


def _input(node: Any) -> Any:
    """Returns the input of a call, of attention its `value`."""
    if isinstance(
        node.operation, keras.layers.MultiHeadAttention | keras.layers.GroupQueryAttention
    ):
        given = node.arguments
        return given.kwargs["value"] if "value" in given.kwargs else given.args[1]
    return node.input_tensors[0]


def _unwrapped(
    layer: Any, input_shape: tuple, output_shape: tuple
) -> Iterator[tuple[keras.Layer, Any, Any, int]]:
    if isinstance(layer, keras.layers.Bidirectional):
        for part in (layer.forward_layer, layer.backward_layer):
            yield part, input_shape, None, 1
    elif isinstance(layer, keras.layers.TimeDistributed):
        steps = input_shape[1]
        if steps is None:
            raise ValueError(
                f"Cannot count the multiply-accumulates of layer '{layer.name}': expected a known "
                "number of steps. Build the model with a full `input_shape`."
            )
        shapes = [(shape[0], *shape[2:]) for shape in (input_shape, output_shape)]
        yield layer.layer, *shapes, steps
    else:
        yield layer, input_shape, output_shape, 1


def _row(layer: Any, macs: int, digital: int) -> SummaryRow:
    faulty = isinstance(layer, DropConnectMixin) and layer.drop_connect is not None
    return SummaryRow(
        name=layer.name,
        layer_class=type(layer).__name__,
        role=role_of(layer) if macs else "",
        # Not `trainable_weights`, which is empty once a layer is frozen.
        parameters=sum(
            size(v) for part in layer._flatten_layers() for v in part._trainable_variables
        ),
        macs=macs,
        faulty=faulty,
        faulty_parameters=sum(map(size, layer.kernels.values())) if faulty else 0,
        digital_operations=digital,
    )
