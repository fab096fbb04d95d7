"""Which engine evaluates a population, here or in workers."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import joblib
import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.evaluation.engines.keras import KerasEngine
from keras_rram.evaluation.engines.protocol import QUANTIZATIONS, Answers, Engine, Task
from keras_rram.evaluation.engines.workers import Pool
from keras_rram.evaluation.measure import Measure
from keras_rram.layers import faulty_layers
from keras_rram.repair import Repair, RepairStep

ENGINES = ("auto", "keras", "litert")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Workload:
    """One model on one test set, and how it is to be evaluated.

    Attributes:
        model: built model with Drop-Connect layers.
        images: float array `(n, ...)`.
        labels: integer classes `(n,)`, or what the measure takes.
        chip: a chip at the largest fault rate, which an engine is verified with.
        quantization: "float32" or "int8".
        calibration: training images for int8.
        repair: see `keras_rram.repair.Repair`.
        measure: what scores outputs; None: right or wrong by the largest of several.
    """

    model: keras.Model
    images: np.ndarray
    labels: Any
    chip: Chip
    quantization: str = "float32"
    calibration: np.ndarray | None = None
    repair: Repair | None = None
    measure: Measure | None = None


class RunEngine:
    """The engine of a run, here or in workers; a context manager.

    It is opened when the first chip needs it: a run that is resumed and has all its chips opens
    none, and where `engine` is "auto" none is chosen.

    Args:
        work: what to evaluate.
        engine: one of `ENGINES`.
        jobs: number of processes.
        parallel: "processes" or "dask".
        scheduler: address of the Dask scheduler.
    """

    def __init__(
        self,
        work: Workload,
        engine: str = "auto",
        jobs: int = 1,
        parallel: str = "processes",
        scheduler: str | None = None,
    ):
        self._work, self._engine = work, engine
        self._jobs, self._parallel, self._scheduler = jobs, parallel, scheduler
        self._here: Engine | None = None
        self._pool: Pool | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "RunEngine":
        """Starts nothing yet."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends the workers."""
        self._stack.close()

    @property
    def name(self) -> str:
        """Name of the engine."""
        return self._open().name if self._engine == "auto" else self._engine

    def fault_free(self, repaired: bool = False) -> np.ndarray:
        """Returns whether the fault-free model is right on each image, as it is or repaired."""
        (answers,) = self._open().answer([Task(None, repaired=repaired)])
        return answers.correct

    def answer(self, tasks: Sequence[Task]) -> Iterator[Answers]:
        """Yields the answers of tasks, in order."""
        here = self._open()
        if self._jobs == 1 and self._parallel == "processes":
            for start in range(0, len(tasks), here.group):
                yield from here.answer(tasks[start : start + here.group])
            return
        if self._pool is None:
            pool = Pool(here, len(self._work.images), *self._place(), self._threads)
            self._pool = self._stack.enter_context(pool)
        yield from self._pool.answer(tasks)

    def _place(self) -> tuple[int, str, str | None]:
        return self._jobs, self._parallel, self._scheduler

    @property
    def _threads(self) -> int:
        return max(1, joblib.cpu_count() // self._jobs)

    def _open(self) -> Engine:
        if self._here is None:
            self._here = open_engine(self._work, self._engine, self._threads)
        return self._here


def open_engine(work: Workload, engine: str = "auto", threads: int | None = None) -> Engine:
    """Prepares an engine, after choosing one for "auto", and says which.

    Args:
        work: what to evaluate.
        engine: one of `ENGINES`.
        threads: threads that it may use; defaults to the cores of this process.

    Raises:
        ValueError: if the engine cannot evaluate the model.
    """
    check_choice(work, engine)
    reason = _why_keras(work) if engine == "auto" else None
    if reason is not None:
        log.info("Engine: keras, %s.", reason)
    elif engine != "keras":
        try:
            opened = _litert(work, threads)
        except (ValueError, NotImplementedError, RuntimeError) as error:
            if engine == "litert" or work.quantization == "int8":
                raise
            log.warning("Falling back on the keras engine, which is slower: %s", error)
        else:
            log.info("Engine: litert (TFLite converted once, each chip patched in).")
            return opened
    return KerasEngine(work.model, work.images, work.labels, work.repair, measure=work.measure)


def check_choice(work: Workload, engine: str) -> None:
    """Raises ValueError for options that exclude each other or cannot take effect."""
    is_int8, has_calibration = work.quantization == "int8", work.calibration is not None
    for name, value, known in (
        ("engine", engine, ENGINES),
        ("quantization", work.quantization, QUANTIZATIONS),
    ):
        if value not in known:
            raise ValueError(f"expected {name} as one of {known}. Received: {name}={value!r}")
    if is_int8 and engine == "keras":
        raise ValueError(
            "expected engine='litert' (or 'auto') for quantization='int8': Keras computes in "
            "floats. Received: engine='keras'"
        )
    if is_int8 != has_calibration:
        raise ValueError(
            "expected `calibration`, a few hundred preprocessed training images, with "
            f"quantization='int8' and only then. Received: quantization={work.quantization!r}, "
            f"calibration {'given' if has_calibration else 'missing'}"
        )
    reason = _why_not_litert(work)
    if reason is not None and engine == "litert":
        raise ValueError(f"expected engine='keras' (or 'auto'), {reason}. Received: 'litert'")
    if reason is not None and is_int8:
        raise ValueError(f"quantization='int8' is not possible, {reason}.")


def _why_not_litert(work: Workload) -> str | None:
    """Returns what no TFLite file can do of the work, or None."""
    layers = faulty_layers(work.model).values()
    if any(layer.is_analog for layer in layers):
        return "since a TFLite file has no arrays with converters"
    if any(layer.is_noisy for layer in layers):
        return "since a TFLite file has no read noise"
    if len(getattr(work.model, "outputs", None) or []) != 1:
        return "since a TFLite file of chips takes a graph of layers with one output"
    if (backend := keras.backend.backend()) != "tensorflow":
        return f"since TFLite conversion needs the TensorFlow backend and this is '{backend}'"
    return None


def _why_keras(work: Workload) -> str | None:
    """Returns why "auto" does not try the litert engine, or None."""
    if (reason := _why_not_litert(work)) or work.quantization == "int8":
        return reason
    if work.repair is not None and not isinstance(work.repair, RepairStep):
        return "since what a repair of your own changes may have no place in a file"
    import tensorflow as tf

    return "since there is a GPU" if tf.config.list_physical_devices("GPU") else None


def _litert(work: Workload, threads: int | None) -> Engine:
    from keras_rram.evaluation.engines.litert import LiteRTEngine, convert_once

    converted = convert_once(
        work.model, work.images, work.chip, work.quantization, work.calibration, work.repair
    )
    return LiteRTEngine(converted, work.labels, threads, work.measure)
