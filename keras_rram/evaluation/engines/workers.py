"""Chips on several processes or machines, through joblib."""

import functools
import itertools
import os
import pickle
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import joblib
import keras

import keras_rram.quiet
from keras_rram.evaluation.engines.protocol import Answers, Engine, Task

# Answers of one message between processes, at least, so that small tasks do not drown in messages.
_ANSWERS = 1000
_MOST_TASKS = 8
_RETRIES = 3
_CONNECT_SECONDS = 10

_engines = threading.local()
# Keras keeps global state while it loads a model.
_loading = threading.Lock()


@functools.cache  # joblib keeps processes from one pool to the next where they began alike
def _quiet_start(parent: int) -> Callable[[], None]:
    """Returns what a process does first: the imports, without their messages on stderr.

    And it watches the process that started it, with which it ends: nobody else would end it where
    that one is killed.

    Args:
        parent: number of that process, which may have ended before the other one can ask.
    """
    path = keras_rram.quiet.__file__

    def start() -> None:
        # A function within a function travels by value: naming one of a module would import the
        # module, and with it Keras, before this can turn the messages away.
        import importlib
        import os
        import runpy
        import threading
        import time

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(0.5)
            os._exit(1)

        if os.name == "posix":  # elsewhere a process keeps the number of a parent that has ended
            threading.Thread(target=watch, name="watch the parent", daemon=True).start()
        with runpy.run_path(path)["held_stderr"]():
            importlib.import_module("keras_rram.evaluation.engines.workers")

    return start


@dataclass(frozen=True, eq=False)
class _Copy:
    """What a worker has its engine from.

    Attributes:
        content: the pickled engine; for processes the path of a file with it, whose arrays they
            map into their memory.
        backend: Keras backend that the worker must have.
        threads: threads of the worker.
        key: identity; a worker builds each one once.
    """

    content: bytes | str
    backend: str
    threads: int
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def engine(self) -> Engine:
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
        if isinstance(self.content, str):
            return joblib.load(self.content, mmap_mode="r")
        return pickle.loads(self.content)


class Pool:
    """Runs tasks on workers and gives back their answers in order; a context manager.

    Args:
        engine: what each worker gets a copy of.
        images: number of test images.
        jobs: number of processes.
        parallel: "processes" on this machine, or "dask".
        scheduler: address of the Dask scheduler, "tcp://host:8786".
        threads: threads of each worker.

    Raises:
        ValueError: if Dask is not installed or its scheduler cannot be reached.
    """

    def __init__(
        self,
        engine: Engine,
        images: int,
        jobs: int,
        parallel: str = "processes",
        scheduler: str | None = None,
        threads: int = 1,
    ):
        self._engine, self._images, self._jobs = engine, images, jobs
        self._parallel, self._scheduler, self._threads = parallel, scheduler, threads
        self._client: Any = None
        self._copy: _Copy | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "Pool":
        """Connects; processes start with the first tasks."""
        content: bytes | str
        if self._parallel == "dask":
            self._client = self._stack.enter_context(_dask_client(self._scheduler))
            content = pickle.dumps(self._engine)
        else:
            # Where an open file cannot be removed, as on Windows, processes still map this one.
            folder = tempfile.TemporaryDirectory(prefix="keras_rram_", ignore_cleanup_errors=True)
            content = os.path.join(self._stack.enter_context(folder), "engine.joblib")
            joblib.dump(self._engine, content)
        self._copy = _Copy(content, keras.backend.backend(), self._threads)
        return self

    def __exit__(self, *error: object) -> None:
        """Disconnects, or removes what the processes share."""
        self._stack.close()

    def answer(self, tasks: Sequence[Task]) -> Iterator[Answers]:
        """Yields the answers of tasks, in order.

        A worker that dies takes nothing with it: its tasks go to others, and where that fails the
        missing ones are sent again.

        Args:
            tasks: what to evaluate; taken as workers become free.
        """
        images = min((_count(task, self._images) for task in tasks), default=1)
        size = max(self._engine.group, min(_MOST_TASKS, _ANSWERS // max(images, 1)), 1)
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

    def _start(self, parts: list[Sequence[Task]]) -> Iterator[list[Answers]]:
        with self._config():
            run = joblib.Parallel(
                n_jobs=self._jobs,
                return_as="generator",
                batch_size=1,
                pre_dispatch="2 * n_jobs",
            )
            results = run(joblib.delayed(_work)(self._copy, part) for part in parts)
        try:
            yield from results
        finally:
            results.close()

    def _config(self) -> Any:
        if self._parallel == "dask":
            # Every worker gets the copy, so that no single one can take it along when it dies.
            return joblib.parallel_config("dask", client=self._client, scatter=[self._copy])
        threads, start = self._threads, _quiet_start(os.getpid())
        return joblib.parallel_config("loky", inner_max_num_threads=threads, initializer=start)


def _work(copy: _Copy, tasks: list[Task]) -> list[Answers]:
    """Answers tasks in a worker, with the engine that it keeps from one call to the next."""
    held = getattr(_engines, "held", None)
    if held is None or held[0] != copy.key:
        with _loading:
            is_process = isinstance(copy.content, str)
            if is_process and threading.current_thread() is threading.main_thread():
                # Ctrl-C reaches the whole process group, and is for the process that collects.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            with keras_rram.quiet.held_stderr() if is_process else nullcontext():
                held = (copy.key, copy.engine())
            _engines.held = held
    return held[1].answer(tasks)


def _count(task: Task, images: int) -> int:
    return images if task.images is None else len(task.images)


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
