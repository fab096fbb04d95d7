"""Repairs as short text, for flags: `remap:rounds=2+least_squares:images=512,ridge=0.01`.

    repair   = record ("+" record)*      one after the other, each on what the one before left

A record is `name:key=value,key=value`, see `keras_rram.faults.grammar`; names are those of `NAMES`.
Keys are the options of the repair's class, and `images`, how many training images it gets.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_rram.faults.grammar import Reader, keys_of, write_fields
from keras_rram.repair.batch_norm import BatchNormRecalibration
from keras_rram.repair.learned_correction import LearnedCorrection
from keras_rram.repair.least_squares import LeastSquares
from keras_rram.repair.map_correction import MapCorrection, MeanRead
from keras_rram.repair.protocol import Tier
from keras_rram.repair.remapping import Remapping
from keras_rram.repair.retraining import Retraining
from keras_rram.repair.spare_columns import SpareColumns
from keras_rram.repair.steps import RepairStep

# The number of images where a text does not say; 0 for those that can do without.
_IMAGES: dict[type[RepairStep], int] = {
    BatchNormRecalibration: 512,
    MeanRead: 512,
    MapCorrection: 0,
    LearnedCorrection: 512,
    LeastSquares: 512,
    Retraining: 10_000,
}
_DATA = ("images", "labels")
NAMES: dict[str, type[RepairStep]] = {
    kind.name: kind  # type: ignore[attr-defined]
    for kind in (*_IMAGES, Remapping, SpareColumns)
}
"""Name -> class of the repair."""


@dataclasses.dataclass(frozen=True)
class RepairPlan:
    """A repair without its data: what a text says.

    Attributes:
        parts: for each repair its name and its options, those of the text and no others.

    Example:

    ```python
    plan = repair.parse("remap+batch_norm:images=64")
    images, labels = dataset.arrays("train", plan.images, augmented=True)
    evaluate_population(model, fault_model, data, repair=plan.on(images, labels))
    ```
    """

    parts: tuple[Any, ...]

    @property
    def images(self) -> int:
        """How many training images it needs."""
        return max(getattr(part, "images", 0) for part in self.parts)

    @property
    def needs_labels(self) -> bool:
        """Whether it needs their labels."""
        return any("labels" in _fields_of(part.kind) for part in self.parts)

    @property
    def access_tier(self) -> Tier:
        """The highest access tier of its parts."""
        return max(part.kind.access_tier for part in self.parts)

    def on(self, images: np.ndarray | None = None, labels: np.ndarray | None = None) -> RepairStep:
        """Returns the repair with its data; each part gets as many of the images as it says.

        Args:
            images: at least `self.images` training images, preprocessed as for the model, in random
                order.
            labels: their classes, where it needs labels.

        Raises:
            ValueError: if there are too few images, or no labels.
        """
        count = 0 if images is None else len(images)
        if count < self.images:
            raise ValueError(f"expected {self.images} images for '{self}'. Received: {count}")
        if self.needs_labels and labels is None:
            raise ValueError(f"expected labels for '{self}'. Received: labels=None")
        built = [_built(part, images, labels) for part in self.parts]
        return functools.reduce(RepairStep.then, built)

    def __str__(self) -> str:
        """Returns the text that `parse` turns into an equal plan."""
        found = []
        for part in self.parts:
            pairs = write_fields(part, {})
            found.append(part.kind.name + (f":{pairs}" if pairs else ""))
        return "+".join(found)


def parse(text: str) -> RepairPlan:
    """Returns the repair that a text describes.

    Raises:
        ValueError: if the text is not understood. The message shows the place in it.

    Example:

    ```python
    str(repair.parse("remap + batch_norm:images=64"))  # "remap+batch_norm:images=64"
    ```
    """
    reader = Reader(text, "Repair")
    parts = [reader.record(_RECORDS)]
    while reader.takes("+"):
        parts.append(reader.record(_RECORDS))
    reader.end("'+' and another repair")
    return RepairPlan(tuple(parts))


def describe() -> str:
    """Returns a line for each repair: its name, access tier and keys with their defaults."""
    return "\n".join(
        f"{name} (tier {NAMES[name].access_tier}): {keys_of(record, {})}"
        for name, record in _RECORDS.items()
    )


def _built(part: Any, images: np.ndarray | None, labels: np.ndarray | None) -> RepairStep:
    options = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    count = options.pop("images", 0)
    for name, values in zip(_DATA, (images, labels), strict=True):
        if count and name in _fields_of(part.kind) and values is not None:
            options[name] = values[:count]
    return part.kind(**options)


def _fields_of(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _record(kind: type[RepairStep]) -> Any:
    """Returns a dataclass of what a text can say of a repair."""
    fields: list[tuple[str, Any, Any]] = [
        (field.name, field.type, dataclasses.field(default=field.default))
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.name not in _DATA
    ]
    if kind in _IMAGES:
        fields.insert(0, ("images", int, dataclasses.field(default=_IMAGES[kind])))

    def check(self: Any) -> None:
        count = getattr(self, "images", 1)
        least = 0 if _IMAGES.get(kind) == 0 else 1
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"`images` must be an integer >= {least}. Received: images={count!r}")
        # The class itself checks the rest, on data of no meaning.
        _built(self, np.zeros((1, 1), np.float32), np.zeros(1, int))

    namespace: Mapping[str, Any] = {"kind": kind, "__post_init__": check}
    return dataclasses.make_dataclass(
        f"{kind.__name__}Options", fields, frozen=True, namespace=dict(namespace)
    )


_RECORDS: dict[str, Any] = {name: _record(kind) for name, kind in NAMES.items()}
