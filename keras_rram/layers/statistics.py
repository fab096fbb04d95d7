"""The statistics of a model's normalizations: held still, or gathered over many masks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.layers.centered_input import CenteredInput, mean_of_channels
from keras_rram.layers.network import faulty_layers
from keras_rram.layers.normalization import normalize_by_batch
from keras_rram.layers.parts import in_parts, joined
from keras_rram.layers.wrappers import DropConnectTimeDistributed, holders, holding

Tensor = Any
Sums = dict[str, list[np.ndarray]]
Writers = Mapping[int, Sequence[Callable[[], None]]]
"""Id of a layer -> what writes each chip's faults into it."""


def statistics_layers(model: keras.Model) -> dict[str, Any]:
    """Returns the layers with moving statistics, by name: batch normalizations, `CenteredInput`.

    Raises:
        ValueError: if one is not built, or if two share a name.
    """
    found: dict[str, Any] = {}
    for layer in model._flatten_layers():
        if not isinstance(layer, keras.layers.BatchNormalization | CenteredInput):
            continue
        if not layer.built:
            raise ValueError(f"Model '{model.name}' is not built: call it on a batch first.")
        if found.setdefault(layer.name, layer) is not layer:
            raise ValueError(
                f"Two normalizations of model '{model.name}' are named '{layer.name}'. Give each "
                "its own name."
            )
    return found


def require_statistics(model: keras.Model) -> dict[str, Any]:
    """Returns `statistics_layers`, and raises a ValueError if there is none."""
    layers = statistics_layers(model)
    if not layers:
        raise ValueError(
            f"Model '{model.name}' has no statistics: expected at least one "
            "`keras.layers.BatchNormalization` or `CenteredInput`. A baked or converted model may "
            "have lost them, and group normalization has none."
        )
    return layers


def fix_statistics(model: keras.Model) -> AbstractContextManager:
    """Has training use the moving statistics and leave them as they are.

    A chip has fixed statistics. Training on those of each batch, which fit each mask perfectly,
    never sees the error that a chip will make; with fixed statistics the loss contains it, and
    weights, gamma and beta learn to bear it.

    A function compiled before (`fit` compiles one) does not see the change: call
    `model.make_train_function(force=True)`, as `FixedStatistics` does.

    Args:
        model: a built model, with batch normalization of any kind or `CenteredInput`.

    Returns:
        A context manager; its end, or `close()`, ends it.

    Raises:
        ValueError: if the model has no such layer.
    """
    layers = require_statistics(model)

    def fixed(layer: Any) -> Callable[..., Tensor]:
        def call(inputs: Tensor, training: bool | None = None, **others: Any) -> Tensor:
            return type(layer).call(layer, inputs, training=False, **others)

        return call

    stack = ExitStack()
    for layer in layers.values():
        stack.enter_context(_replaced(layer, "call", fixed(layer)))
    return stack


