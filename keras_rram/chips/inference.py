"""Inference that is compiled once for all chips, on every Keras backend."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.layers import faulty_layers

Tensor = Any


class ChipInference:
    """A function of what a model answers, compiled once and valid for every chip.

    Masks are variables: programming another chip only assigns them. It is compiled again where a
    fault model has added offsets to the layers.

    Args:
        model: built model.
        function: called as `function(call, batch, *arrays)`, where `call(images)` is the model in
            inference and `batch` an int32 tensor `(n,)` of indices into the arrays.
        arrays: put on the device once.
        group: number of chips side by side; more than one on JAX only.
    """

    def __init__(
        self,
        model: keras.Model,
        function: Callable[..., Any],
        arrays: Sequence[np.ndarray],
        group: int = 1,
    ):
        self._model, self._function, self._group = model, function, group
        self._arrays = [ops.convert_to_tensor(array) for array in arrays]
        self._layers = list(faulty_layers(model).values())
        self._signature: tuple[bool, ...] | None = None
        self.compiled: Callable[..., Any] = self._plain

    def __call__(self, batch: np.ndarray, faults: list[Tensor] | None = None) -> Any:
        """Returns the function's value for the chip that is programmed.

        Args:
            batch: indices `(n,)` into the arrays.
            faults: for a group of chips: what `faults()` gave on each, stacked.
        """
        signature = tuple(bool(layer.fault_offsets) for layer in self._layers)
        if signature != self._signature:
            self.compiled, self._signature = self._compile(), signature
        batch = np.asarray(batch, np.int32)
        if keras.backend.backend() != "jax":
            return self.compiled(batch)
        trainable = [variable.value for variable in self._model.trainable_variables]
        others = [variable.value for variable in self._model.non_trainable_variables]
        faults = self.faults() if faults is None else faults
        return self.compiled(batch, self._arrays, trainable, others, faults)

    def faults(self) -> list[Tensor]:
        """Returns the values of the masks and offsets that are programmed."""
        return [variable.value for variable in self._fault_variables()]

    def _fault_variables(self) -> list[keras.Variable]:
        return [
            variable
            for layer in self._layers
            for variables in (layer.fault_masks, layer.fault_offsets)
            for variable in variables.values()
        ]

    def _plain(self, batch: Tensor) -> Any:
        return self._function(self._call, batch, *self._arrays)

    def _call(self, images: Tensor) -> Tensor:
        return self._model(images, training=False)

    def _compile(self) -> Callable[..., Any]:
        backend = keras.backend.backend()
        if backend == "tensorflow":
            import tensorflow as tf

            batch = tf.TensorSpec([None], tf.int32)
            return tf.function(self._plain, input_signature=[batch], autograph=False)
        if backend == "torch":
            import torch

            return torch.no_grad()(self._plain)
        return self._compiled_jax() if backend == "jax" else self._plain

    def _compiled_jax(self) -> Callable[..., Any]:
        import jax

        variables = self._model.non_trainable_variables
        places = {id(variable): place for place, variable in enumerate(variables)}
        positions = [places[id(variable)] for variable in self._fault_variables()]

        def run(batch, arrays, trainable, others, faults):
            state = list(others)
            for position, value in zip(positions, faults, strict=True):
                state[position] = value

            def call(images):
                return self._model.stateless_call(trainable, state, images, training=False)[0]

            return self._function(call, batch, *arrays)

        if self._group > 1:
            run = jax.vmap(run, in_axes=(None, None, None, None, 0))
        return jax.jit(run)
