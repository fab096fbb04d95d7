"""Evaluates a population of chips: resumable, in parallel, to a wanted precision."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_rram.chips import Chip
from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.choice import Prepared, Workload, check_choice, prepare
from keras_rram.evaluation.engine import Answers, Task, check_data
from keras_rram.evaluation.folds import stratified_folds
from keras_rram.evaluation.keras_engine import Repair
from keras_rram.evaluation.parallel import Pool
from keras_rram.evaluation.progress import Progress
from keras_rram.evaluation.records import Records, array_sha256, model_sha256, read_run
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.stopping import Done, Plan, StopRule
from keras_rram.faults import FaultModel, serialize
from keras_rram.layers import faulty_layers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What `run_population` brought.

    Attributes:
        results: one for each fault rate that has chips, in the order of the rates.
        reasons: why each of them ended, in words that can be printed.
        engine: the engine and its numbers, "litert float32".
        interrupted: whether Ctrl-C ended it early.
    """

    results: tuple[PopulationResult, ...]
    reasons: tuple[str, ...]
    engine: str
    interrupted: bool


def evaluate_population(
    model: keras.Model,
    fault_model: FaultModel,
    chips: int = 100,
    data: tuple[np.ndarray, np.ndarray] | None = None,
    engine: str = "auto",
    seed: int = 0,
    rates: Sequence[float] | None = None,
    **options: Any,
) -> PopulationResult | list[PopulationResult]:
    """Evaluates a model on a population of faulty chips.

    Args:
        model: built classifier with Drop-Connect layers, and outputs `(n, classes)`.
        fault_model: what each chip's faults are drawn from.
        chips: number of chips; with `stop`, at most.
        data: test images `(n, ...)`, preprocessed as for the model, and integer labels `(n,)`.
        engine: "keras" (any backend and model), "litert" (on CPUs, several times faster), or
            "auto", which takes the faster one that can evaluate the model, and says which.
        seed: seed of the population.
        rates: fault rates in `[0, 1)`, instead of the fault model's own. Chips of one index are
            nested where the fault model's draws are: the curve over rates is smooth.
        **options: those of `run_population`.

    Returns:
        The result; a list of results, one for each rate, if `rates` is given. After Ctrl-C they
        hold the chips that were finished, and rates without any are left out.

    Raises:
        ValueError: if an argument does not fit, or if `out` holds a run of something else.
        KeyboardInterrupt: if Ctrl-C comes before the first chip is finished.

    Example:

    ```python
    dataset = keras_rram.data.load("digits")
    result = evaluate_population(model, StuckAtZero(0.1), chips=100, data=dataset.arrays("test"))
    print(result.mean, result.mean_interval(), result.yield_at(0.9))
    ```
    """
    found = run_population(model, fault_model, chips, data, engine, seed, rates, **options)
    return found.results[0] if rates is None else list(found.results)


def run_population(
    model: keras.Model,
    fault_model: FaultModel,
    chips: int = 100,
    data: tuple[np.ndarray, np.ndarray] | None = None,
    engine: str = "auto",
    seed: int = 0,
    rates: Sequence[float] | None = None,
    *,
    first_chip: int = 0,
    repair: Repair | None = None,
    stop: StopRule | float | None = None,
    out: str | None = None,
    resume: bool = False,
    jobs: int = 1,
    parallel: str = "processes",
    scheduler: str | None = None,
    progress: bool = True,
    quantization: str = "float32",
    calibration: np.ndarray | None = None,
) -> Evaluation:
    """Evaluates a population like `evaluate_population`, and says how it went.

    Args:
        model: see `evaluate_population`, likewise the next six.
        fault_model: see there.
        chips: see there.
        data: see there.
        engine: see there.
        seed: see there.
        rates: see there.
        first_chip: index of the first chip. Runs of disjoint chips can be joined, see
            `merge_runs`.
        repair: what is done to each programmed chip before it is evaluated, see `Repair`. Only the
            keras engine can. Its `fingerprint` attribute, or else its name, tells runs apart.
        stop: a half-width of the interval of the mean, or a `StopRule`: chips and images are then
            spent where they narrow it most, and `chips` is the cap.
        out: folder for `run.json` and `chips.jsonl`, which gets a line after each chip.
        resume: go on with the run in `out`, or begin one.
        jobs: number of processes; -1 for one on each core.
        parallel: "processes" or "dask".
        scheduler: address of the Dask scheduler; it decides on the number of workers.
        progress: whether to show a bar with the accuracy so far and the time left.
        quantization: "float32", or "int8" for the numbers of a deployed file.
        calibration: training images for int8, see `keras_rram.export.convert`.
    """
    images, labels = _check_data(model, data)
    jobs = _check_parallel(jobs, parallel, scheduler)
    check_choice(engine, quantization, calibration, repair)
    models = _at_rates(fault_model, rates)
    rule = _rule(stop, chips, len(labels))
    largest = max(models, key=lambda one: one.rate)
    probe = Chip(largest, seed, int(np.random.default_rng(seed).integers(1 << 20, 1 << 31)))
    work = Workload(model, images, labels, probe, quantization, calibration, repair)
    fingerprint = {
        "model": model_sha256(model),
        "data": array_sha256(images, labels),
        "images": len(labels),
        "fault_model": _without_rate(fault_model),
        "seed": seed,
        "quantization": quantization,
        "repair": _describe(repair),
        "stop": None if rule is None else {**asdict(rule), "first_chip": first_chip},
    }
    if calibration is not None:
        fingerprint["calibration"] = array_sha256(np.asarray(calibration))
        if any(layer.drop_connect.rescale for layer in faulty_layers(model).values()):
            fingerprint["largest_rate"] = largest.rate  # its scale is in the int8 file
    indices = range(first_chip, first_chip + _check_count(chips, first_chip))
    with ExitStack() as stack:
        records = Records(out, resume)
        stack.callback(records.close)
        runner = _Runner(work, engine, jobs, parallel, scheduler, records, stack)
        runner.begin(fingerprint)
        bar = stack.enter_context(Progress(progress, len(models)))
        runs = [_Rate(runner, one, indices, rule, bar) for one in models]
        interrupted = False
        try:
            for run in runs:
                run.finish()
        except KeyboardInterrupt:
            interrupted = True
        done = [run for run in runs if records.chips(run.rate)]
        if not done:
            raise KeyboardInterrupt
        results = tuple(run.result() for run in done)
    if interrupted:
        log.warning("Interrupted: the results hold the chips that were finished.")
    return Evaluation(results, tuple(run.reason for run in done), runner.name, interrupted)


