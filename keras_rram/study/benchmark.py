"""A benchmark that other methods can enter: fixed populations, networks and rates.

A task is a population of chips and a set of test images, both fixed; an entry is a trained model,
with or without a repair, scored on it. Entries of one access tier compare with each other: tier A
knows nothing of a chip, B has unlabelled images of it, C its map or labels.
"""

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_rram import models
from keras_rram.chips.chip import Chip
from keras_rram.evaluation.population import evaluate_population
from keras_rram.faults import FaultModel, spec
from keras_rram.faults.text import parse
from keras_rram.files.schemas import BENCHMARK
from keras_rram.layers import faulty_layers
from keras_rram.repair import Repair


@dataclasses.dataclass(frozen=True)
class Task:
    """Chips and images that a model is scored on, and the network that entries compare on.

    Attributes:
        name: of the task, "mnist-30".
        title: in words.
        dataset: name of the data set, see `keras_rram.data.load`; its test images are scored.
        faults: the fault model as text.
        builder: name of the reference network's builder in `keras_rram.models`.
        options: its arguments; the layers that it makes faulty are those of the task.
        images: test images, a stratified part.
        chips: number of chips, from index 0.
        seed: seed of the population.
    """

    name: str
    title: str
    dataset: str
    faults: str
    builder: str
    options: Mapping[str, Any]
    images: int = 2_000
    chips: int = 100
    seed: int = 0

    @property
    def fault_model(self) -> FaultModel:
        """What the chips are drawn from."""
        return parse(self.faults)

    def reference(self) -> keras.Model:
        """Returns the reference network, untrained."""
        return getattr(models, self.builder)(**self.options, drop_connect=0.0)


def _tasks() -> dict[str, Task]:
    found = []
    pairs = "differential_pair:stuck_off=0.0175,stuck_on=0.0904"
    for dataset, builder, options, what in (
        ("mnist", "mini_mobilenet", {"bottlenecks": 2}, "2 bottlenecks, their kernels"),
        ("cifar10", "resnet20", {"scope": "convolutions"}, "ResNet20, all convolutions"),
    ):
        for rate in (0.1, 0.2, 0.3):
            faults = f"stuck_at_zero:rate={rate:g}"
            title = f"{what}: {rate:.0%} of the weights at zero"
            found.append(
                Task(f"{dataset}-{100 * rate:.0f}", title, dataset, faults, builder, options)
            )
        title = f"{what}: cells of differential pairs, 9.04% stuck on and 1.75% stuck off"
        found.append(Task(f"{dataset}-pairs", title, dataset, pairs, builder, options))
    return {task.name: task for task in found}


TASKS: dict[str, Task] = _tasks()
"""By name. The networks are those of the study: its two-bottleneck network for MNIST and ResNet20
for CIFAR-10."""


def population_sha256(task: Task, model: keras.Model | None = None) -> str:
    """Returns the SHA-256 of a task's chips on a model: each kernel's name, mask and offset.

    Where faults do not depend on the weights, as for weights at zero, two models whose faulty
    layers have the same names and shapes have the same chips.

    Args:
        task: one of `TASKS`.
        model: built model with Drop-Connect layers; default: the reference network.
    """
    model = task.reference() if model is None else model
    digest = hashlib.sha256()
    for index in range(task.chips):
        faults = Chip(task.fault_model, task.seed, index).faults(model)
        for name in sorted(faults):
            digest.update(name.encode())
            for part in (faults[name].mask, faults[name].offset):
                if part is not None:
                    digest.update(np.ascontiguousarray(part, np.float32).tobytes())
    return digest.hexdigest()


def score(
    task: Task,
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    method: str,
    repair: Repair | None = None,
    provenance: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Scores a model on a task.

    Args:
        task: one of `TASKS`.
        model: built model whose Drop-Connect layers are the faulty ones.
        images: the task's test images `(task.images, ...)`, preprocessed as for the model:
            `dataset.arrays("test", task.images)`.
        labels: their classes.
        method: how it was trained and repaired, in a few words; the name of the row.
        repair: what is done to each chip, see `keras_rram.repair`.
        provenance: what the record shall say of its origin, such as command, commit and training.
        out: folder of the benchmark; the record is `out/<task>/<method>.json`, and the run beside
            it resumes. None: nothing is written.
        jobs: processes.

    Returns:
        The record: what was scored, on which chips, and the figures, accuracies in [0, 1].

    Raises:
        ValueError: if there are fewer images than the task has, or `method` has no letter in it.
        KeyboardInterrupt: if Ctrl-C ended it early; with `out` the same call goes on.

    Example:

    ```python
    task = TASKS["mnist-30"]
    images, labels = data.load("mnist").arrays("test", task.images)
    record = score(task, model, images, labels, "my method", out="runs/benchmark")
    ```
    """
    if len(images) != task.images:
        raise ValueError(
            f"Task {task.name} is scored on {task.images:,} test images. Received: {len(images):,}"
        )
    slug = re.sub(r"[^a-z0-9]+", "_", method.lower()).strip("_")
    if not slug:
        raise ValueError(f"expected a name of the method with letters. Received: {method!r}")
    folder = None if out is None else pathlib.Path(out) / task.name
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    result = evaluate_population(
        model,
        task.fault_model,
        (images, labels),
        task.chips,
        seed=task.seed,
        repair=repair,
        out=None if folder is None else str(folder / slug),
        resume=folder is not None,
        jobs=jobs,
    )
    if result.interrupted:
        raise KeyboardInterrupt
    faulty, reference = _kernel_shapes(model), _kernel_shapes(task.reference())
    content = {
        "task": task.name,
        "method": method,
        "access_tier": result.access_tier,
        "repair": result.repair,
        "faults": spec(task.fault_model),
        "chips": task.chips,
        "images": task.images,
        "seed": task.seed,
        "population_sha256": population_sha256(task, model),
        "on_reference_network": faulty == reference,
        "model": result.model,
        "parameters": model.count_params(),
        "faulty_weights": int(sum(np.prod(shape) for shape in faulty.values())),
        "backend": keras.backend.backend(),
        **(provenance or {}),
        "figures": result.summary(),
    }
    if folder is not None:
        BENCHMARK.write(folder / f"{slug}.json", content, indent=1)
    return BENCHMARK.sealed(content)


def _kernel_shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the kernels on faulty hardware, by layer and slot."""
    return {
        f"{name}/{slot}": tuple(mask.shape)
        for name, layer in faulty_layers(model).items()
        for slot, mask in layer.fault_masks.items()
    }
