"""Runs a panel of the study: trains it, follows it on chips, evaluates it on populations.

A run is a folder. Everything in it is written whole, and the same call continues a run that was
killed at any moment: training from the last epoch, populations from the last chip.

    checkpoint.npz, model.keras     the state of training, the trained model
    history.csv                     a row for each epoch, with the accuracy of each followed chip
    chips/, chips_repaired/, ...    the records of each population, see `POPULATIONS`
    chips.csv                       population, chip, correct answers, images
    answers.npz                     each chip's answer to each image, see `published.Answers`
    record.json                     what was run, and every figure
    figure.png                      the study's curves: loss and accuracy over the epochs
"""

import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_rram import plots
from keras_rram.chips.chip import Chip
from keras_rram.data.dataset import Dataset
from keras_rram.data.sources import load
from keras_rram.evaluation.population import evaluate_population
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.statistics.anova import crossed_components
from keras_rram.files import one_writer, written_whole
from keras_rram.files.schemas import PANEL
from keras_rram.repair.batch_norm import BatchNormRecalibration, normalizations
from keras_rram.study.answers import write_answers
from keras_rram.study.methods import METHODS, STUDY
from keras_rram.study.panels import Panel
from keras_rram.study.setups import Setup, build, fault_model
from keras_rram.training.on_chips import ChipValidation

CHIPS_SEED = 0
"""Seed of the population, the same for all training seeds: chips and seeds are crossed."""

POPULATIONS = {
    "chips": (False, False),
    "chips_repaired": (False, True),
    "chips_other_scale": (True, False),
    "chips_other_scale_repaired": (True, True),
}
"""Folder -> (whether healthy weights are on another scale than the protocol evaluates on, whether
the statistics of batch normalization are recalibrated on each chip)."""

TIERS = {"A": "chips", "B": "chips_repaired"}
"""Access tier -> its population."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One panel, as it is to be run.

    Attributes:
        panel: the panel.
        setup: its scale.
        scale: name of the scale.
        protocol: "text" or "published".
        network: name of the network.
        seed: seed of the weights, the order of the images and the masks.
        method: name of the way it is trained, one of `METHODS`.
    """

    panel: Panel
    setup: Setup
    scale: str
    protocol: str
    network: str
    seed: int = 0
    method: str = STUDY

    @property
    def name(self) -> str:
        """Name of its folder, unique among all runs."""
        method = "" if self.method == STUDY else f"-{self.method}"
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.panel.name}-{self.network}-{self.protocol}-{self.scale}{method}{seed}"

    @property
    def populations(self) -> tuple[str, ...]:
        """Which of `POPULATIONS` are evaluated."""
        if not self.panel.fault_rate:
            return ("chips",)
        whole = self.panel.explains_collapse and self.protocol == "published"
        return tuple(POPULATIONS) if whole else ("chips", "chips_repaired")


def run_panel(
    run: Run,
    out: str | os.PathLike[str],
    data_dir: str | None = None,
    download: bool = False,
    provenance: Mapping[str, Any] | None = None,
    verbose: str | int = "auto",
    jobs: int = 1,
    resume: bool = True,
) -> dict[str, Any]:
    """Runs one panel, or continues it, and returns its record.

    Args:
        run: what to run.
        out: folder; the run gets a folder of its name in it.
        data_dir: folder of tensorflow-datasets.
        download: whether to download the dataset.
        provenance: what `record.json` shall say of its origin, such as command and commit.
        verbose: as in `model.fit`.
        jobs: processes for the populations.
        resume: whether to go on with a run that was stopped, and to keep one that is finished.

    Returns:
        The content of `record.json`.

    Raises:
        ValueError: if the folder holds something else than this run, or anything without `resume`.
        KeyboardInterrupt: if Ctrl-C ended it early; what was finished is kept.

    Example:

    ```python
    panel = PANELS["2B"]
    run = Run(panel, setup(panel, "smoke"), "smoke", "text", "strided")
    record = run_panel(run, "runs/reproduction")
    ```
    """
    folder = pathlib.Path(out) / run.name
    folder.mkdir(parents=True, exist_ok=True)
    if not resume and {path.name for path in folder.iterdir()} - {".writer.lock"}:
        raise ValueError(
            f"expected no run in '{folder}' with resume=False. Received: one (name another folder, "
            "or remove it)"
        )
    with one_writer(folder):
        if (finished := _finished(run, folder)) is not None:
            return finished
        return _run(run, folder, data_dir, download, provenance or {}, verbose, jobs)