def gather_statistics(
    model: keras.Model,
    images: np.ndarray,
    masks: int | Iterable[Any] = 64,
    batch_size: int = 64,
) -> None:
    """Gives a Drop-Connect model the statistics of its population of chips.

    Moving statistics follow single masks, and the variance that they hold is that *within* a mask.
    A chip's outputs also differ in their mean from those of other chips, so over the population

        mean = E[mean],   variance = E[variance] + Var[mean]

    with expectations over masks. All masks go through the network side by side, each with images of
    its own, so that every layer's statistics are those of inputs that the layers before it have
    normalized as they will on a chip: by these statistics, the same for all chips. They are what
    one model can have for all chips (access tier A), without any training.

    Args:
        model: built model with batch normalization or `CenteredInput`.
        images: training images `(n, ...)`, preprocessed as for the model and augmented as in its
            training: `dataset.arrays("train", augmented=True)[0]`.
        masks: how many fresh masks, each with one batch of images; they come from the layers'
            `DropConnect`, its noise included, at the drop rate of the moment. Or the chips whose
            faults take their place, say `population(fault_model, 64, seed=1)`.
        batch_size: images for each mask, at most. With a number of `masks` on TensorFlow, the
            activations of a few layers are held at once, all masks' together; otherwise those of
            all layers.

    Raises:
        ValueError: if the model has no layer with statistics or, with a number of `masks`, none
            that drops; if the images are not what it takes, or give no finite statistics.

    Example:

    ```python
    gather_statistics(model, dataset.arrays("train", augmented=True)[0], masks=64)
    ```
    """
    layers = require_statistics(model)
    _check(model, images, masks, batch_size)
    faulty = faulty_layers(model)
    count = min(batch_size, len(images))
    with ExitStack() as stack:
        if isinstance(masks, int):
            if not faulty:
                raise ValueError(
                    f"Model '{model.name}' has no Drop-Connect layer: there are no masks to draw. "
                    "Convert it with `to_drop_connect` first."
                )
            number = masks
            for layer in faulty.values():
                stack.enter_context(_replaced(layer, "effective_kernel", _dropping(layer)))
            writers = None
        else:
            chips = list(masks)
            number = len(chips)
            if not chips:
                raise ValueError("`masks` must be a number or chips. Received: no chip")
            drawn = [chip.faults(model) for chip in chips]
            has_offset = [any(one.offset is not None for one in each.values()) for each in drawn]
            # Adds the variables that hold offsets, if need be, and restores all at the end.
            stack.enter_context(
                chips[has_offset.index(True) if any(has_offset) else 0].program(model)
            )
            writers = {
                id(layer): [_writer(layer, name, faults) for faults in drawn]
                for name, layer in faulty.items()
            }
        _split(stack, model, number, writers)
        chosen = np.arange(number * count) % (len(images) // count * count)
        values = ops.convert_to_tensor(images[chosen], model.inputs[0].dtype)
        with _recording(layers) as record:

            def gathered(values: Tensor) -> dict[str, list[Any]]:
                model(values, training=False)
                return record

            # Compiled, each activation is freed once it has been read for the last time. With
            # chips it is not, as their masks would be constants of the graph.
            run = _compiled(gathered) if isinstance(masks, int) else gathered
            found = keras.tree.map_structure(ops.convert_to_numpy, run(values))
    for name, layer in layers.items():
        _assign(layer, found.get(name, []), model)


def _split(stack: ExitStack, model: keras.Model, number: int, writers: Writers | None) -> None:
    """Has each faulty layer give each of so many parts of a batch a mask of its own."""
    held: set[int] = set()
    for wrapper in model._flatten_layers():
        if isinstance(wrapper, DropConnectTimeDistributed):
            held |= {id(part) for part in holders(wrapper.layer)}
            call = _held_side_by_side(stack, wrapper, number, writers)
            stack.enter_context(_replaced(wrapper, "call", call))
    for layer in faulty_layers(model).values():
        if id(layer) not in held:
            mine = None if writers is None else writers[id(layer)]
            stack.enter_context(_replaced(layer, "call", _side_by_side(layer, number, mine)))


def _held_side_by_side(
    stack: ExitStack, wrapper: Any, number: int, writers: Writers | None
) -> Callable[..., Tensor]:
    """Returns a wrapper's call that gives each part the same kernels in all time steps."""
    kernels: dict[int, list[dict[str, Tensor]]] = {}
    parts = holders(wrapper.layer)

    def in_turn(part: Any) -> Callable[..., Tensor]:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            found = []
            for index, mine in enumerate(in_parts((args, kwargs), number)):
                with holding(part, kernels[id(part)][index]):
                    found.append(type(part).call(part, *mine[0], **mine[1]))
            return joined(found)

        return call

    for part in parts:
        stack.enter_context(_replaced(part, "call", in_turn(part)))

    def call(*args: Any, **kwargs: Any) -> Tensor:
        for part in parts:
            kernels[id(part)] = []
            for index in range(number):
                if writers is not None:
                    writers[id(part)][index]()
                drawn = {slot: part.effective_kernel(slot) for slot in part.kernel_slots}
                kernels[id(part)].append(drawn)
        return keras.layers.TimeDistributed.call(wrapper, *args, **kwargs)

    return call


def _side_by_side(
    layer: Any, number: int, writers: Sequence[Callable[[], None]] | None
) -> Callable[..., Tensor]:
    """Returns a call that gives each of so many parts of a batch a mask of its own."""

    def one(args: Any, kwargs: Any) -> Tensor:
        return type(layer).call(layer, *args, **kwargs)

    if writers is None:
        one = _compiled(one)  # traced once for all parts

    def call(*args: Any, **kwargs: Any) -> Tensor:
        parts = []
        for index, mine in enumerate(in_parts((args, kwargs), number)):
            if writers is not None:
                writers[index]()
            parts.append(one(*mine))
        return joined(parts)

    return call


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function compiled on TensorFlow, or as it is."""
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, experimental_attributes={"_noinline": True})


def _writer(layer: Any, name: str, faults: Mapping[str, Any]) -> Callable[[], None]:
    """Returns a function that writes a chip's faults into one layer."""

    def write() -> None:
        for slot, mask in layer.fault_masks.items():
            fault = faults.get(f"{name}/{slot}")
            mask.assign(np.ones(mask.shape) if fault is None else fault.factors)
            if slot in layer.fault_offsets:
                offset = layer.fault_offsets[slot]
                held = None if fault is None else fault.offset
                offset.assign(np.zeros(offset.shape) if held is None else held)

    return write


def _check(model: Any, images: Any, masks: Any, batch_size: Any) -> None:
    sizes = {"batch_size": batch_size}
    if isinstance(masks, int):
        sizes["masks"] = masks
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"`{name}` must be an integer >= 1. Received: {name}={size!r}")
    expected = tuple(model.input_shape[1:])
    shape = tuple(np.shape(images))
    fits = len(shape) == len(expected) + 1 and all(
        size in (None, other) for size, other in zip(expected, shape[1:], strict=True)
    )
    if not fits or not shape[0] or np.asarray(images).dtype.kind not in "fiu":
        raise ValueError(
            f"`images` must be a non-empty array of numbers of shape {('n', *expected)}, "
            f"preprocessed as for the model. Received: {shape}, dtype {np.asarray(images).dtype}"
        )


