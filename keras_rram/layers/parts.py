"""Several masks in one batch: each part of it goes through a layer with a mask of its own."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

Tensor = Any


def side_by_side(call: Callable[..., Any]) -> Callable[..., Any]:
    """Has the `call` of a layer take a batch in `layer.masks` parts in training.

    Each part draws effective kernels of its own; the outputs are one batch again. What follows, a
    batch normalization say, sees them all. Where a layer `is_product`, its parts of one size are
    one product of matrices, which costs about what a batch with one kernel does; others take their
    turn.

    Args:
        call: method of a layer with an argument `training` and a number `masks`.
    """

    @functools.wraps(call)
    def in_turn(self: Any, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        if not training or self.masks == 1:
            return call(self, *args, training=training, **kwargs)
        if getattr(self, "stateful", False):
            raise ValueError(
                f"Layer '{self.name}' is stateful, and its state is of a whole batch: expected "
                f"`DropConnect(masks=1)`. Received: masks={self.masks}"
            )
        arguments = (args, kwargs)
        size = _size(arguments)
        if not isinstance(size, int):
            # Samples of zeros fill the parts up, as there is no convolution of no samples.
            arguments = _map_batch(functools.partial(_padded, -size % self.masks), arguments)
        is_product = getattr(self, "is_product", False)
        if is_product and (not isinstance(size, int) or size % self.masks == 0):
            outputs = _as_one_product(self, _first(arguments))
        else:
            parts = in_parts(arguments, self.masks)
            outputs = joined([call(self, *mine, training=training, **own) for mine, own in parts])
        if isinstance(size, int):
            return outputs
        return keras.tree.map_structure(lambda one: one[:size], outputs)

    return in_turn


def in_parts(arguments: Any, count: int) -> Iterator[Any]:
    """Yields the arguments of a call for each part of a batch, in order.

    Args:
        arguments: any structure; tensors whose first axis is that of the first tensor are cut.
        count: how many parts, whose sizes differ by one at most; with fewer samples, one part for
            each, where the size of the batch is known.
    """
    size = _size(arguments)
    cuts: Any = count
    if isinstance(size, int):
        cuts = sorted({index * size // count for index in range(count)} - {0})
    if not cuts:
        yield arguments
        return
    # Not slices, whose gradients would each be of the whole batch.
    flat = keras.tree.flatten(_map_batch(lambda one: _Parts(ops.split(one, cuts)), arguments))
    number = next(len(one.parts) for one in flat if isinstance(one, _Parts))
    for index in range(number):
        mine = [one.parts[index] if isinstance(one, _Parts) else one for one in flat]
        yield keras.tree.pack_sequence_as(arguments, mine)


def joined(outputs: list[Any]) -> Any:
    """Returns what parts of a batch gave as one batch, in any structure."""
    return keras.tree.map_structure(lambda *each: ops.concatenate(each), *outputs)


def _as_one_product(layer: Any, inputs: Tensor) -> Tensor:
    """Returns the outputs of a layer for parts of one size, each with a kernel of its own."""
    kernels = ops.stack([layer.effective_kernel(training=True) for _ in range(layer.masks)])
    channels, units = kernels.shape[-2:]
    outputs = ops.matmul(
        ops.reshape(inputs, (layer.masks, -1, channels)),
        ops.reshape(kernels, (layer.masks, channels, units)),
    )
    outputs = ops.reshape(outputs, (*ops.shape(inputs)[:-1], units))
    return layer._bias_and_activation(outputs)


class _Parts:
    """The parts of a tensor, as one leaf of a structure."""

    def __init__(self, parts: list[Tensor]):
        self.parts = parts


def _first(arguments: Any) -> Tensor:
    return next(one for one in keras.tree.flatten(arguments) if ops.is_tensor(one))


def _size(arguments: Any) -> Any:
    """Returns the size of a batch, a tensor where it is not known yet."""
    return ops.shape(_first(arguments))[0]


def _map_batch(change: Callable[[Tensor], Tensor], arguments: Any) -> Any:
    """Returns arguments with those tensors changed whose first axis is that of the batch."""
    total = _first(arguments).shape[0]

    def changed(one: Any) -> Any:
        is_batch = ops.is_tensor(one) and len(one.shape) > 0 and one.shape[0] == total
        return change(one) if is_batch else one

    return keras.tree.map_structure(changed, arguments)


def _padded(missing: Tensor, one: Tensor) -> Tensor:
    zeros = ops.zeros((missing, *ops.shape(one)[1:]), one.dtype)
    return ops.concatenate([one, zeros])