def _run(
    run: Run,
    folder: pathlib.Path,
    data_dir: str | None,
    download: bool,
    provenance: Mapping[str, Any],
    verbose: str | int,
    jobs: int,
) -> dict[str, Any]:
    dataset = load(run.setup.dataset, data_dir, download)
    if run.setup.train_images:
        dataset = dataset.subset(train=run.setup.train_images)
    model, history = _trained(run, dataset, folder, verbose)
    how = run.setup
    images, _ = dataset.arrays("train", how.repair_images, augmented=True)
    answered: dict[str, np.ndarray] = {}
    found: dict[str, PopulationResult] = {}
    for name in run.populations:
        is_other_scale, is_repaired = POPULATIONS[name]
        if is_repaired and not normalizations(model, required=False):
            continue  # nothing to recalibrate: its normalization is that of each image
        limit, chips = how.images, how.chips
        if is_repaired:
            limit, chips = how.repaired_images or limit, how.repaired_chips or chips
        answered[name] = dataset.indices("test", limit)
        found[name] = evaluate_population(
            _at_scale(run, model, dataset, is_other_scale),
            fault_model(run.panel),
            dataset.arrays("test", limit),
            chips if run.panel.fault_rate else 1,  # those of a rate of 0 are all alike
            seed=CHIPS_SEED,
            repair=BatchNormRecalibration(images) if is_repaired else None,
            out=str(folder / name),
            resume=True,
            jobs=jobs,
        )
        if found[name].interrupted:
            raise KeyboardInterrupt
    record = _record(run, model, dataset, history, found, provenance)
    _write(folder / "chips.csv", _chips_csv(found))
    write_answers(folder, found, answered)
    plots.training_curves(history, folder / "figure.png")
    PANEL.write(folder / "record.json", record, indent=1)
    return record


