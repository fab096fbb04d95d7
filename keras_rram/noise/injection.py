"""Noise in the forward pass: read noise at inference, and fault models as noise in training."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.faults import Composed, Fault, FaultModel, StuckAtZero, parse, spec
from keras_rram.faults.composed import in_turn
from keras_rram.layers import faulty_layers
from keras_rram.layers.drop_connect import KernelNoise, WeightNoise, drop_connect
from keras_rram.noise.cells import DRAWS, has_tensors, on_cells

Tensor = Any
InGraph = Callable[[Any, Tensor, Any, Tensor], Fault]


def _stuck_at_zero(model: StuckAtZero, kernel: Tensor, seed: Any, reference: Tensor) -> Fault:
    return Fault(drop_connect(ops.ones_like(kernel, "float32"), model.rate, seed))


def _composed(model: Composed, kernel: Tensor, seed: Any, reference: Tensor) -> Fault:
    drawn = (in_graph(part)(part, kernel, seed, reference) for part in model.models)
    return in_turn(drawn, ops)


# Class of a fault model -> the same in tensors: (model, kernel, seed, stored kernel) -> fault.
# Those of cells are in `keras_rram.noise.cells`.
IN_GRAPH: dict[type, InGraph] = {
    StuckAtZero: _stuck_at_zero,
    Composed: _composed,
}


def in_graph(model: FaultModel) -> InGraph:
    """Returns the form of a fault model that a training step can draw from.

    Raises:
        ValueError: if there is none.
    """
    form = on_cells if has_tensors(model) else IN_GRAPH.get(type(model))
    if form is None or getattr(model, "exact", False):
        raise _not_in_graph(model)
    if isinstance(model, Composed):
        for part in model.models:
            in_graph(part)
    return form


def _not_in_graph(model: Any) -> ValueError:
    known = ", ".join(kind.__name__ for kind in (*IN_GRAPH, *DRAWS))
    return ValueError(
        f"{model} cannot be drawn anew inside a training step; these can, on mappings with analog "
        f"cells and one scale for a kernel: {known}. Program a new chip between steps instead: "
        "keras_rram.FreshChips(fault_model) in `callbacks`."
    )


@keras.saving.register_keras_serializable(package="keras_rram")
class NoiseInjection(KernelNoise):
    """Draws the faults of a fresh chip in every training step, inside the compiled step.

    For independent weights and for cells that fail, vary or drift independently; `FreshChips`
    serves all others. The draws follow the same
    distribution as `FaultModel.sample`, with other random numbers. Gradients pass through the
    faults: where a weight is multiplied, its gradient is, and where it is stuck, it is zero.

    Args:
        fault_model: the fault model, or its text (see `keras_rram.faults.parse`).

    Raises:
        ValueError: if the fault model has no form inside a step.

    Example: 10% dropped and every conductance varied, in every step.

    ```python
    noise = NoiseInjection("lognormal_variation:sigma=0.2")
    model = to_drop_connect(model, DropConnect(0.1, noise=noise))
    ```
    """

    def __init__(self, fault_model: FaultModel | str):
        model: Any = parse(fault_model) if isinstance(fault_model, str) else fault_model
        if not isinstance(model, FaultModel) or isinstance(model, type):
            raise TypeError(f"Expected a fault model or its text. Received: {fault_model!r}")
        self._form = in_graph(model)
        self.fault_model = model

    def noisy(self, kernel: Tensor, seed: Any, reference: Tensor) -> Tensor:
        """Returns the kernel as a fresh chip holds it."""
        if seed is None or isinstance(seed, int):
            # One draw from the next, also where a model draws several times.
            seed = keras.random.SeedGenerator(seed)
        fault = self._form(self.fault_model, kernel, seed, reference)
        return ops.cast(fault.apply(ops.cast(kernel, "float32")), kernel.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the fault model as its text."""
        return {"fault_model": spec(self.fault_model)}


@contextmanager
def read_noise(model: keras.Model, sigma: float | KernelNoise, seed: int = 0) -> Iterator[None]:
    """Adds fresh Gaussian noise to every Drop-Connect layer's kernel in each forward pass.

    Between entering and leaving, each call of the model reads its weights with other noise: one
    draw for all images of a batch. (`keras_rram.hardware.arrays` draws for every image and every
    output position, as an array does.) The model's compiled functions are made anew at both ends.

    Args:
        model: built model with Drop-Connect layers.
        sigma: standard deviation as a share of the layer's largest weight, see `WeightNoise`; or a
            noise of another kind.
        seed: seed of the noise: the same seed, model and batches give the same outputs.

    Raises:
        ValueError: if the model has no Drop-Connect layer, or `sigma` is negative.

    Example:

    ```python
    with chip.program(model), read_noise(model, 0.02, seed=1):
        loss, accuracy = model.evaluate(images, labels)
    ```
    """
    noise = sigma if isinstance(sigma, KernelNoise) else WeightNoise(sigma)
    layers = faulty_layers(model)
    if not layers:
        raise ValueError(
            f"Model '{model.name}' has no Drop-Connect layer whose weights could be read with "
            "noise. Convert it with `to_drop_connect(model, 0.0)`."
        )
    before = {
        name: (layer.read_noise, np.array(ops.convert_to_numpy(layer.seed_generator.state)))
        for name, layer in layers.items()
    }
    reseed(model, seed)
    try:
        for layer in layers.values():
            layer.read_noise = noise
        _forget_compiled(model)
        yield
    finally:
        for name, layer in layers.items():
            layer.read_noise, state = before[name]
            layer.seed_generator.state.assign(state)
        _forget_compiled(model)


def read_noise_of(model: keras.Model) -> dict[str, KernelNoise]:
    """Returns the noise on each layer's reads, by layer name, where there is any."""
    return {
        name: layer.read_noise
        for name, layer in faulty_layers(model).items()
        if layer.read_noise is not None
    }


def reseed(model: keras.Model, *identity: int) -> None:
    """Sets the random state of each Drop-Connect layer from integers and the layer's name alone."""
    for name, layer in faulty_layers(model).items():
        digest = hashlib.sha256("/".join([*map(str, identity), name]).encode()).digest()
        state = layer.seed_generator.state
        # Below 2 ** 31: backends differ in the integers that they hold.
        words = np.frombuffer(digest[:8], "<u4") >> 1
        state.assign(words.astype(keras.backend.standardize_dtype(state.dtype)))


def _forget_compiled(model: keras.Model) -> None:
    model.train_function = model.test_function = model.predict_function = None
