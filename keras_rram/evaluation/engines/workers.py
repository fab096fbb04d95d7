"""Chips on several processes or machines, through joblib."""

import itertools
import os
import pathlib
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import joblib
import keras
import numpy as np

import keras_rram.quiet
from keras_rram.chips.chip import erase
from keras_rram.evaluation.engines.keras import KerasEngine, Repair
from keras_rram.evaluation.engines.protocol import Answers, Engine, Task

# Answers of one message between processes, at least, so that small tasks do not drown in messages.
_ANSWERS = 1000
_MOST_TASKS = 8
_RETRIES = 3
_CONNECT_SECONDS = 10

_engines = threading.local()
# Keras keeps global state while it loads a model.
_loading = threading.Lock()


def _quiet_start() -> Callable[[], None]:
    """Returns what a process does first: the imports, without their messages on stderr."""
    path = keras_rram.quiet.__file__

    def start() -> None:
        # A function within a function travels by value: naming one of a module would import the
        # module, and with it Keras, before this can turn the messages away.
        import importlib
        import runpy

        with runpy.run_path(path)["held_stderr"]():
            importlib.import_module("keras_rram.evaluation.engines.workers")

    return start


# One object: joblib keeps processes from one pool to the next where they began alike.
_START = _quiet_start()


@dataclass(frozen=True, eq=False)
class Recipe:
    """Plain values from which a worker builds its engine.

    Attributes:
        engine: "keras" or "litert".
        backend: Keras backend that the worker must have.
        model: the bytes of a `.keras` file.
        inputs: test images, or what the clean layers make of them.
        labels: integer classes.
        threads: threads of the worker.
        repair: for the keras engine.
        patchable: the converted model, for the litert engine.
        key: identity of the recipe; a worker builds each one once.
    """

    engine: str
    backend: str
    model: bytes
    inputs: np.ndarray
    labels: np.ndarray
    threads: int = 1
    repair: Repair | None = None
    patchable: Any = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def build(self) -> Engine:
        """Builds the engine in the process of a worker.

        Raises:
            RuntimeError: if the worker runs Keras on another backend.
        """
        if keras.backend.backend() != self.backend:
            raise RuntimeError(
                f"A worker runs Keras on '{keras.backend.backend()}', expected '{self.backend}': "
                "set KERAS_BACKEND for the workers."
            )
        _limit_threads(self.threads)
        model = _from_bytes(self.model)
        if self.engine == "keras":
            return KerasEngine(model, self.inputs, self.labels, self.repair)
        from keras_rram.evaluation.engines.litert import Converted, LiteRTEngine

        converted = Converted(model, self.patchable, self.inputs)
        return LiteRTEngine(converted, self.labels, self.threads)


def to_bytes(model: keras.Model) -> bytes:
    """Returns a model, as trained and free of faults, as the bytes of a `.keras` file."""
    with tempfile.TemporaryDirectory() as folder, erase(model):
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def _from_bytes(content: bytes) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        path.write_bytes(content)
        return keras.models.load_model(path, compile=False)


class Pool:
    """Runs tasks on workers and gives back their answers in order; a context manager.

    Args:
        recipe: of the workers' engines.
        jobs: number of processes.
        parallel: "processes" on this machine, or "dask".
        scheduler: address of the Dask scheduler, "tcp://host:8786".

    Raises:
        ValueError: if Dask is not installed or its scheduler cannot be reached.
    """

    def __init__(
        self, recipe: Recipe, jobs: int, parallel: str = "processes", scheduler: str | None = None
    ):
        self._recipe, self._jobs, self._parallel = recipe, jobs, parallel
        self._scheduler = scheduler
        self._client: Any = None
        self._stack = ExitStack()
        self._payload: Any = recipe

    def __enter__(self) -> "Pool":
        """Connects; processes start with the first tasks."""
        if self._parallel == "dask":
            self._client = self._stack.enter_context(_dask_client(self._scheduler))
        else:
            # One file for all processes, which map its arrays into their memory.
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="keras_rram_"))
            self._payload = os.path.join(folder, "recipe.joblib")
            joblib.dump(self._recipe, self._payload)
        return self

    def __exit__(self, *error: object) -> None:
        """Disconnects, or removes what the processes share."""
        self._stack.close()

    def run(self, tasks: Iterable[Task], images: int, group: int = 1) -> Iterator[Answers]:
        """Yields the answers of tasks, in order.

        A worker that dies takes nothing with it: its tasks go to others, and where that fails the
        missing ones are sent again.

        Args:
            tasks: what to evaluate; taken as workers become free.
            images: typical number of images of a task.
            group: number of tasks that an engine likes to get at once.
        """
        tasks = list(tasks)
        size = max(group, min(_MOST_TASKS, _ANSWERS // max(images, 1)), 1)
        done = 0
        for attempt in itertools.count(1):
            rest = [tasks[start : start + size] for start in range(done, len(tasks), size)]
            try:
                for answers in self._start(rest):
                    yield from answers
                    done += len(answers)
                return
            except Exception as error:
                if attempt > _RETRIES or not _is_lost_worker(error):
                    raise

    def _start(self, parts: list[list[Task]]) -> Iterator[list[Answers]]:
        with self._config():
            run = joblib.Parallel(
                n_jobs=self._jobs,
                return_as="generator",
                batch_size=1,
                pre_dispatch="2 * n_jobs",
            )
            results = run(joblib.delayed(_work)(self._payload, part) for part in parts)
        try:
            yield from results
        finally:
            results.close()

    def _config(self) -> Any:
        if self._parallel == "dask":
            # Every worker gets the recipe, so that no single one can take it along when it dies.
            return joblib.parallel_config("dask", client=self._client, scatter=[self._recipe])
        threads = self._recipe.threads
        return joblib.parallel_config("loky", inner_max_num_threads=threads, initializer=_START)


def _work(payload: Any, tasks: list[Task]) -> list[Answers]:
    """Answers tasks in a worker, with the engine that it keeps from one call to the next."""
    held = getattr(_engines, "held", None)
    # The path of a pool's file is new for each pool; a recipe comes with its key.
    key = payload if isinstance(payload, str) else payload.key
    if held is None or held[0] != key:
        with _loading:
            is_process = isinstance(payload, str)
            recipe = joblib.load(payload, mmap_mode="r") if is_process else payload
            if is_process and threading.current_thread() is threading.main_thread():
                # Ctrl-C reaches the whole process group, and is for the process that collects.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            with keras_rram.quiet.held_stderr() if is_process else nullcontext():
                held = (key, recipe.build())
            _engines.held = held
    return held[1].answer(tasks)


def _limit_threads(threads: int) -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Too late if this process computed before: it then keeps what it has.
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            return
    elif keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(threads)


def _dask_client(scheduler: str | None) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("parallel='dask' needs Dask: pip install 'dask[distributed]'.") from None
    if not scheduler:
        raise ValueError(
            "parallel='dask' needs the address of its scheduler: scheduler='tcp://host:8786' "
            "(--scheduler)."
        )
    try:
        return Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except OSError as error:
        raise ValueError(f"No Dask scheduler answers at '{scheduler}': {error}") from None


def _is_lost_worker(error: Exception) -> bool:
    """Whether an error says that a worker is gone, rather than that its work failed."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(
        names
        & {
            "TerminatedWorkerError",
            "BrokenProcessPool",
            "KilledWorker",
            "CancelledError",
            "FutureCancelledError",
            "CommClosedError",
        }
    )
