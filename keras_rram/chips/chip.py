"""Chips: replayable sets of faults, one for each kernel of a model."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any, cast

import keras
import numpy as np

from keras_rram import faults
from keras_rram.chips.fault_map import OFFSET, match_map, parse_map
from keras_rram.chips.unrolling import kernel_shape
from keras_rram.faults import Fault, FaultModel, KernelShape
from keras_rram.files import read_sealed_npz, write_npz
from keras_rram.files.schemas import CHIP
from keras_rram.layers import faulty_layers

STREAMS = ("evaluation", "training", "validation", "calibration")
"""What chips are drawn for: those of two streams share no randomness, whatever their seeds."""

_IDENTITY = "__chip__"
_IDENTITY_LIMIT = 1 << 32  # one word of a generator's key each


@dataclasses.dataclass(frozen=True)
class Chip:
    """One manufactured device: what it does to every kernel of a model, always the same.

    The random generator of each kernel is derived from (stream, seed, index, layer name) alone. So
    any chip can be replayed alone, in any order, in any process and on any Keras backend, bit for
    bit. Chips are equal if their identities are, and what was measured.

    Attributes:
        fault_model: what its faults are drawn from; None for a measured chip.
        seed: seed of the population that the chip belongs to, an integer in `[0, 2 ** 32)`.
        index: number of the chip in its population, from 0, below `2 ** 32`.
        measured: kernel name -> fault, for a chip loaded from a map; None for a sampled chip.
        stream: what the chip is for, one of `STREAMS`. A model that is trained, selected or
            calibrated on chips never meets them again in its evaluation: no chip of one stream is
            one of another, and callbacks take theirs from the stream of their purpose.
        name: what it is called in results and files; a chip that was loaded without one is called
            as its file. No part of what makes two chips equal.

    Example:

    ```python
    chip = keras_rram.Chip(keras_rram.StuckAtZero(0.2), seed=1, index=7)
    with chip.program(model):
        loss, accuracy = model.evaluate(images, labels)
    ```
    """

    fault_model: FaultModel | None = None
    seed: int = 0
    index: int = 0
    # Not hashed: two chips that are equal have one hash all the same.
    measured: Mapping[str, Fault] | None = dataclasses.field(default=None, repr=False, hash=False)
    stream: str = dataclasses.field(default="evaluation", kw_only=True)
    name: str = dataclasses.field(default="", kw_only=True, compare=False)

    def __post_init__(self) -> None:
        """Checks the identity."""
        for name in ("seed", "index"):
            value = getattr(self, name)
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            if not is_integer or not 0 <= value < _IDENTITY_LIMIT:
                raise ValueError(
                    f"`{name}` must be an integer >= 0 and below 2 ** 32. "
                    f"Received: {name}={value!r}"
                )
        if self.stream not in STREAMS:
            raise ValueError(f"`stream` must be one of {STREAMS}. Received: {self.stream!r}")
        if self.fault_model is not None and not isinstance(self.fault_model, FaultModel):
            raise TypeError(
                "expected a fault model, such as StuckAtZero(0.2) or faults.parse(text). Received: "
                f"{self.fault_model!r}"
            )
        if self.fault_model is None and self.measured is None:
            raise ValueError(
                "A chip needs a fault model to draw its faults from, or measured faults. "
                "Received neither: use Chip(StuckAtZero(0.2)) or Chip.load(path)."
            )

    def __repr__(self) -> str:
        """Returns the identity; of the stream only another one than that of evaluation."""
        name = f"name={self.name!r}, " if self.name else ""
        if self.fault_model is None:
            held = self.measured or {}
            faulty = sum(int(np.count_nonzero(fault.faulty)) for fault in held.values())
            weights = sum(fault.mask.size for fault in held.values())
            return f"Chip({name}measured={len(held)} kernels, {faulty:,} of {weights:,} faulty)"
        stream = "" if self.stream == "evaluation" else f", stream={self.stream!r}"
        return f"Chip({name}{self.fault_model!r}, seed={self.seed}, index={self.index}{stream})"

    def faults(
        self, model: keras.Model, written: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, Fault]:
        """Returns the fault of each kernel of `model`, by kernel name (`layer/kernel`).

        A fault carries the scale of its layer: with `DropConnect(rescale=True)` healthy weights are
        scaled by `1 / (1 - fault rate)`, the fault model's rate or the achieved one of a measured
        kernel. Values that weights are stuck at stay as they are.

        Args:
            model: built model with Drop-Connect layers.
            written: kernel name -> weights that are written to the chip instead of the model's own;
                all kernels, or None. A measured chip's faults do not depend on them.

        Raises:
            ValueError: if the model has no Drop-Connect layer, or if a measured map has an unknown
                layer or an array of another shape than the kernel's.
        """
        kernels, layers = _kernels(model), faulty_layers(model)
        if self.measured is not None:
            held = match_map(self.measured, kernels)
        else:
            held = {
                name: self._sample(name, kernel, layers[name.rpartition("/")[0]])
                for name, kernel in (kernels if written is None else written).items()
            }
        scales = self.scales(model)
        return {
            name: dataclasses.replace(fault, scale=scales[name]) for name, fault in held.items()
        }

    def scales(self, model: keras.Model) -> dict[str, float]:
        """Returns the scale that each of `faults(model)` carries, without drawing any."""
        kernels, layers = _kernels(model), faulty_layers(model)
        held = kernels if self.measured is None else match_map(self.measured, kernels)
        return {
            name: self.healthy_scale(layers[name.rpartition("/")[0]], self.fault_model or fault)
            for name, fault in held.items()
        }

    def _sample(self, name: str, kernel: Any, layer: Any) -> Fault:
        model = cast(FaultModel, self.fault_model)
        values = keras.ops.convert_to_numpy(kernel) if model.needs_kernel else None
        return self.draw(name, kernel_shape(layer, name.rpartition("/")[2]), values)

    def draw(self, name: str, shape: KernelShape, kernel: np.ndarray | None = None) -> Fault:
        """Draws the fault of an array of cells by its name, as of a model's kernel.

        Args:
            name: any text; the draws follow from it and from the chip's identity.
            shape: the array's shape and crossbar.
            kernel: the weights that are written there, where the fault model needs them.

        Raises:
            ValueError: if the chip was measured: its map has the kernels and no other cells.
        """
        if self.fault_model is None:
            raise ValueError(
                f"expected a chip with a fault model, to draw '{name}' from. Received: a measured "
                "chip, of which only the map is known"
            )
        return self.fault_model.sample(shape, np.random.default_rng(self._key(name)), kernel)

    def _key(self, name: str) -> list[int]:
        """Returns the seed words of a kernel's generator."""
        if self.stream == "evaluation":
            words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], "<u4").tolist()
            return [self.seed, self.index, *words]
        # Eight words of a digest, where evaluation has six: no seed of one is a seed of another.
        identity = f"{self.stream}/{self.seed}/{self.index}/{name}"
        return np.frombuffer(hashlib.sha256(identity.encode()).digest(), "<u4").tolist()

    def program(self, model: keras.Model) -> "Programmed":
        """Writes this chip's faults into the model's fault masks, at once.

        Args:
            model: a built model with Drop-Connect layers.

        Returns:
            A context manager that gives the model back what was programmed before, also when its
            block raises. Without `with` the chip stays until `erase` or the next chip.
        """
        return program(model, self.faults(model))

    def healthy_scale(self, layer: Any, fault: Any) -> float:
        """Returns the factor on a layer's healthy weights, given what has the fault rate."""
        if not layer.drop_connect.rescale:
            return 1.0
        if fault.rate >= 1:
            raise ValueError(f"Layer '{layer.name}' has no healthy weight left to rescale.")
        return 1.0 / (1.0 - fault.rate)

    def save(self, path: str | os.PathLike, model: keras.Model | None = None) -> None:
        """Saves the chip as an `.npz` file.

        Args:
            path: file to write, whole or not at all.
            model: if given, the faults of its kernels are in the file, as in a measured map, and
                loading does not depend on how faults are drawn. Without it the file holds the
                identity (fault model, seed, index), which replays on any model.
        """
        if pathlib.Path(path).suffix != ".npz":
            raise ValueError(f"A chip is saved as an `.npz` file. Received: path='{path}'")
        identity = {
            "fault_model": None if self.fault_model is None else faults.spec(self.fault_model),
            "seed": self.seed,
            "index": self.index,
            "stream": self.stream,
        } | ({"name": self.name} if self.name else {})
        arrays: dict[str, np.ndarray] = {}
        held = self.faults(model) if model is not None else dict(self.measured or {})
        for name, fault in held.items():
            binary = np.isin(fault.mask, (0, 1)).all()
            arrays[name] = fault.mask.astype(np.uint8) if binary else fault.mask
            if fault.offset is not None:
                arrays[name + OFFSET] = fault.offset
        write_npz(path, arrays, _IDENTITY, CHIP, identity)

    @classmethod
    def load(cls, path: str | os.PathLike, model: keras.Model | None = None) -> "Chip":
        """Loads a saved chip, or a measured fault map.

        A map is an `.npz` file of one array for each layer, under the layer's name (`layer/kernel`
        where a layer has two kernels), with the shape of the kernel: 1 where a weight is healthy, 0
        where it reads as zero, or a factor between. `layer:offset` arrays, optional, hold the
        values of weights stuck elsewhere. Layers that the map leaves out are healthy; `audit` shows
        them.

        Args:
            path: file to read.
            model: if given, the map is checked against its layers now and not only when programmed.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is no chip or map, is damaged, holds values out of range or NaN,
                or does not fit `model`.
        """
        described, arrays = read_sealed_npz(path, _IDENTITY, CHIP, "an `.npz` file of arrays")
        measured = parse_map(arrays, path, is_map=described is None)
        known = {} if described is None else _parse_identity(described, path)
        if not known.get("name"):
            known["name"] = pathlib.Path(path).stem if known.get("fault_model") is None else ""
        chip = cls(measured=(measured or None) if described is not None else measured, **known)
        if model is not None:
            chip.faults(model)
        return chip


