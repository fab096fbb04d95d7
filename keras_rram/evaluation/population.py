"""Evaluates a population of chips: resumable, in parallel, to a wanted precision."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import joblib
import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.data import as_arrays, check_images, check_labels
from keras_rram.evaluation.engines.choose import RunEngine, Workload, check_choice
from keras_rram.evaluation.fingerprint import model_sha256, text_without_rate
from keras_rram.evaluation.progress import Progress
from keras_rram.evaluation.rate_run import FoldedImages, RateRun
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.run_folder import Records, run_header
from keras_rram.evaluation.statistics.stopping import StopRule
from keras_rram.faults import FaultModel, at_rate
from keras_rram.files import array_sha256
from keras_rram.layers import faulty_layers
from keras_rram.repair import Repair, access_tier, describe_repair

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RateCurve:
    """One population at each of several fault rates, of the same chips; iterable.

    Attributes:
        results: one for each fault rate that has chips, in the order of the rates.
        engine: the engine and its numbers, "litert float32".
        interrupted: whether Ctrl-C ended it early.
    """

    results: tuple[PopulationResult, ...]
    engine: str
    interrupted: bool

    def __iter__(self) -> Iterator[PopulationResult]:
        """Goes through the results."""
        return iter(self.results)


def evaluate_population(
    model: keras.Model,
    fault_model: FaultModel,
    data: tuple[np.ndarray, np.ndarray],
    chips: int = 100,
    *,
    seed: int = 0,
    first_chip: int = 0,
    engine: str = "auto",
    quantization: str = "float32",
    calibration: np.ndarray | None = None,
    repair: Repair | None = None,
    stop: StopRule | float | None = None,
    out: str | None = None,
    resume: bool = False,
    jobs: int = 1,
    parallel: str = "processes",
    scheduler: str | None = None,
    progress: bool = True,
) -> PopulationResult:
    """Evaluates a model on a population of faulty chips.

    Args:
        model: built classifier with Drop-Connect layers, and outputs `(n, classes)`.
        fault_model: what each chip's faults are drawn from.
        data: test images `(n, ...)`, preprocessed as for the model, and integer labels `(n,)`; or
            a `tf.data.Dataset` or `keras.utils.PyDataset` of them, see `keras_rram.data.as_arrays`.
        chips: number of chips; with `stop`, at most.
        seed: seed of the population.
        first_chip: index of the first chip. Runs of disjoint chips can be joined, see
            `merge_runs`.
        engine: "keras" (any backend and model), "litert" (on CPUs, several times faster), or
            "auto", which takes the faster one that can evaluate the model, and says which.
        quantization: "float32", or "int8" for the numbers of a deployed file.
        calibration: training images for int8, see `keras_rram.export.convert`.
        repair: what is done to each programmed chip before it is evaluated, and to the fault-free
            model beside, see `keras_rram.repair.Repair`. Only the keras engine can.
        stop: a half-width of the interval of the mean, or a `StopRule`: chips and images are then
            spent where they narrow it most, and `chips` is the cap.
        out: folder for `run.json` and `chips.jsonl`, which gets a line after each chip.
        resume: go on with the run in `out`, or begin one.
        jobs: number of processes; -1 for one on each core.
        parallel: "processes" or "dask".
        scheduler: address of the Dask scheduler; it decides on the number of workers.
        progress: whether to show a bar with the accuracy so far and the time left.

    Returns:
        The result. After Ctrl-C it holds the chips that were finished.

    Raises:
        ValueError: if an argument does not fit, or if `out` holds a run of something else.
        KeyboardInterrupt: if Ctrl-C comes before the first chip is finished.

    Example:

    ```python
    dataset = keras_rram.data.load("digits")
    result = evaluate_population(model, StuckAtZero(0.1), dataset.arrays("test"), chips=100)
    print(result.mean, result.mean_interval(), result.yield_at(0.9))
    ```
    """
    (result,) = evaluate_rates(
        model, fault_model, None, data, chips, seed=seed, first_chip=first_chip, engine=engine,
        quantization=quantization, calibration=calibration, repair=repair, stop=stop, out=out,
        resume=resume, jobs=jobs, parallel=parallel, scheduler=scheduler, progress=progress,
    )  # fmt: skip
    return result


def evaluate_rates(
    model: keras.Model,
    fault_model: FaultModel,
    rates: Sequence[float] | None,
    data: tuple[np.ndarray, np.ndarray],
    chips: int = 100,
    *,
    seed: int = 0,
    first_chip: int = 0,
    engine: str = "auto",
    quantization: str = "float32",
    calibration: np.ndarray | None = None,
    repair: Repair | None = None,
    stop: StopRule | float | None = None,
    out: str | None = None,
    resume: bool = False,
    jobs: int = 1,
    parallel: str = "processes",
    scheduler: str | None = None,
    progress: bool = True,
) -> RateCurve:
    """Evaluates a model on the same chips at several fault rates, like `evaluate_population`.

    Chips of one index are nested where the fault model's draws are: the curve over rates is smooth.

    Args:
        model: see `evaluate_population`, likewise all that is not listed here.
        fault_model: what each chip's faults are drawn from, at these rates.
        rates: fault rates in `[0, 1)`, each once; None for the fault model's own.
        data: see there.
        chips: number of chips at each rate; with `stop`, at most.
        seed: see there.
        first_chip: see there.
        engine: see there.
        quantization: see there.
        calibration: see there.
        repair: see there.
        stop: see there; it decides at each rate.
        out: one folder for all rates.
        resume: see there.
        jobs: see there.
        parallel: see there.
        scheduler: see there.
        progress: see there.

    Returns:
        The curve. After Ctrl-C rates without a finished chip are left out.

    Raises:
        ValueError: see there; or for a fault model without a rate.
        KeyboardInterrupt: if Ctrl-C comes before the first chip is finished.
    """
    models = _at_rates(fault_model, rates)
    for name, value, least in (
        ("chips", chips, 1),
        ("first_chip", first_chip, 0),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"expected {name} as an integer >= {least}. Received: {value!r}")
    images, labels = check_data(model, data)
    jobs = _check_parallel(jobs, parallel, scheduler)
    rule = StopRule(float(stop)) if isinstance(stop, int | float) else stop
    looks = None if rule is None else rule.looks(chips, len(labels))
    largest = max(models, key=lambda one: one.rate)
    probe = Chip(largest, seed, int(np.random.default_rng(seed).integers(1 << 20, 1 << 31)))
    work = Workload(model, images, labels, probe, quantization, calibration, repair)
    check_choice(work, engine)
    fingerprint = {
        "model": model_sha256(model),
        "data": array_sha256(images, labels),
        "images": len(labels),
        "fault_model": text_without_rate(models[0]),
        "seed": seed,
        "quantization": quantization,
        "repair": describe_repair(repair),
        "access_tier": access_tier(repair),
        "stop": None if looks is None else {**asdict(looks), "first_chip": first_chip},
    }
    if calibration is not None:
        fingerprint["calibration"] = array_sha256(np.asarray(calibration))
        if any(layer.drop_connect.rescale for layer in faulty_layers(model).values()):
            fingerprint["largest_rate"] = largest.rate  # its scale is in the int8 file
    with (
        closing(Records(out, resume)) as records,
        RunEngine(work, records.engine_for(engine), jobs, parallel, scheduler) as opened,
        Progress(progress) as bar,
    ):
        folds = FoldedImages(labels, _begin(records, opened, work, fingerprint), seed, first_chip)
        indices = range(first_chip, first_chip + chips)
        runs = [RateRun(one, seed, indices, folds, looks) for one in models]
        interrupted = False
        try:
            for run in runs:
                run.finish(opened, records, bar)
        except KeyboardInterrupt:
            interrupted = True
            log.warning("Interrupted: the results hold the chips that were finished.")
        results = tuple(run.result(records) for run in runs if run.chips(records))
        if not results:
            raise KeyboardInterrupt
        return RateCurve(results, f"{opened.name} {quantization}", interrupted)


def _begin(
    records: Records, engine: RunEngine, work: Workload, fingerprint: dict[str, Any]
) -> np.ndarray:
    """Opens the records for chips: of a new run, or of the same evaluation as before.

    Returns:
        Whether the fault-free model, not repaired, is right on each image.
    """
    fingerprint = {**fingerprint, "engine": engine.name}
    if engine.name == "keras":
        fingerprint["backend"] = keras.backend.backend()
    records.check(fingerprint)
    if records.header is None:
        repaired = None if work.repair is None else engine.fault_free(repaired=True)
        healthy = engine.fault_free()
        records.begin(run_header(work.model.name, fingerprint, healthy, repaired))
    else:
        records.open()
    return np.asarray(records.fault_free.answers)


def _at_rates(fault_model: FaultModel, rates: Sequence[float] | None) -> list[FaultModel]:
    if rates is None:
        return [fault_model]
    values = [float(rate) for rate in rates]
    if not values or len(set(values)) < len(values):
        raise ValueError(f"expected fault rates, each once. Received: rates={list(rates)}")
    return [at_rate(fault_model, rate) for rate in values]


def check_data(
    model: keras.Model, data: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns test images and labels, or raises ValueError where they do not fit the model."""
    if not faulty_layers(model):
        raise ValueError(
            f"Model '{model.name}' has no Drop-Connect layer that faults could go to. Convert it "
            "with `to_drop_connect(model, 0.0)`."
        )
    samples, labels = as_arrays(data)
    images = check_images(model, samples, "test images")
    labels = check_labels(labels, len(images), "labels")
    classes = getattr(model, "output_shape", (None, None))[-1]
    if classes is not None and labels.max() >= classes:
        raise ValueError(
            f"expected labels from 0 to {classes - 1}, as the model has outputs. Received: labels "
            f"to {labels.max()} (is it the dataset that the model was trained on?)"
        )
    return images, labels


def _check_parallel(jobs: int, parallel: str, scheduler: str | None) -> int:
    """Returns the number of processes, or raises ValueError for options that do not fit."""
    if parallel not in ("processes", "dask"):
        raise ValueError(
            f"expected parallel as 'processes' or 'dask'. Received: parallel={parallel!r}"
        )
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < -1 or jobs == 0:
        raise ValueError(f"expected jobs >= 1, or -1 for one on each core. Received: jobs={jobs!r}")
    if (parallel == "dask") != bool(scheduler) or (parallel == "dask" and jobs != 1):
        raise ValueError(
            "expected parallel='dask' with a scheduler='tcp://host:8786' (--scheduler), and "
            "without jobs, since the cluster has its own workers. Received: "
            f"parallel={parallel!r}, scheduler={scheduler!r}, jobs={jobs}"
        )
    return joblib.cpu_count() if jobs == -1 else jobs
