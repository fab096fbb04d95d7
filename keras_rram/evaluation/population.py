"""Evaluates a population of chips: resumable, in parallel, to a wanted precision."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.evaluation.arguments import (
    at_rates,
    check_data,
    check_indices,
    check_parallel,
    stop_rule,
)
from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.engines.choose import Workload, check_choice
from keras_rram.evaluation.engines.keras import Repair
from keras_rram.evaluation.fingerprint import (
    array_sha256,
    describe_repair,
    model_sha256,
    without_rate,
)
from keras_rram.evaluation.folded import FoldedImages
from keras_rram.evaluation.progress import Progress
from keras_rram.evaluation.rate_run import RateRun
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.run_folder import Records, read_run
from keras_rram.evaluation.runner import Runner
from keras_rram.evaluation.statistics.intervals import Interval
from keras_rram.evaluation.statistics.stopping import StopRule
from keras_rram.faults import FaultModel, at_rate, deserialize, serialize
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
    dataset = keras_rram.data.sources.load("digits")
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
    indices = check_indices(chips, first_chip, seed)
    images, labels = check_data(model, data)
    jobs = check_parallel(jobs, parallel, scheduler)
    check_choice(engine, quantization, calibration, repair)
    models = at_rates(fault_model, rates)
    rule = stop_rule(stop, chips, len(labels))
    largest = max(models, key=lambda one: one.rate)
    probe = Chip(largest, seed, int(np.random.default_rng(seed).integers(1 << 20, 1 << 31)))
    work = Workload(model, images, labels, probe, quantization, calibration, repair)
    fingerprint = {
        "model": model_sha256(model),
        "data": array_sha256(images, labels),
        "images": len(labels),
        "fault_model": without_rate(fault_model),
        "seed": seed,
        "quantization": quantization,
        "repair": describe_repair(repair),
        "stop": None if rule is None else {**asdict(rule), "first_chip": first_chip},
    }
    if calibration is not None:
        fingerprint["calibration"] = array_sha256(np.asarray(calibration))
        if any(layer.drop_connect.rescale for layer in faulty_layers(model).values()):
            fingerprint["largest_rate"] = largest.rate  # its scale is in the int8 file
    with (
        closing(Records(out, resume)) as records,
        Runner(work, engine, records, jobs, parallel, scheduler) as runner,
        Progress(progress) as bar,
    ):
        healthy = runner.begin(fingerprint)
        folds = FoldedImages(labels, healthy, seed, first_chip)
        runs = [RateRun(one, seed, indices, folds, rule) for one in models]
        interrupted = False
        try:
            for run in runs:
                run.finish(runner, records, bar)
        except KeyboardInterrupt:
            interrupted = True
        found = [run for run in runs if run.chips(records)]
        if not found:
            raise KeyboardInterrupt
        results = tuple(
            _result(records, run.rate, run.chips(records), run.interval) for run in found
        )
    if interrupted:
        log.warning("Interrupted: the results hold the chips that were finished.")
    return Evaluation(results, tuple(run.reason for run in found), runner.name, interrupted)


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
    return [_result(records, rate, tuple(records.chips(rate).values())) for rate in records.rates]


def _result(
    records: Records, rate: float, chips: tuple[ChipResult, ...], interval: Interval | None = None
) -> PopulationResult:
    header, fault_free = records.header, records.fault_free
    if header is None or fault_free is None:
        raise ValueError(f"'{records.folder}' holds no run.")
    fingerprint = header["fingerprint"]
    described = fingerprint["fault_model"]
    described = _at_rate(described, rate)
    return PopulationResult(
        model=fingerprint["model"],
        data=fingerprint["data"],
        fault_model=described,
        rate=rate,
        seed=fingerprint["seed"],
        engine=f"{fingerprint['engine']} {fingerprint['quantization']}",
        fault_free=fault_free.accuracy,
        chips=chips,
        repair=fingerprint["repair"],
        name=header["name"],
        stop_interval=interval,
    )


def _at_rate(described: dict[str, Any], rate: float) -> dict[str, Any]:
    """Returns the description of a fault model at the rate of its results."""
    if "rate" in described["config"]:
        return {**described, "config": {**described["config"], "rate": rate}}
    try:
        model = deserialize(described)
    except ValueError:
        return described  # a user's own class
    return described if float(model.rate) == rate else serialize(at_rate(model, rate))