class Programmed:
    """What a model's masks were before; gives them back at the end of a `with` block.

    Attributes:
        faults: what was programmed, by kernel name; empty after `erase`.
    """

    def __init__(self, model: keras.Model, faults: Mapping[str, Fault] | None = None):
        self._model, self.faults = model, dict(faults or {})
        self._masks = _snapshot(model, "fault_masks")
        self._offsets = _snapshot(model, "fault_offsets")

    def __enter__(self) -> keras.Model:
        """Returns the programmed model."""
        return self._model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restores the masks, error or not."""
        for name, layer in faulty_layers(self._model).items():
            for slot, variable in layer.fault_masks.items():
                variable.assign(self._masks[f"{name}/{slot}"])
            for slot, variable in layer.fault_offsets.items():
                variable.assign(self._offsets.get(f"{name}/{slot}", np.zeros(variable.shape)))


def program(model: keras.Model, faults: Mapping[str, Fault]) -> Programmed:
    """Writes faults into a model's fault masks, at once; `Chip.program` draws them first.

    Args:
        model: a built model with Drop-Connect layers.
        faults: kernel name -> fault, as from `Chip.faults`; kernels left out are healthy.

    Returns:
        See `Chip.program`.

    Raises:
        ValueError: if the model has no kernel of a name.
    """
    layers = faulty_layers(model)
    slots = {
        f"{name}/{slot}": (layer, slot) for name, layer in layers.items() for slot in layer.kernels
    }
    if unknown := faults.keys() - slots.keys():
        raise ValueError(f"expected faults of kernels {sorted(slots)}. Received: {sorted(unknown)}")
    programmed = Programmed(model, faults)
    if any(fault.offset is not None for fault in faults.values()):
        _add_offsets(model)
    for name, (layer, slot) in slots.items():
        _write(layer, slot, faults.get(name))
    return programmed


def erase(model: keras.Model) -> Programmed:
    """Makes every weight of a model healthy again, at once.

    Returns:
        A context manager that gives the model back what was programmed before.
    """
    return program(model, {})


def population(
    fault_model: FaultModel,
    count: int,
    seed: int = 0,
    first: int = 0,
    stream: str = "evaluation",
) -> list[Chip]:
    """Returns `count` chips of one fault model, with the indices `first`, `first + 1`, ...

    Args:
        fault_model: what their faults are drawn from.
        count: how many.
        seed: see `Chip`, likewise `stream`.
        first: index of the first one.
        stream: what they are for.

    Raises:
        ValueError: if `count` is not a positive integer.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"`count` must be an integer >= 1. Received: count={count!r}")
    return [Chip(fault_model, seed, index, stream=stream) for index in range(first, first + count)]