def load_run(folder: str) -> list[PopulationResult]:
    """Reads the results in the folder of a run, one for each fault rate.

    Args:
        folder: `out` of an evaluation without a stop rule, or of `merge_runs`.

    Raises:
        ValueError: if there is no run, or one with a stop rule: its interval depends on all its
            looks, so evaluate it again with `resume=True`, which repeats nothing.
    """
    records = read_run(folder)
    header = records.header or {}
    found = header["fingerprint"]
    if found["stop"] is not None:
        raise ValueError(
            f"'{folder}' was ended by a stop rule: call evaluate_population(..., resume=True)."
        )
    return [
        _result(records, tuple(records.chips(rate).values()), rate, None) for rate in records.rates
    ]


class _Runner:
    """Prepares engine and workers when the first chip needs them, and carries out tasks."""

    def __init__(
        self,
        work: Workload,
        engine: str,
        jobs: int,
        parallel: str,
        scheduler: str | None,
        records: Records,
        stack: ExitStack,
    ):
        self.work, self.records = work, records
        self._engine, self._jobs = engine, jobs
        self._parallel, self._scheduler, self._stack = parallel, scheduler, stack
        self._prepared: Prepared | None = None
        self._pool: Pool | None = None

    @property
    def name(self) -> str:
        return f"{self._engine} {self.work.quantization}"

    def begin(self, fingerprint: dict[str, Any]) -> None:
        """Opens the records, after making sure that they are of the same evaluation."""
        header = self.records.header
        if header is not None:
            if self._engine == "auto":
                self._engine = header["fingerprint"]["engine"]
            fault_free = self.records.fault_free
        else:
            self._prepare()
            fault_free = None
        fingerprint = {**fingerprint, "engine": self._engine}
        if self._engine == "keras":
            fingerprint["backend"] = keras.backend.backend()
        self.records.check(fingerprint)
        if fault_free is None:
            (answers,) = self._prepare().engine.answer([Task(None)])
            fault_free = ChipResult.from_answers(0, 0.0, 0.0, answers.correct)
        self.records.begin(self.work.model.name, fingerprint, fault_free)

    def run(self, tasks: list[Task], images: int) -> Iterator[Answers]:
        """Yields the answers of tasks, in order."""
        engine, recipe = self._prepare().engine, self._prepare().recipe
        if recipe is None:
            for start in range(0, len(tasks), engine.group):
                yield from engine.answer(tasks[start : start + engine.group])
            return
        if self._pool is None:
            self._pool = self._stack.enter_context(
                Pool(recipe, self._jobs, self._parallel, self._scheduler)
            )
        yield from self._pool.run(tasks, images, engine.group)

    def _prepare(self) -> Prepared:
        if self._prepared is None:
            has_workers = self._jobs > 1 or self._parallel == "dask"
            self._prepared = prepare(self.work, self._engine, self._jobs, has_workers)
            self._engine = self._prepared.engine.name
        return self._prepared


