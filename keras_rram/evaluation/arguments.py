"""Checks of what `evaluate_population` is given."""

import os
from collections.abc import Sequence

import keras
import numpy as np

from keras_rram.evaluation.statistics.stopping import StopRule
from keras_rram.faults import FaultModel, at_rate
from keras_rram.layers import faulty_layers


def check_data(
    model: keras.Model, data: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns test images and labels, or raises ValueError where they do not fit the model."""
    if not faulty_layers(model):
        raise ValueError(
            f"Model '{model.name}' has no Drop-Connect layer that faults could go to. Convert it "
            "with `to_drop_connect(model, 0.0)`."
        )
    if data is None or len(data) != 2:
        raise ValueError(
            "expected `data`, the test images and their labels. Received: "
            f"{'None' if data is None else f'{len(data)} arrays'} (say `dataset.arrays('test')`)"
        )
    images, labels = np.asarray(data[0]), np.asarray(data[1])
    shape = getattr(model, "input_shape", None)
    check_shapes(images, labels, shape[1:] if shape else images.shape[1:])
    classes = getattr(model, "output_shape", (None, None))[-1]
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        raise ValueError(
            f"expected labels from 0 to {classes - 1 if classes else '...'}, as the model has "
            f"outputs. Received: labels from {labels.min()} to {labels.max()} (is it the dataset "
            "that the model was trained on?)"
        )
    return images, labels


def check_parallel(jobs: int, parallel: str, scheduler: str | None) -> int:
    """Returns the number of processes, or raises ValueError for options that do not fit."""
    if parallel not in ("processes", "dask"):
        raise ValueError(
            f"expected parallel as 'processes' or 'dask'. Received: parallel={parallel!r}"
        )
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < -1 or jobs == 0:
        raise ValueError(f"expected jobs >= 1, or -1 for one on each core. Received: jobs={jobs!r}")
    if parallel == "dask" and (jobs != 1 or not scheduler):
        raise ValueError(
            "expected parallel='dask' with scheduler='tcp://host:8786' (--scheduler), and without "
            f"jobs, since the cluster has its own workers. Received: scheduler={scheduler!r}, "
            f"jobs={jobs}"
        )
    if parallel == "processes" and scheduler:
        raise ValueError(
            f"expected parallel='dask' with a scheduler. Received: scheduler={scheduler!r} with "
            "parallel='processes'"
        )
    return len(os.sched_getaffinity(0)) if jobs == -1 else jobs


def at_rates(fault_model: FaultModel, rates: Sequence[float] | None) -> list[FaultModel]:
    """Returns the fault model at each rate."""
    if rates is None:
        return [fault_model]
    values = [float(rate) for rate in rates]
    if not values or len(set(values)) < len(values):
        raise ValueError(f"expected fault rates, each once. Received: rates={list(rates)}")
    return [at_rate(fault_model, rate) for rate in values]


def stop_rule(stop: StopRule | float | None, chips: int, images: int) -> StopRule | None:
    """Returns the stop rule that a half-width stands for, or raises ValueError."""
    if stop is None:
        return None
    if not isinstance(stop, StopRule):
        return StopRule(float(stop), max_chips=chips, test_images=images)
    if stop.max_chips != chips or stop.test_images != images:
        raise ValueError(
            f"expected a StopRule with max_chips={chips} and test_images={images}, as `chips` and "
            f"`data` have. Received: {stop}"
        )
    return stop


def check_indices(chips: int, first_chip: int, seed: int) -> range:
    """Returns the indices of the chips, or raises ValueError."""
    for name, value, least in (
        ("chips", chips, 1),
        ("first_chip", first_chip, 0),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"expected {name} as an integer >= {least}. Received: {value!r}")
    return range(first_chip, first_chip + chips)


def check_shapes(images: np.ndarray, labels: np.ndarray, input_shape: Sequence[int | None]) -> None:
    """Raises ValueError unless `images` and `labels` are test data of a model.

    Args:
        images: array `(n, ...)`.
        labels: integer classes `(n,)`.
        input_shape: shape of one image as the model takes it, None where any size fits.
    """
    fits = images.ndim == len(input_shape) + 1 and all(
        size is None or size == received
        for size, received in zip(input_shape, images.shape[1:], strict=True)
    )
    if not fits or not len(images):
        raise ValueError(
            f"expected test images of shape {('n', *input_shape)}. Received: shape {images.shape} "
            "(`Dataset.arrays('test')` gives what the model was trained for)"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"expected {len(images)} integer labels, one for each image. Received: shape "
            f"{labels.shape}, dtype {labels.dtype} (one-hot labels: pass `labels.argmax(-1)`)"
        )