def _finished(run: Run, folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the record of a run that is complete, or None."""
    path = folder / "record.json"
    if not path.exists():
        return None
    record = PANEL.read(path)
    same = json.loads(
        json.dumps({"setup": dataclasses.asdict(run.setup), "as_trained": _as_trained(run)})
    )
    held = {"as_trained": same["as_trained"], **record}  # the first records have none
    for key, expected in same.items():
        if held[key] != expected:
            raise ValueError(
                f"'{path}' is of another version of this run: expected {key} {expected}. Received: "
                f"{held[key]} (name another folder, or remove this one)"
            )
    return record


def _as_trained(run: Run) -> dict[str, Any]:
    """What the method makes of the setup."""
    method = METHODS[run.method]
    return {
        "recipe": dataclasses.asdict(method.recipe(run.setup.recipe)),
        "options": {**run.setup.options, **method.options},
    }


def _trained(
    run: Run, dataset: Dataset, folder: pathlib.Path, verbose: str | int
) -> tuple[keras.Model, list[dict[str, float]]]:
    """Returns the trained model and its history, trained now or before."""
    model = _built(run, dataset)
    checkpoint = folder / "checkpoint.npz"
    # On test images, as the study did: they draw its curves, and nothing is chosen from them.
    validation = ChipValidation(
        *dataset.arrays("test", run.setup.validation_images),
        fault_model(run.panel),
        run.setup.validation_chips if run.panel.fault_rate else 1,
        CHIPS_SEED,
        each_chip=True,
    )
    if run.protocol == "published":
        validation.chips = [
            _UnscaledChip(chip.fault_model, chip.seed, chip.index, stream=chip.stream)
            for chip in validation.chips
        ]
    method = METHODS[run.method]
    result = method.train(
        model,
        dataset,
        method.recipe(run.setup.recipe),
        run.seed,
        [validation],
        checkpoint=checkpoint,
        resume=checkpoint.exists(),
        verbose=verbose,
    )
    history = [dict(record) for record in result.history]
    if history:
        _write(folder / "history.csv", _csv(history))
    if result.interrupted:
        raise KeyboardInterrupt
    with written_whole(folder / "model.keras") as temporary:
        model.save(temporary)
    return model, history


def _built(run: Run, dataset: Dataset, rescale: bool | None = None) -> keras.Model:
    method = METHODS[run.method]
    model = build(
        run.panel,
        dataclasses.replace(run.setup, options={**run.setup.options, **method.options}),
        run.protocol,
        run.seed,
        rescale=rescale,
        input_shape=dataset.input_shape,
        classes=dataset.classes,
    )
    return method.prepare(model, fault_model(run.panel), run.seed)


class _UnscaledChip(Chip):
    """A chip as the study's code evaluates it: healthy weights unscaled, whatever training did."""

    def healthy_scale(self, layer: Any, fault: Any) -> float:
        """Returns 1."""
        return 1.0


def _at_scale(run: Run, model: keras.Model, dataset: Dataset, is_other_scale: bool) -> keras.Model:
    """Returns the model as it is to be evaluated: its layers say how chips scale weights."""
    trained = run.protocol == "published"
    # `published` trains scaled and evaluates unscaled; `text` never scales.
    rescale = is_other_scale
    if rescale == trained:
        return model
    twin = _built(run, dataset, rescale)
    twin.set_weights(model.get_weights())
    return twin


def _record(
    run: Run,
    model: keras.Model,
    dataset: Dataset,
    history: Sequence[Mapping[str, float]],
    found: Mapping[str, PopulationResult],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    panel, how = run.panel, run.setup
    thresholds = (panel.good,)
    return {
        PANEL.key: PANEL.version,
        "name": run.name,
        "panel": panel.name,
        "network": run.network,
        "protocol": run.protocol,
        "scale": run.scale,
        "seed": run.seed,
        "method": run.method,
        **provenance,
        "backend": keras.backend.backend(),
        "device": _device(),
        "dataset": dataset.name,
        "train_images": len(dataset.train_labels),
        "test_images": len(dataset.arrays("test", how.images)[1]),
        "parameters": model.count_params(),
        "setup": dataclasses.asdict(how),
        "as_trained": _as_trained(run),
        "drop_rate": panel.drop_rate,
        "fault_rate": panel.fault_rate,
        "epochs": len(history),
        "training_seconds": sum(record["seconds"] for record in history),
        "populations": {
            name: result.summary(yield_at=thresholds)
            | {"threshold": panel.good, "images": result.chips[0].total}
            for name, result in found.items()
        },
        "fluctuation": fluctuation(history),
    }


def _device() -> str:
    """Returns what computed, "cpu:0" or "gpu:0 NVIDIA H100 80GB HBM3"."""
    name = next(iter(keras.distribution.list_devices()), "cpu:0")
    if keras.backend.backend() != "jax" or name.startswith("cpu"):
        return str(name)
    import jax

    return f"{name} {jax.devices()[0].device_kind}"


def fluctuation(history: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """Splits the spread of the validation accuracy into that of epochs and that of chips.

    Takes the second half of the epochs, where training has settled, and each of the followed chips
    as a crossed design, epoch by chip, of one value each; the interaction holds what is left.

    Returns:
        Standard deviations `epoch`, `chip` and `epoch:chip`, in accuracy; None for fewer than two
        chips or fewer than four epochs.
    """
    names = [f"val_chip_{chip}_accuracy" for chip in range(_chips_in(history))]
    settled = history[len(history) // 2 :]
    if len(names) < 2 or len(history) < 4:
        return None
    data = np.array([[record[name] for name in names] for record in settled])
    parts = crossed_components(data, ("epoch", "chip"))
    return {part.source: float(np.sqrt(part.variance)) for part in parts}


def _chips_in(history: Sequence[Mapping[str, float]]) -> int:
    count = 0
    while history and f"val_chip_{count}_accuracy" in history[-1]:
        count += 1
    return count


def _chips_csv(found: Mapping[str, PopulationResult]) -> str:
    rows = [
        {"population": name, "chip": chip.index, "correct": chip.correct, "images": chip.total}
        for name, result in found.items()
        for chip in result.chips
    ]
    return _csv(rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write(path: pathlib.Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text)
