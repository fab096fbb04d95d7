"""What callbacks have changed in a model and not yet given back."""

import weakref
from typing import Any

import keras

_CHANGED: "weakref.WeakKeyDictionary[keras.Model, list[keras.callbacks.Callback]]"
_CHANGED = weakref.WeakKeyDictionary()


def has_changed(model: Any, callback: keras.callbacks.Callback) -> None:
    """Notes that a callback has something of a model to give back at the end of training."""
    held = _CHANGED.setdefault(model, [])
    if callback not in held:
        held.append(callback)


def has_given_back(model: Any, callback: keras.callbacks.Callback) -> None:
    """Notes that it has done so."""
    held = _CHANGED.get(model, [])
    if callback in held:
        held.remove(callback)


def give_back(model: Any) -> None:
    """Ends what an error or Ctrl-C has left: Keras then calls no `on_train_end`."""
    for callback in reversed(list(_CHANGED.get(model, []))):
        callback.on_train_end()