def _dropping(layer: Any) -> Callable[..., Tensor]:
    def effective_kernel(slot: str = "kernel", training: bool | None = False) -> Tensor:
        return type(layer).effective_kernel(layer, slot, training=True)

    return effective_kernel


@contextmanager
def _replaced(layer: Any, method: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Puts a function in the place of a layer's method, and the one before back at the end."""
    before = layer.__dict__.get(method)
    # Beside the method of the class, as an attribute of the one object.
    object.__setattr__(layer, method, replacement)
    try:
        yield
    finally:
        if before is None:
            layer.__dict__.pop(method, None)
        else:
            object.__setattr__(layer, method, before)


@contextmanager
def _recording(layers: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
    """Normalizes by what comes into each layer, and adds its mean and variance to a dict."""
    record: dict[str, list[Any]] = {}

    def recorder(name: str, layer: Any) -> Callable[..., Tensor]:
        def call(inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
            if mask is not None:
                raise ValueError(
                    f"Normalization '{name}' gets a mask, which its statistics cannot take into "
                    "account. Expected a model without masking."
                )
            if isinstance(layer, CenteredInput):
                mean = mean_of_channels(inputs)
                outputs = inputs - ops.cast(mean, inputs.dtype)
                values: tuple[Tensor, ...] = (mean,)
            else:
                outputs, *moments = normalize_by_batch(layer, inputs)
                values = tuple(moments)
            record.setdefault(name, []).append(list(values))
            return outputs

        return call

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(_replaced(layer, "call", recorder(name, layer)))
        yield record


def _assign(layer: Any, calls: list[list[np.ndarray]], model: keras.Model) -> None:
    """Gives a layer the statistics over all its calls, each of as many values as the others."""
    if not calls:
        raise ValueError(
            f"Normalization '{layer.name}' of model '{model.name}' takes no part in the model's "
            "outputs: there is nothing to gather."
        )
    means = np.stack([call[0] for call in calls]).astype(np.float64)
    values = [means.mean(0)]
    if len(calls[0]) > 1:
        within = np.stack([call[1] for call in calls]).astype(np.float64)
        values.append(within.mean(0) + means.var(0))
    if not all(np.isfinite(value).all() for value in values):
        raise ValueError(
            f"The images give normalization '{layer.name}' of model '{model.name}' statistics that "
            "are not finite. Are images or weights NaN or infinite?"
        )
    variables = [layer.moving_mean, getattr(layer, "moving_variance", None)]
    for variable, value in zip(variables, values, strict=False):
        variable.assign(value)
