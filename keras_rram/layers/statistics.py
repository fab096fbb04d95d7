"""The statistics of a model's normalizations: held still, or gathered over many masks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.layers.centered_input import CenteredInput, mean_of_channels
from keras_rram.layers.network import faulty_layers
from keras_rram.layers.normalization import normalize_by_batch

Tensor = Any
Sums = dict[str, list[np.ndarray]]


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
    batch_size: int = 256,
    passes: int = 2,
) -> None:
    """Gives a Drop-Connect model the statistics of its population of chips.

    Moving statistics follow single masks, and the variance that they hold is that *within* a mask.
    A chip's outputs also differ in their mean from those of other chips, so over the population

        mean = E[mean],   variance = E[variance] + Var[mean]

    with expectations over masks. These are the best statistics that one model can have for all
    chips (access tier A), without any training. In the first pass every layer normalizes by the
    batch; in each further one by what the pass before found, as it will on a chip.

    Args:
        model: built model with batch normalization or `CenteredInput`.
        images: training images `(n, ...)`, preprocessed as for the model.
        masks: how many fresh masks, each with one batch of images; they come from the layers'
            `DropConnect`, its noise included, at the drop rate of the moment. Or the chips whose
            faults take their place, say `population(fault_model, 64, seed=1)`.
        batch_size: images in a batch, at most.
        passes: see above.

    Raises:
        ValueError: if the model has no layer with statistics or, with a number of `masks`, none
            that drops; if the images are not what it takes, or give no finite statistics.

    Example:

    ```python
    gather_statistics(model, dataset.arrays("train")[0], masks=64)
    ```
    """
    layers = require_statistics(model)
    _check(model, images, masks, batch_size, passes)
    faulty = faulty_layers(model)
    with ExitStack() as stack:
        if isinstance(masks, int):
            if not faulty:
                raise ValueError(
                    f"Model '{model.name}' has no Drop-Connect layer: there are no masks to draw. "
                    "Convert it with `to_drop_connect` first."
                )
            for layer in faulty.values():
                stack.enter_context(_replaced(layer, "effective_kernel", _dropping(layer)))
            chips: list[AbstractContextManager] = [nullcontext()] * masks
        else:
            chips = [_Programming(chip, model) for chip in masks]
        count = min(batch_size, len(images))
        batches = max(1, len(images) // count)
        found: dict[str, list[list[np.ndarray]]] = {}
        for number in range(passes):
            with _recording(layers, by_batch=number == 0) as record:
                run = _compiled(model, record)
                parts = []
                for index, chip in enumerate(chips):
                    first = (index % batches) * count
                    with chip:
                        parts.append(run(images[first : first + count]))
            found = {name: [call for part in parts for call in part[name]] for name in layers}
            for name, layer in layers.items():
                _assign(layer, found[name], model)


def _check(model: Any, images: Any, masks: Any, batch_size: Any, passes: Any) -> None:
    sizes = {"batch_size": batch_size, "passes": passes}
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


class _Programming:
    """A chip in the model for a `with` block, again and again."""

    def __init__(self, chip: Any, model: keras.Model):
        self._chip, self._model = chip, model

    def __enter__(self) -> None:
        self._programmed = self._chip.program(self._model)
        self._programmed.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._programmed.__exit__(*error)


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
def _recording(layers: Mapping[str, Any], by_batch: bool) -> Iterator[dict[str, list[Any]]]:
    """Adds (mean, variance) of what comes into each layer, at each call, to a dict by name."""
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
            record.setdefault(name, []).append(values)
            if by_batch:
                return outputs
            return type(layer).call(layer, inputs, training=False)

        return call

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(_replaced(layer, "call", recorder(name, layer)))
        yield record


def _compiled(model: keras.Model, record: dict[str, list[Any]]) -> Callable[[np.ndarray], Any]:
    """Returns a function of images to what the layers recorded, as NumPy arrays."""

    def statistics(images: Tensor) -> dict[str, list[Any]]:
        record.clear()
        model(images, training=False)
        return dict(record)

    run: Any = statistics
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        run = tf.function(statistics, autograph=False)
    elif keras.backend.backend() == "torch":
        import torch

        run = torch.no_grad()(statistics)

    def call(images: np.ndarray) -> dict[str, list[Any]]:
        found = run(ops.convert_to_tensor(images, dtype=model.inputs[0].dtype))
        return {
            name: [[np.float64(ops.convert_to_numpy(v)) for v in each] for each in calls]
            for name, calls in found.items()
        }

    return call


def _assign(layer: Any, calls: list[list[np.ndarray]], model: keras.Model) -> None:
    """Gives a layer the statistics over all calls, each of as many values as the others."""
    if not calls:
        raise ValueError(
            f"Normalization '{layer.name}' of model '{model.name}' takes no part in the model's "
            "outputs: there is nothing to gather."
        )
    means = np.stack([call[0] for call in calls])
    values = [means.mean(0)]
    if len(calls[0]) > 1:
        values.append(np.stack([call[1] for call in calls]).mean(0) + means.var(0))
    if not all(np.isfinite(value).all() for value in values):
        raise ValueError(
            f"The images give normalization '{layer.name}' of model '{model.name}' statistics that "
            "are not finite. Are images or weights NaN or infinite?"
        )
    variables = [layer.moving_mean, getattr(layer, "moving_variance", None)]
    for variable, value in zip(variables, values, strict=False):
        variable.assign(value)