class _Rate:
    """The chips of one fault rate: what is missing, and what they say."""

    def __init__(
        self,
        runner: _Runner,
        fault_model: FaultModel,
        indices: range,
        rule: StopRule | None,
        bar: Progress,
    ):
        self._runner, self._fault_model, self._indices = runner, fault_model, indices
        self._rule, self._bar = rule, bar
        self._done: Done | None = None
        self._cuts: dict[int, list[np.ndarray]] = {}
        self.rate = float(fault_model.rate)
        self.reason = "interrupted"

    def finish(self) -> None:
        """Evaluates what is missing, look by look where there is a stop rule."""
        if self._rule is None:
            self._evaluate(Plan(len(self._indices), 1, self._total, 1, 0.0, 0.0))
            self.reason = f"all {len(self._indices)} chips on all images"
            return
        plan = self._rule.first_plan()
        while True:
            self._evaluate(plan)
            answers = [self._answers(self._recorded[index], plan.folds) for index in self._of(plan)]
            found = self._rule.next(plan, answers)
            if isinstance(found, Done):
                self._done, self.reason = found, found.reason
                return
            plan = found

    def result(self) -> PopulationResult:
        """Returns what the chips say, those of an interrupted look on their common images."""
        chips = [self._recorded[index] for index in self._indices if index in self._recorded]
        folds = max(chip.folds for chip in chips)
        alike = tuple(
            chip if chip.folds == folds else self._reduced(chip, folds) for chip in chips
        )
        interval = None if self._done is None else self._done.interval
        return _result(self._runner.records, alike, self.rate, interval)

    @property
    def _total(self) -> int:
        return len(self._runner.work.labels)

    @property
    def _recorded(self) -> dict[int, ChipResult]:
        return self._runner.records.chips(self.rate)

    def _of(self, plan: Plan) -> range:
        return self._indices[: plan.chips]

    def _evaluate(self, plan: Plan) -> None:
        """Evaluates every chip of a plan on the images of its fold that it has not yet seen."""
        jobs = []
        for number, index in enumerate(self._of(plan)):
            known = self._recorded.get(index)
            if known is None or known.folds > plan.folds:
                jobs.append((index, plan.fold(number), known))
        seed = self._runner.records_seed
        tasks = [
            Task(Chip(self._fault_model, seed, index), self._missing(known, plan.folds, fold))
            for index, fold, known in jobs
        ]
        self._bar.start(self.rate, self._recorded.values(), len(jobs))
        if not jobs:
            return
        answered = self._runner.run(tasks, plan.images_per_chip)
        for (index, fold, known), task, answers in zip(jobs, tasks, answered, strict=True):
            correct = answers.correct
            if known is not None:
                correct = self._joined(known, task.images, correct, plan.folds, fold)
            chip = ChipResult.from_answers(
                index, self.rate, answers.fault_rate, correct, fold, plan.folds
            )
            self._runner.records.add(chip)
            self._bar.add(chip)

    def _images(self, folds: int, fold: int) -> np.ndarray:
        if folds not in self._cuts:
            healthy = self._runner.records.fault_free
            right = None if healthy is None else healthy.answers
            # What the healthy model gets wrong is a stratum of its own.
            strata = 2 * self._runner.work.labels + (0 if right is None else right)
            seed = self._runner.records_seed
            self._cuts[folds] = stratified_folds(strata, self._total // folds, seed)
        return self._cuts[folds][fold]

    def _missing(self, known: ChipResult | None, folds: int, fold: int) -> np.ndarray | None:
        if known is None:
            return None if folds == 1 else self._images(folds, fold)
        return np.setdiff1d(self._images(folds, fold), self._images(known.folds, known.fold))

    def _joined(
        self, known: ChipResult, images: np.ndarray, correct: np.ndarray, folds: int, fold: int
    ) -> np.ndarray:
        everything = np.zeros(self._total, bool)
        everything[self._images(known.folds, known.fold)] = known.answers
        everything[images] = correct
        return everything[self._images(folds, fold)]

    def _answers(self, chip: ChipResult, folds: int) -> np.ndarray:
        """Returns a chip's answers on its fold of a cut that may be finer than its own."""
        if chip.folds == folds:
            return chip.answers
        fold = (chip.index - self._indices[0]) // 2 % folds
        own = self._images(chip.folds, chip.fold)
        return chip.answers[np.searchsorted(own, self._images(folds, fold))]

    def _reduced(self, chip: ChipResult, folds: int) -> ChipResult:
        fold = (chip.index - self._indices[0]) // 2 % folds
        return ChipResult.from_answers(
            chip.index,
            chip.fault_rate,
            chip.achieved_fault_rate,
            self._answers(chip, folds),
            fold,
            folds,
        )
