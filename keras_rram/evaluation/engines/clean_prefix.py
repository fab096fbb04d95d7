"""Cuts a model behind its last clean layers, which are the same for all chips."""

from dataclasses import dataclass
from typing import Any

import keras

from keras_rram.hardware.summary import summary_table
from keras_rram.layers import faulty_layers

LEAST_SHARE = 0.1
"""Share of the multiply-accumulates in front of a cut from which on it pays."""
CACHE_BYTES = 1 << 30
"""Most memory that the outputs of the clean part may take for all test images."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A model in two: `suffix(prefix(images))` equals `model(images)`.

    Attributes:
        prefix: the clean part; no fault of any chip can reach it.
        suffix: the rest, with every Drop-Connect layer; both share their layers with the model.
        share: part of the model's multiply-accumulates that the prefix has, in `(0, 1)`.
    """

    prefix: keras.Model
    suffix: keras.Model
    share: float


def cut(model: keras.Model, images: int, least_share: float = LEAST_SHARE) -> Cut | None:
    """Finds the clean part of a model that can be computed once for all chips.

    Args:
        model: functional or Sequential model with one input and one output.
        images: number of test images whose outputs would be kept.
        least_share: share of the multiply-accumulates below which a cut does not pay.

    Returns:
        The `Cut` with the largest clean part that fits into `CACHE_BYTES`, or None where none pays,
        where there is no single tensor to cut at, or where the model is not a graph of layers.

    Example: of a ResNet20 whose last convolutions are bottlenecks most is clean.

    ```python
    found = cut(resnet20((16, 17, 18), drop_connect=0.2), images=1000)
    features = found.prefix.predict(images)
    ```
    """
    try:
        total = summary_table(model).macs
    except (TypeError, ValueError):
        return None
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return None
    (source,), (target,) = model.inputs, model.outputs
    for tensor in reversed(_candidates(model)):
        shape = tensor.shape[1:]
        size = 4 * images
        for length in shape:
            size *= length if length is not None else CACHE_BYTES
        if size > CACHE_BYTES:
            continue
        prefix = keras.Model(source, tensor, name=f"{model.name}_clean")
        share = summary_table(prefix).macs / total if total else 0.0
        if share < least_share:
            return None
        return Cut(prefix, keras.Model(tensor, target, name=model.name), share)
    return None


def _candidates(model: Any) -> list[Any]:
    """Returns the clean tensors that all later layers depend on alone, in order."""
    graph = model if hasattr(model, "_nodes_by_depth") else keras.Model(model.inputs, model.outputs)
    nodes = [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
    ]
    maker = {id(tensor): node for node in nodes for tensor in node.outputs}
    # Node -> the nodes that it depends on, itself included.
    needs: dict[int, set[int]] = {}
    for node in nodes:
        needs[id(node)] = {id(node)}.union(*(needs[id(maker[id(t)])] for t in node.input_tensors))
    faulty = {id(node) for node in nodes if _is_faulty(node.operation)}
    found = []
    for node in nodes[:-1]:
        before = needs[id(node)]
        if node.is_input or before & faulty or len(node.outputs) != 1:
            continue
        later = [other for other in nodes if id(other) not in before]
        used = {id(tensor) for other in later for tensor in other.input_tensors}
        inside = {id(t) for n in nodes if id(n) in before and n is not node for t in n.outputs}
        if later and not used & inside:
            found.append(node.outputs[0])
    return found


def _is_faulty(operation: Any) -> bool:
    return isinstance(operation, keras.Layer) and bool(faulty_layers(operation))
