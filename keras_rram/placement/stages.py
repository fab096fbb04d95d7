"""A network in stages: what lies before a layer is computed once for all placements.

A graph of layers is cut in front of every faulty layer and of every layer with statistics. What
goes from one stage to the next are the tensors that later layers still need, so that residual
connections are no obstacle. Two placements whose layers agree up to a stage have the same tensors
there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.chips.chip import erase
from keras_rram.faults import Fault
from keras_rram.layers import CenteredInput, faulty_layers
from keras_rram.layers.centered_input import mean_of_channels

Tensor = Any
State = dict[int, Tensor]
"""The tensors between two stages, by the tensors of the graph that they are the values of."""
Moments = tuple[np.ndarray, ...]
"""The mean, and of a batch normalization the variance too, float64, shape `(channels,)`."""


@dataclass(eq=False)
class Stage:
    """The part of a network from one cut to the next.

    Attributes:
        model: its layers, from the tensors `takes` to the tensors `gives`.
        takes: identities of the tensors that come in.
        gives: identities of those that it makes and later stages need.
        needed: identities of all that later stages need.
        faulty: names of its Drop-Connect layers; at most one, unless a layer is made of others.
        normalization: the layer with statistics that it begins with, or None.
    """

    model: keras.Model
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    needed: frozenset[int]
    faulty: tuple[str, ...]
    normalization: Any = None
    _compiled: dict[Any, Callable[..., Any]] = field(default_factory=dict)
    _held: dict[str, Fault | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Finds the kernels."""
        self._layers = faulty_layers(self.model)
        self._slots = {
            (layer, slot): f"{name}/{slot}"
            for name, layer in self._layers.items()
            for slot in layer.kernels
        }

    def program(self, faults: Mapping[str, Fault]) -> None:
        """Writes the faults of its own kernels into its layers; those left out are healthy."""
        for (layer, slot), name in self._slots.items():
            fault = faults.get(name)
            if name in self._held and self._held[name] is fault:
                continue
            self._held[name] = fault
            mask = layer.fault_masks[slot]
            mask.assign(np.ones(mask.shape, np.float32) if fault is None else fault.factors)
            if fault is not None and fault.offset is not None:
                layer.add_fault_offsets()
            if slot in layer.fault_offsets:
                held = None if fault is None else fault.offset
                layer.fault_offsets[slot].assign(np.zeros(mask.shape) if held is None else held)

    def forget(self) -> None:
        """Forgets what is programmed, which others may have changed."""
        self._held.clear()

    def moments(self, state: State) -> Moments:
        """Returns the moments of what comes into its normalization."""
        found = self._call("moments", lambda *given: _moments(self.normalization, given[0]), state)
        return tuple(ops.convert_to_numpy(value).astype(np.float64) for value in found)

    def assign(self, moments: Moments) -> None:
        """Gives its normalization these statistics."""
        _assign(self.normalization, moments)

    def run(self, state: State, calibration: int = 0) -> State:
        """Returns the state behind it.

        Args:
            state: the state in front of it.
            calibration: if positive and it begins with a batch normalization, that gets the
                statistics of the first so many examples.
        """
        is_batch = isinstance(self.normalization, keras.layers.BatchNormalization)
        count = calibration if is_batch else 0

        def compute(*given: Tensor) -> Sequence[Tensor]:
            if count:
                _assign(self.normalization, _moments(self.normalization, given[0][:count]))
            return keras.tree.flatten(self.model(list(given), training=False))

        made = self._call(count, compute, state)
        kept = {key: value for key, value in state.items() if key in self.needed}
        return kept | dict(zip(self.gives, made, strict=True))

    def _call(self, key: Any, function: Callable[..., Any], state: State) -> Any:
        given = [state[key] for key in self.takes]
        if keras.backend.backend() != "tensorflow":
            return function(*given)
        # A fault model with offsets adds variables to layers: they are compiled anew then.
        offsets = [bool(layer.fault_offsets) for layer in self._layers.values()]
        key = (key, *offsets)
        if key not in self._compiled:
            import tensorflow as tf

            signature = [tf.TensorSpec([None, *one.shape[1:]], one.dtype) for one in given]
            traced = tf.function(function, input_signature=signature, autograph=False)
            self._compiled[key] = traced.get_concrete_function()
        return self._compiled[key](*given)


