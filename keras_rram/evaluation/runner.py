"""Carries out tasks: prepares the engine, and the workers, when the first chip needs them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np

from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.engines.choose import Prepared, Workload, prepare
from keras_rram.evaluation.engines.protocol import Answers, Task
from keras_rram.evaluation.engines.workers import Pool
from keras_rram.evaluation.run_folder import Records


class Runner:
    """The engine of a run, here or in workers; a context manager.

    A run that is resumed and has all its chips never prepares an engine.

    Args:
        work: what to evaluate.
        engine: "auto", "keras" or "litert".
        records: where the run's identity is.
        jobs: number of processes.
        parallel: "processes" or "dask".
        scheduler: address of the Dask scheduler.
    """

    def __init__(
        self,
        work: Workload,
        engine: str,
        records: Records,
        jobs: int = 1,
        parallel: str = "processes",
        scheduler: str | None = None,
    ):
        self._work, self._engine, self._records = work, engine, records
        self._jobs, self._parallel, self._scheduler = jobs, parallel, scheduler
        self._prepared: Prepared | None = None
        self._pool: Pool | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "Runner":
        """Starts nothing yet."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends the workers."""
        self._stack.close()

    @property
    def name(self) -> str:
        """The engine and its numbers, "litert float32"."""
        return f"{self._engine} {self._work.quantization}"

    def begin(self, fingerprint: Mapping[str, Any]) -> np.ndarray:
        """Opens the records for chips: of a new run, or of the same evaluation as before.

        Returns:
            Whether the healthy model is right on each image.

        Raises:
            ValueError: if the records are of another evaluation.
        """
        header = self._records.header
        if header is None:
            self._prepare()
        elif self._engine == "auto":
            self._engine = header["fingerprint"]["engine"]
        full = {**fingerprint, "engine": self._engine}
        if self._engine == "keras":
            full["backend"] = keras.backend.backend()
        self._records.check(full)
        fault_free = self._records.fault_free
        if fault_free is None:
            (answers,) = self._prepare().engine.answer([Task(None)])
            fault_free = ChipResult.from_answers(0, 0.0, 0.0, answers.correct)
        self._records.begin(self._work.model.name, full, fault_free)
        if fault_free.answers is None:
            raise ValueError(f"'{self._records.folder}' lacks the healthy model's answers.")
        return fault_free.answers

    def run(self, tasks: list[Task], images: int) -> Iterator[Answers]:
        """Yields the answers of tasks, in order.

        Args:
            tasks: what to evaluate.
            images: typical number of images of a task.
        """
        prepared = self._prepare()
        engine = prepared.engine
        if prepared.recipe is None:
            for start in range(0, len(tasks), engine.group):
                yield from engine.answer(tasks[start : start + engine.group])
            return
        if self._pool is None:
            self._pool = self._stack.enter_context(
                Pool(prepared.recipe, self._jobs, self._parallel, self._scheduler)
            )
        yield from self._pool.run(tasks, images, engine.group)

    def _prepare(self) -> Prepared:
        if self._prepared is None:
            has_workers = self._jobs > 1 or self._parallel == "dask"
            self._prepared = prepare(self._work, self._engine, self._jobs, has_workers)
            self._engine = self._prepared.engine.name
        return self._prepared
