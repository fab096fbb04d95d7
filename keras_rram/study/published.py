"""The small results of a run, as they are published: its record, its history, its chips."""

import csv
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from keras_rram.study.panels import PANELS, Panel

FILES = ("record.json", "history.csv", "chips.csv")


@dataclasses.dataclass(frozen=True)
class Published:
    """One finished run.

    Attributes:
        record: the content of its `record.json`.
        history: name -> one value for each epoch.
        chips: population -> accuracy of each chip, by its number.
    """

    record: dict[str, Any]
    history: dict[str, np.ndarray]
    chips: dict[str, np.ndarray]

    @property
    def panel(self) -> Panel:
        """The panel that was run."""
        return PANELS[self.record["panel"]]

    @property
    def kind(self) -> tuple[str, str, str]:
        """Network, protocol and scale."""
        return self.record["network"], self.record["protocol"], self.record["scale"]


def read(folder: pathlib.Path) -> list[Published]:
    """Reads all finished runs in a folder, in the order of the study's panels."""
    found = []
    for path in sorted(folder.glob("*/record.json")):
        record = json.loads(path.read_text())
        if record["panel"] in PANELS:
            found.append(Published(record, _history(path.parent), _chips(path.parent)))
    order = list(PANELS)
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
