"""Evaluates a population of chips: resumable, in parallel, to a wanted precision."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import joblib
import keras
import numpy as np

from keras_rram.data import as_arrays, check_classes, check_images, check_labels
from keras_rram.evaluation.chip_source import Faults, chip_sources, is_faultless, probe_chip
from keras_rram.evaluation.engines.choose import RunEngine, Workload, check_choice
from keras_rram.evaluation.fingerprint import model_sha256, noises
from keras_rram.evaluation.measure import Measure, Metric, default_measure, measure_of
from keras_rram.evaluation.progress import Progress
from keras_rram.evaluation.rate_run import FoldedImages, RateRun
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.run_folder import Records, run_header
from keras_rram.evaluation.statistics.stopping import StopRule
from keras_rram.files import array_sha256
from keras_rram.layers import check_weights, faulty_layers
from keras_rram.repair import Repair, RepairStep, access_tier, describe_repair

if TYPE_CHECKING:
    import pandas as pd

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

    def __str__(self) -> str:
        """One line for each fault rate."""
        rows = self.to_frame()[["rate", "chips", "fault_free", "mean", "low", "high", "worst"]]
        return f"{self.results[0].name or 'model'}, {self.engine}\n{rows.to_string(index=False)}"

    def to_frame(self) -> "pd.DataFrame":
        """Returns a row for each fault rate: the figures of `PopulationResult.summary`."""
        import pandas as pd

        return pd.DataFrame([result.summary() for result in self.results])


def evaluate_population(
    model: keras.Model,
    fault_model: Faults,
    data: Any,
    chips: int | None = None,
    *,
    metric: Metric | None = None,
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
        model: built model with Drop-Connect layers; a classifier, or with `metric` any.
        fault_model: what each chip's faults are drawn from: a fault model; a rate, that of
            `StuckAtZero`; or a text such as "row_faults:rate=0.1". Or chips, such as measured ones,
            all of which are evaluated.
        data: test images `(n, ...)`, preprocessed as for the model, and their labels: classes
            `(n,)`, 0 and 1 of sigmoids, classes of a sequence; with `metric` what it takes. Or a
            `tf.data.Dataset` or `keras.utils.PyDataset` of them, see `keras_rram.data.as_arrays`.
        chips: number of chips, 100 by default; with `stop`, at most.
        metric: how good a chip is: a Keras metric or its name, or a function `(model outputs,
            labels) -> score per image` of arrays. By default accuracy.
        seed: seed of the population.
        first_chip: index of the first chip. Runs of disjoint chips can be joined, see
            `merge_runs`.
        engine: "keras" (any backend and model), "litert" (on CPUs, several times faster), or
            "auto", which takes the faster one that can evaluate the model, and says which.
        quantization: "float32", or "int8" for the numbers of a deployed file.
        calibration: training images for int8, see `keras_rram.export.convert`.
        repair: what is done to each programmed chip before it is evaluated, and to the fault-free
            model beside, see `keras_rram.repair.Repair`. The litert engine repairs the Keras model
            and patches what that changed into the chip's file.
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
        model, fault_model, None, data, chips, metric=metric, seed=seed, first_chip=first_chip,
        engine=engine, quantization=quantization, calibration=calibration, repair=repair,
        stop=stop, out=out, resume=resume, jobs=jobs, parallel=parallel, scheduler=scheduler,
        progress=progress,
    )  # fmt: skip
    return result


def evaluate_rates(
    model: keras.Model,
    fault_model: Faults,
    rates: Sequence[float] | None,
    data: Any,
    chips: int | None = None,
    *,
    metric: Metric | None = None,
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
        chips: number of chips at each rate, 100 by default; with `stop`, at most.
        metric: see there.
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
    sources = chip_sources(model, fault_model, rates, chips, seed, first_chip)
    images, labels, measure = check_data(model, data, metric)
    jobs = _check_parallel(jobs, parallel, scheduler)
    rule = StopRule(float(stop)) if isinstance(stop, int | float) else stop
    looks = None if rule is None else rule.looks(len(sources[0].indices), len(images))
    probe = probe_chip(sources, seed)
    work = Workload(model, images, labels, probe, quantization, calibration, repair, measure)
    if isinstance(repair, RepairStep):
        repair.check_model(model)
    check_choice(work, engine)
    fingerprint = {
        "model": model_sha256(model),
        "data": array_sha256(images, *keras.tree.flatten(labels)),
        "images": len(images),
        "fault_model": sources[0].text,
        "seed": seed,
        "quantization": quantization,
        "repair": describe_repair(repair),
        "access_tier": access_tier(repair),
        "stop": None if looks is None else {**asdict(looks), "first_chip": first_chip},
    }
    if measure is not None:
        fingerprint["measure"] = measure.facts()
    if kinds := noises(model):
        fingerprint["read_noise"] = kinds
    if calibration is not None:
        fingerprint["calibration"] = array_sha256(np.asarray(calibration))
        if any(layer.drop_connect.rescale for layer in faulty_layers(model).values()):
            fingerprint["largest_rate"] = max(
                source.rate for source in sources
            )  # its scale is in the int8 file
    with (
        closing(Records(out, resume)) as records,
        RunEngine(work, records.engine_for(engine), jobs, parallel, scheduler) as opened,
        Progress(progress) as bar,
    ):
        healthy = _begin(records, opened, work, fingerprint)
        folds = FoldedImages(_strata(labels, len(images)), healthy, seed, first_chip)
        runs = [RateRun(one, folds, looks, is_faultless(one, model)) for one in sources]
        interrupted = False
        try:
            for run in runs:
                run.finish(opened, records, bar)
            records.finish()
        except KeyboardInterrupt:
            interrupted = True
            records.recall()
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
        if fingerprint["stop"] is not None and healthy.dtype != bool:
            raise ValueError(
                "expected a measure that counts right answers with stop= (--target_half_width). "
                f"Received: scores of '{fingerprint['measure']['name']}' (evaluate a number of "
                "chips)"
            )
        records.begin(run_header(work.model.name, fingerprint, healthy, repaired))
    else:
        records.open()
    answers = records.fault_free.answers
    is_counted = answers is not None and answers.dtype == bool
    return answers if is_counted else np.zeros(fingerprint["images"], bool)  # type: ignore[return-value]


def _strata(labels: Any, count: int) -> np.ndarray:
    """Returns the labels as classes, where they are some."""
    is_class = isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "biu"
    return labels if is_class else np.zeros(count, np.int64)


def check_data(
    model: keras.Model, data: Any, metric: Metric | None = None
) -> tuple[np.ndarray, Any, Measure | None]:
    """Returns test images, labels and the measure.

    Raises:
        ValueError: where they do not fit the model, or where no measure is the obvious one.
    """
    check_weights(model)
    if not faulty_layers(model):
        raise ValueError(
            f"Model '{model.name}' has no Drop-Connect layer that faults could go to. Convert it "
            "with `to_drop_connect(model, 0.0)`."
        )
    is_pair = isinstance(data, tuple | list) and len(data) == 2
    samples, labels = data if is_pair else as_arrays(data)
    images = check_images(model, samples, "test images")
    outputs = getattr(model, "output_shape", None)
    if outputs is None:  # a subclassed model
        found = model(keras.ops.convert_to_tensor(images[:1]), training=False)
        outputs = keras.tree.map_structure(lambda one: (None, *one.shape[1:]), found)
        outputs = list(outputs) if isinstance(found, list | tuple) else outputs
    if isinstance(outputs, dict | list):
        labels = keras.tree.map_structure(np.asarray, labels)
    else:
        labels = np.asarray(labels)
    if metric is not None and metric != "accuracy":
        sizes = {len(array) for array in keras.tree.flatten(labels)}
        if sizes != {len(images)}:
            raise ValueError(
                f"expected {len(images)} labels, one for each image. Received: {sorted(sizes)}"
            )
        return images, labels, measure_of(metric)
    measure = default_measure(model, outputs, labels)
    if measure is not None:
        return images, labels, measure
    if labels.shape == (len(images), 1):
        labels = labels[:, 0]
    labels = check_labels(labels, len(images), "labels")
    check_classes(model, labels)
    return images, labels, None


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
