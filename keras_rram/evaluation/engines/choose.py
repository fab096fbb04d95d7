"""Which engine evaluates a population, and everything that it and its workers need."""

import logging
import os
from dataclasses import dataclass

import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.evaluation.engines.keras import KerasEngine, Repair
from keras_rram.evaluation.engines.protocol import Engine
from keras_rram.evaluation.engines.workers import Recipe, to_bytes
from keras_rram.layers import faulty_layers

ENGINES = ("auto", "keras", "litert")
QUANTIZATIONS = ("float32", "int8")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Workload:
    """One model on one test set, and how it is to be evaluated.

    Attributes:
        model: built model with Drop-Connect layers.
        images: float array `(n, ...)`.
        labels: integer classes `(n,)`.
        chip: a chip at the largest fault rate, which an engine is verified with.
        quantization: "float32" or "int8".
        calibration: training images for int8.
        repair: see `Repair`.
    """

    model: keras.Model
    images: np.ndarray
    labels: np.ndarray
    chip: Chip
    quantization: str = "float32"
    calibration: np.ndarray | None = None
    repair: Repair | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """An engine in this process, and the recipe for those of workers."""

    engine: Engine
    recipe: Recipe | None = None


def check_choice(
    engine: str, quantization: str, calibration: np.ndarray | None, repair: Repair | None
) -> None:
    """Raises ValueError for options that exclude each other or cannot take effect."""
    for name, value, known in (
        ("engine", engine, ENGINES),
        ("quantization", quantization, QUANTIZATIONS),
    ):
        if value not in known:
            raise ValueError(f"expected {name} as one of {known}. Received: {name}={value!r}")
    if quantization == "int8" and engine == "keras":
        raise ValueError(
            "expected engine='litert' (or 'auto') for quantization='int8': Keras computes in "
            "floats. Received: engine='keras'"
        )
    if (quantization == "int8") != (calibration is not None):
        raise ValueError(
            "expected `calibration`, a few hundred preprocessed training images, with "
            f"quantization='int8' and only then. Received: quantization={quantization!r}, "
            f"calibration {'missing' if calibration is None else 'given'}"
        )
    if repair is not None and engine == "litert":
        raise ValueError(
            "expected engine='keras' (or 'auto') with a repair, which changes more than the bytes "
            "of kernels. Received: engine='litert'"
        )
    if repair is not None and quantization == "int8":
        raise ValueError("expected quantization='float32' with a repair. Received: 'int8'")


def prepare(work: Workload, engine: str, jobs: int, needs_recipe: bool) -> Prepared:
    """Prepares the engine, after choosing one for "auto", and says which.

    Args:
        work: what to evaluate.
        engine: one of `ENGINES`.
        jobs: processes that will share this machine's cores.
        needs_recipe: whether workers will build engines.

    Raises:
        ValueError: if the engine cannot evaluate the model.
    """
    if engine == "auto":
        reason = _why_keras(work)
        if reason is None:
            try:
                prepared = _litert(work, jobs, needs_recipe)
            except (ValueError, NotImplementedError, RuntimeError) as error:
                if work.quantization == "int8":
                    raise
                log.warning("Falling back on the keras engine, which is slower: %s", error)
            else:
                log.info("Engine: litert (TFLite converted once, each chip patched in).")
                return prepared
        else:
            log.info("Engine: keras, %s.", reason)
    elif engine == "litert":
        if reason := _why_only_keras(work):
            raise ValueError(f"expected engine='keras' (or 'auto'), {reason}. Received: 'litert'")
        return _litert(work, jobs, needs_recipe)
    return _keras(work, jobs, needs_recipe)


def _why_keras(work: Workload) -> str | None:
    """Returns why "auto" does not try the litert engine, or None."""
    if reason := _why_only_keras(work):
        if work.quantization == "int8":
            raise ValueError(f"quantization='int8' is not possible, {reason}.")
        return reason
    if work.repair is not None:
        return "since a repair changes more than the bytes of kernels"
    backend = keras.backend.backend()
    if backend != "tensorflow":
        reason = f"since TFLite conversion needs the TensorFlow backend and this is '{backend}'"
        if work.quantization == "int8":
            raise ValueError(f"quantization='int8' is not possible, {reason}.")
        return reason
    import tensorflow as tf

    if work.quantization == "float32" and tf.config.list_physical_devices("GPU"):
        return "since there is a GPU"
    return None


def _why_only_keras(work: Workload) -> str | None:
    """Returns what of a model's inference no TFLite file has, or None."""
    layers = faulty_layers(work.model).values()
    if any(layer.is_analog for layer in layers):
        return "since a TFLite file has no arrays with converters"
    if any(layer.is_noisy for layer in layers):
        return "since a TFLite file has no read noise"
    return None


def _keras(work: Workload, jobs: int, needs_recipe: bool) -> Prepared:
    engine = KerasEngine(work.model, work.images, work.labels, work.repair)
    recipe = None
    if needs_recipe:
        recipe = Recipe(
            engine="keras",
            backend=keras.backend.backend(),
            model=to_bytes(work.model),
            inputs=np.asarray(work.images, np.float32),
            labels=work.labels,
            threads=_threads(jobs),
            repair=work.repair,
        )
    return Prepared(engine, recipe)


def _litert(work: Workload, jobs: int, needs_recipe: bool) -> Prepared:
    from keras_rram.evaluation.engines.litert import LiteRTEngine, convert_once

    converted = convert_once(
        work.model, work.images, work.chip, work.quantization, work.calibration
    )
    recipe = None
    if needs_recipe:
        recipe = Recipe(
            engine="litert",
            backend=keras.backend.backend(),
            model=to_bytes(converted.model),
            inputs=converted.inputs,
            labels=work.labels,
            threads=_threads(jobs),
            patchable=converted.patchable,
        )
    return Prepared(LiteRTEngine(converted, work.labels), recipe)


def _threads(jobs: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // max(jobs, 1))
