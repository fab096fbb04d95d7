"""Checkpoints from which training goes on exactly: one file, written whole."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_rram.files import read_sealed_npz, write_npz
from keras_rram.files.schemas import CHECKPOINT
from keras_rram.layers.cloning import follow_variables

_HEADER = "__checkpoint__"


@dataclass(frozen=True)
class Restored:
    """Where a checkpoint left off.

    Attributes:
        epoch: number of completed epochs, the `initial_epoch` to go on with.
        history: one record of metrics for each completed epoch.
    """

    epoch: int
    history: tuple[Mapping[str, float], ...]


def strategy_scope(model: keras.Model) -> AbstractContextManager:
    """Returns the scope in which the model's variables live: `tf.distribute` insists on it."""
    strategy = getattr(model, "distribute_strategy", None)  # only TensorFlow's models have one
    return nullcontext() if strategy is None else strategy.scope()


def _unnumbered(text: str) -> str:
    """Drops the counters that Keras appends to automatic names, which differ by process."""
    return re.sub(r"_\d+(?=[/_\"]|$)", "", text)


def _variables(model: keras.Model) -> dict[str, list[Any]]:
    """Returns all state of training: `model.variables` has the random seeds' states as well."""
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"Model '{model.name}' has no optimizer: compile it, with the recipe of the checkpoint."
        )
    if not model.built:
        raise ValueError(f"Model '{model.name}' is not built: call it on an input first.")
    if not model.optimizer.built:
        with strategy_scope(model):
            model.optimizer.build(model.trainable_variables)
    return {"model": list(model.variables), "optimizer": list(model.optimizer.variables)}


def _signature(variables: Sequence[Any], kind: str) -> list[list[Any]]:
    # The path of an optimizer's variable depends on what was in scope when it was built.
    names = [v.path if kind == "model" else v.path.rsplit("/", 1)[-1] for v in variables]
    return [
        [_unnumbered(name), list(variable.shape), str(variable.dtype)]
        for name, variable in zip(names, variables, strict=True)
    ]


def _config_digest(model: keras.Model) -> str | None:
    """Returns a digest of the model's configuration; None for a model without one."""
    try:
        config = model.get_config()
    except NotImplementedError:
        return None
    config.pop("name", None)
    text = json.dumps(config, sort_keys=True, default=lambda value: type(value).__name__)
    return hashlib.sha256(_unnumbered(text).encode()).hexdigest()[:16]


def save_checkpoint(
    model: keras.Model,
    path: str | os.PathLike[str],
    epoch: int,
    history: Sequence[Mapping[str, float]] = (),
    fingerprint: Mapping[str, Any] | None = None,
) -> None:
    """Saves everything that training needs to go on exactly.

    That is: weights and statistics, optimizer variables, the states of all seed generators (which
    a `.keras` file does not hold), the completed epochs and their metrics.

    Args:
        model: a built and compiled model.
        path: `.npz` file to write, whole or not at all.
        epoch: number of completed epochs.
        history: one record of metrics for each of them.
        fingerprint: whatever else must be the same to go on (recipe, data, seed), as values that
            JSON can hold.

    Raises:
        ValueError: if `path` does not end in `.npz`, or if the model is not built or compiled.
    """
    _check_suffix(path)
    variables = _variables(model)
    header = {
        "epoch": epoch,
        "history": [dict(record) for record in history],
        "fingerprint": dict(fingerprint or {}),
        "config": _config_digest(model),
        "signature": {kind: _signature(values, kind) for kind, values in variables.items()},
    }
    arrays = {
        f"{kind}/{index}": _as_numpy(variable)
        for kind, values in variables.items()
        for index, variable in enumerate(values)
    }
    write_npz(path, arrays, _HEADER, CHECKPOINT, header, compressed=False)


def restore_checkpoint(
    model: keras.Model,
    path: str | os.PathLike[str],
    fingerprint: Mapping[str, Any] | None = None,
) -> Restored:
    """Gives a fresh model the state that `save_checkpoint` saved.

    Args:
        model: a built model of the same architecture, compiled with the same recipe.
        path: the file.
        fingerprint: what `save_checkpoint` was given; None skips the comparison.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no checkpoint, or one of another architecture, configuration,
            optimizer or fingerprint. The model is unchanged then.

    Example:

    ```python
    restored = restore_checkpoint(model, "run/checkpoint.npz")
    model.fit(
        dataset.batches(64, seed=0, first_epoch=restored.epoch),
        steps_per_epoch=dataset.steps_per_epoch(64),
        initial_epoch=restored.epoch,
        epochs=20,
    )
    ```
    """
    _check_suffix(path)
    variables = _variables(model)
    header, arrays = read_sealed_npz(path, _HEADER, CHECKPOINT, "a training checkpoint")
    if header is None:
        raise ValueError(f"'{path}' is not a training checkpoint: it has no '{_HEADER}'.")
    for kind, values in variables.items():
        _compare_signatures(header["signature"][kind], _signature(values, kind), kind, path)
    if header["config"] != _config_digest(model):
        raise ValueError(
            f"Checkpoint '{path}' is of a differently configured model: its weights have the same "
            "shapes, but an activation, a drop rate, a seed or the like is another. Build the "
            "model with the arguments of that run."
        )
    if fingerprint is not None:
        _compare_fingerprints(header["fingerprint"], dict(fingerprint), path)
    expected = {f"{kind}/{index}" for kind in variables for index in range(len(variables[kind]))}
    if arrays.keys() != expected:
        raise ValueError(f"'{path}' is damaged: its arrays are not those of its variables.")
    for kind, values in variables.items():
        for index, variable in enumerate(values):
            variable.assign(arrays[f"{kind}/{index}"])
    follow_variables(model)
    return Restored(header["epoch"], tuple(header["history"]))


def _check_suffix(path: str | os.PathLike[str]) -> None:
    if not os.fspath(path).endswith(".npz"):
        raise ValueError(f"A checkpoint is an `.npz` file. Received: path='{path}'")


def _as_numpy(variable: Any) -> np.ndarray:
    values = keras.ops.convert_to_numpy(variable)
    # numpy has no bfloat16 of its own to save, and float32 holds every value of it.
    return values.astype(np.float32) if str(variable.dtype) == "bfloat16" else values


def _compare_signatures(saved: list, current: list, kind: str, path: Any) -> None:
    for index in range(max(len(saved), len(current))):
        old, new = (each[index] if index < len(each) else None for each in (saved, current))
        if old != new:
            texts = [
                "nothing" if entry is None else "{} {} {}".format(*entry) for entry in (old, new)
            ]
            raise ValueError(
                f"Checkpoint '{path}' is of another {kind}: variable {index} is {texts[0]} in the "
                f"file and {texts[1]} here. Build and compile the model as in that run."
            )


def _compare_fingerprints(saved: dict, current: dict, path: Any) -> None:
    current = json.loads(json.dumps(current))  # tuples become lists, as they did in the file
    different = [key for key in saved | current if saved.get(key) != current.get(key)]
    if different:
        details = "; ".join(f"{k}: {saved.get(k)} there, {current.get(k)} here" for k in different)
        raise ValueError(
            f"Checkpoint '{path}' is of another run ({details}). Resume with the settings of that "
            "run, or start anew without it."
        )