def check_chip(chip: Any) -> None:
    """Raises TypeError for what is no chip."""
    if not isinstance(chip, Chip):
        raise TypeError(
            "expected a chip, such as Chip(StuckAtZero(0.2), seed=1) or Chip.load(path). Received: "
            f"{chip!r}"
        )


def _kernels(model: keras.Model) -> dict[str, keras.Variable]:
    kernels = {
        f"{name}/{slot}": kernel
        for name, layer in faulty_layers(model).items()
        for slot, kernel in layer.kernels.items()
    }
    if not kernels:
        raise ValueError(
            f"Model '{model.name}' has no Drop-Connect layer that a chip's faults could go to. "
            "Convert it with `to_drop_connect(model, rate)`; rate 0 is enough for evaluation."
        )
    return kernels


def _parse_identity(identity: dict[str, Any], path: Any) -> dict[str, Any]:
    text = identity["fault_model"]
    try:
        model = None if text is None else faults.parse(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"'{path}' has a damaged chip identity: {error}") from error
    names = ("seed", "index", "stream", "name")
    return {"fault_model": model, **{name: identity[name] for name in names if name in identity}}


def _snapshot(model: keras.Model, attribute: str) -> dict[str, np.ndarray]:
    return {
        f"{name}/{slot}": np.array(keras.ops.convert_to_numpy(variable))
        for name, layer in faulty_layers(model).items()
        for slot, variable in getattr(layer, attribute).items()
    }


def _write(layer: Any, slot: str, fault: Fault | None) -> None:
    mask = layer.fault_masks[slot]
    mask.assign(np.ones(mask.shape, np.float32) if fault is None else fault.factors)
    if slot in layer.fault_offsets:
        offset = None if fault is None else fault.offset
        layer.fault_offsets[slot].assign(np.zeros(mask.shape) if offset is None else offset)


def _add_offsets(model: keras.Model) -> None:
    added = False
    for layer in faulty_layers(model).values():
        added |= not layer.fault_offsets
        layer.add_fault_offsets()
    if added:
        # Functions that were traced without the offsets would go on without them.
        model.train_function = model.test_function = model.predict_function = None
