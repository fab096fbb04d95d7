"""The small results of a run, as they are published: its record, its history, its chips."""

import csv
import dataclasses
import pathlib
from typing import Any

import numpy as np

from keras_rram.files.schemas import PANEL
from keras_rram.study.answers import FILE as ANSWERS
from keras_rram.study.answers import Answers, read_answers
from keras_rram.study.bottlenecks import ALL_PANELS
from keras_rram.study.panels import Panel
from keras_rram.training.recipes import Recipe

FILES = ("record.json", "history.csv", "chips.csv", ANSWERS)
"""What is published of a run; runs from before answers were kept lack the last."""


@dataclasses.dataclass(frozen=True)
class Published:
    """One finished run.

    Attributes:
        record: the content of its `record.json`.
        history: name -> one value for each epoch.
        chips: population -> accuracy of each chip, by its number.
        answers: each chip's answers; None where they were not kept.
    """

    record: dict[str, Any]
    history: dict[str, np.ndarray]
    chips: dict[str, np.ndarray]
    answers: Answers | None = None

    @property
    def panel(self) -> Panel:
        """The panel that was run."""
        return ALL_PANELS[self.record["panel"]]

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """Network, protocol, scale and method: runs of one kind differ in panel and seed."""
        record = self.record
        return record["network"], record["protocol"], record["scale"], record["method"]

    @property
    def training(self) -> tuple[Any, ...]:
        """What must be equal where two panels are compared."""
        record = self.record
        # Read as a recipe: a record from before an option existed has its default.
        recipe = Recipe(**record["setup"]["recipe"])
        return record["epochs"], record["train_images"], str(recipe.fingerprint())

    def population(self, name: str) -> str:
        """The name of a population, or that of the only one, where nothing is faulty."""
        return name if name in self.chips else "chips"


def read(folder: pathlib.Path) -> list[Published]:
    """Reads all finished runs in a folder, in the order of the study's panels.

    Raises:
        ValueError: for a record of another schema.
    """
    found = []
    for path in sorted(folder.glob("*/record.json")):
        record = PANEL.read(path)
        if record["panel"] not in ALL_PANELS:
            continue
        history, chips = _history(path.parent), _chips(path.parent)
        found.append(Published(record, history, chips, read_answers(path.parent)))
    order = list(ALL_PANELS)
    return sorted(found, key=lambda run: (order.index(run.panel.name), run.record["name"]))


def _history(folder: pathlib.Path) -> dict[str, np.ndarray]:
    rows = _rows(folder / "history.csv")
    return {
        name: np.array([float(row[name]) if row[name] else np.nan for row in rows])
        for name in (rows[0] if rows else ())
    }


def _chips(folder: pathlib.Path) -> dict[str, np.ndarray]:
    chips: dict[str, dict[int, float]] = {}
    for row in _rows(folder / "chips.csv"):
        accuracy = int(row["correct"]) / int(row["images"])
        chips.setdefault(row["population"], {})[int(row["chip"])] = accuracy
    return {
        name: np.array([values[chip] for chip in sorted(values)]) for name, values in chips.items()
    }


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