class StagedNetwork:
    """A model in stages; a context manager that gives the model back what it held before.

    Args:
        model: built functional or Sequential model with Drop-Connect layers, one input and one
            output.

    Raises:
        ValueError: if the model is no such graph, or if reads are noisy.

    Attributes:
        stages: the stages, in order.
        layers: names of the Drop-Connect layers, in the order of the stages.
        faulty: the Drop-Connect layers by name.
    """

    def __init__(self, model: keras.Model):
        if not faulty_layers(model):
            raise ValueError(
                f"Model '{model.name}' has no Drop-Connect layer that could be placed. Convert it "
                "with `to_drop_connect(model, 0.0)`."
            )
        if any(layer.is_noisy for layer in faulty_layers(model).values()):
            raise ValueError(
                f"expected layers without read noise. Received: model '{model.name}' with noisy "
                "ones, whose outputs no later stage could take over"
            )
        self.model = model
        self.faulty = faulty_layers(model)
        self.stages = _stages(model)
        self.layers = tuple(dict.fromkeys(name for one in self.stages for name in one.faulty))
        self._source = id(_graph(model).inputs[0])

    def check_statistics(self) -> None:
        """Raises ValueError unless there are statistics, each in a stage of its own."""
        own = [id(stage.normalization) for stage in self.stages if stage.normalization is not None]
        every = {id(layer) for layer in self.model._flatten_layers() if _is_normalization(layer)}
        if not own or set(own) != every or len(set(own)) < len(own):
            raise ValueError(
                "expected batch normalizations, each a layer of the model itself that is called "
                f"once, to gather their statistics. Received: model '{self.model.name}' with "
                f"{len(every)} in it, of which {len(set(own))} are (use statistics='model')"
            )

    def begin(self, images: np.ndarray) -> State:
        """Returns the state in front of the first stage."""
        return {self._source: ops.convert_to_tensor(images)}

    def outputs(self, state: State) -> np.ndarray:
        """Returns the model's output from the state behind the last stage."""
        (value,) = state.values()
        return ops.convert_to_numpy(value)

    @contextmanager
    def in_use(self) -> Iterator["StagedNetwork"]:
        """Restores faults and statistics at the end of the block, error or not."""
        held = [
            (variable, np.array(ops.convert_to_numpy(variable)))
            for stage in self.stages
            if stage.normalization is not None
            for variable in _variables(stage.normalization)
        ]
        with ExitStack() as stack:
            stack.callback(lambda: [variable.assign(value) for variable, value in held])
            stack.enter_context(erase(self.model))
            for stage in self.stages:
                stage.forget()
            yield self


def pooled(parts: Sequence[Moments]) -> Moments:
    """Returns the moments over parts of equal size: `E[mean]` and `E[variance] + Var[mean]`."""
    means = np.stack([part[0] for part in parts])
    if len(parts[0]) == 1:
        return (means.mean(0),)
    return means.mean(0), np.stack([part[1] for part in parts]).mean(0) + means.var(0)


def _stages(model: keras.Model) -> tuple[Stage, ...]:
    graph = _graph(model)
    nodes = [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if not node.is_input
    ]
    cuts = [0]
    for place, node in enumerate(nodes):
        if place and (_faulty(node.operation) or _is_normalization(node.operation)):
            cuts.append(place)
    tensors = {id(t): t for node in nodes for t in (*node.input_tensors, *node.outputs)}
    last = {id(output): len(nodes) for output in graph.outputs}
    for place, node in enumerate(nodes):
        for tensor in node.input_tensors:
            last[id(tensor)] = max(last.get(id(tensor), 0), place)
    found = []
    for start, stop in zip(cuts, [*cuts[1:], len(nodes)], strict=True):
        part = nodes[start:stop]
        made = [id(t) for node in part for t in node.outputs]
        takes = list(
            dict.fromkeys(
                id(t) for node in part for t in node.input_tensors if id(t) not in set(made)
            )
        )
        gives = [key for key in made if last.get(key, -1) >= stop]
        needed = frozenset(key for key, place in last.items() if place >= stop)
        layer = part[0].operation
        found.append(
            Stage(
                keras.Model([tensors[key] for key in takes], [tensors[key] for key in gives]),
                tuple(takes),
                tuple(gives),
                needed,
                tuple(dict.fromkeys(name for node in part for name in _faulty(node.operation))),
                layer if _is_normalization(layer) else None,
            )
        )
    return tuple(found)


def _graph(model: Any) -> Any:
    is_graph = hasattr(model, "_nodes_by_depth") or isinstance(model, keras.Sequential)
    if not is_graph or len(model.inputs or ()) != 1 or len(model.outputs or ()) != 1:
        raise ValueError(
            "expected a functional or built Sequential model with one input and one output, which "
            f"can be cut in front of its layers. Received: {model!r} ({type(model).__name__})"
        )
    if isinstance(model, keras.Sequential):
        # Its own graph is that of a functional model within, which Keras keeps.
        return model._functional
    return model


def _faulty(operation: Any) -> tuple[str, ...]:
    return tuple(faulty_layers(operation)) if isinstance(operation, keras.Layer) else ()


def _is_normalization(operation: Any) -> bool:
    return isinstance(operation, keras.layers.BatchNormalization | CenteredInput)


def _variables(layer: Any) -> list[keras.Variable]:
    if isinstance(layer, CenteredInput):
        return [layer.moving_mean]
    return [layer.moving_mean, layer.moving_variance]


def _moments(layer: Any, inputs: Tensor) -> tuple[Tensor, ...]:
    if isinstance(layer, CenteredInput):
        return (mean_of_channels(inputs),)
    rank = len(inputs.shape)
    axes = [axis for axis in range(rank) if axis != layer.axis % rank]
    return tuple(ops.moments(ops.cast(inputs, "float32"), axes=axes))


def _assign(layer: Any, moments: Sequence[Any]) -> None:
    for variable, value in zip(_variables(layer), moments, strict=True):
        variable.assign(value)
