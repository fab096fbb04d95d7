"""Clones of Keras models as functions of their inputs, not as what was trained."""

from typing import Any

import keras


def clone_model(model: keras.Model, **options: Any) -> keras.Model:
    """Returns `keras.models.clone_model(model, **options)`, never compiled.

    Keras compiles a clone as its original was, which needs every loss, metric and optimizer in a
    form that can be read back; a plain function is none.

    Args:
        model: functional or Sequential model, which may hold others.
        options: of the Keras function, say `clone_function`.
    """
    compiled = [
        part for part in model._flatten_layers() if isinstance(part, keras.Model) and part.compiled
    ]
    for part in compiled:
        part.compiled = False
    try:
        return keras.models.clone_model(model, **options)
    finally:
        for part in compiled:
            part.compiled = True


def copied(model: keras.Model) -> keras.Model:
    """Returns a clone with the model's weights, never compiled."""
    twin = clone_model(model)
    twin.set_weights(model.get_weights())
    follow_variables(twin)
    return twin


def follow_variables(model: keras.Model) -> None:
    """Has layers compute with the variables that they were just given.

    `keras.layers.Normalization` derives tensors from its variables when it adapts or is loaded, and
    computes with those: assigning the variables alone leaves its outputs as they were.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
