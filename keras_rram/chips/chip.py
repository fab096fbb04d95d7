"""Chips: replayable sets of faults, one for each kernel of a model."""

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from types import TracebackType
from typing import Any, cast

import keras
import numpy as np

from keras_rram import faults
from keras_rram.chips.unrolling import kernel_shape
from keras_rram.faults import Fault, FaultModel, KernelShape
from keras_rram.files import written_whole
from keras_rram.layers import faulty_layers

_IDENTITY = "__chip__"
_OFFSET = ":offset"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One manufactured device: what it does to every kernel of a model, always the same.

    The random generator of each kernel is derived from (seed, index, layer name) alone. So any chip
    can be replayed alone, in any order, in any process and on any Keras backend, bit for bit.

    Attributes:
        fault_model: what its faults are drawn from; None for a measured chip.
        seed: seed of the population that the chip belongs to, a non-negative integer.
        index: number of the chip in its population, from 0.
        measured: kernel name -> fault, for a chip loaded from a map; None for a sampled chip.

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
    measured: Mapping[str, Fault] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Checks the identity."""
        for name in ("seed", "index"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"`{name}` must be an integer >= 0. Received: {name}={value!r}")
        if self.fault_model is None and self.measured is None:
            raise ValueError(
                "A chip needs a fault model to draw its faults from, or measured faults. "
                "Received neither: use Chip(StuckAtZero(0.2)) or Chip.load(path)."
            )

    def faults(
        self, model: keras.Model, written: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, Fault]:
        """Returns the fault of each kernel of `model`, by kernel name (`layer/kernel`).

        Args:
            model: built model with Drop-Connect layers.
            written: kernel name -> weights that are written to the chip instead of the model's own;
                all kernels, or None. A measured chip's faults do not depend on them.

        Raises:
            ValueError: if the model has no Drop-Connect layer, or if a measured map has an unknown
                layer or an array of another shape than the kernel's.
        """
        kernels = _kernels(model)
        if self.measured is not None:
            return _match(self.measured, kernels)
        layers = faulty_layers(model)
        return {
            name: self._sample(name, kernel, layers[name.rpartition("/")[0]])
            for name, kernel in (kernels if written is None else written).items()
        }

    def _sample(self, name: str, kernel: Any, layer: Any) -> Fault:
        model = cast(FaultModel, self.fault_model)
        values = keras.ops.convert_to_numpy(kernel) if model.needs_kernel else None
        return self.draw(name, kernel_shape(layer, name.rpartition("/")[2]), values)

    def draw(self, name: str, shape: KernelShape, kernel: np.ndarray | None = None) -> Fault:
        """Draws the fault of an array of cells by its name, as of a model's kernel.

        Args:
            name: any text; the draws follow from it, from the seed and from the index.
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
        words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], "<u4").tolist()
        rng = np.random.default_rng([self.seed, self.index, *words])
        return self.fault_model.sample(shape, rng, kernel)

    def program(self, model: keras.Model) -> "Programmed":
        """Writes this chip's faults into the model's fault masks, at once.

        Layers with `DropConnect(rescale=True)` get their healthy weights scaled by
        `1 / (1 - fault rate)`: the fault model's rate, or the achieved one of a measured kernel.
        Values that weights are stuck at stay as they are.

        Args:
            model: a built model with Drop-Connect layers.

        Returns:
            A context manager that gives the model back what was programmed before, also when its
            block raises. Without `with` the chip stays until `erase` or the next chip.
        """
        new = self.faults(model)
        programmed = Programmed(model)
        layers = faulty_layers(model)
        if any(fault.offset is not None for fault in new.values()):
            _add_offsets(model)
        for name, layer in layers.items():
            for slot in layer.kernels:
                fault = new.get(f"{name}/{slot}")
                _write(layer, slot, fault, self.healthy_scale(layer, fault))
        return programmed

    def healthy_scale(self, layer: Any, fault: Fault | None) -> float:
        """Returns the factor on a layer's healthy weights: 1, unless the layer rescales."""
        if fault is None or not layer.drop_connect.rescale:
            return 1.0
        rate = fault.rate if self.fault_model is None else self.fault_model.rate
        if rate >= 1:
            raise ValueError(f"Layer '{layer.name}' has no healthy weight left to rescale.")
        return 1.0 / (1.0 - rate)

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
            "format": 1,
            "fault_model": None if self.fault_model is None else faults.serialize(self.fault_model),
            "seed": self.seed,
            "index": self.index,
        }
        arrays = {_IDENTITY: np.array(json.dumps(identity, sort_keys=True))}
        held = self.faults(model) if model is not None else dict(self.measured or {})
        for name, fault in held.items():
            binary = np.isin(fault.mask, (0, 1)).all()
            arrays[name] = fault.mask.astype(np.uint8) if binary else fault.mask
            if fault.offset is not None:
                arrays[name + _OFFSET] = fault.offset
        with written_whole(path) as temporary:
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]

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
            ValueError: if the file is no chip or map, holds values out of range or NaN, or does not
                fit `model`.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"'{path}' is not an `.npz` file of arrays: {error}") from error
        try:
            identity = json.loads(str(arrays.pop(_IDENTITY))) if _IDENTITY in arrays else None
        except json.JSONDecodeError as error:
            raise ValueError(f"'{path}' has a damaged chip identity: {error}") from error
        measured = _parse_map(arrays, path, is_map=identity is None)
        if identity is None:
            chip = cls(measured=measured)
        else:
            described = identity["fault_model"]
            chip = cls(
                None if described is None else faults.deserialize(described),
                seed=identity["seed"],
                index=identity["index"],
                measured=measured or None,
            )
        if model is not None:
            chip.faults(model)
        return chip


class Programmed:
    """What a model's masks were before; gives them back at the end of a `with` block."""

    def __init__(self, model: keras.Model):
        self._model = model
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


def erase(model: keras.Model) -> Programmed:
    """Makes every weight of a model healthy again, at once.

    Returns:
        A context manager that gives the model back what was programmed before.
    """
    programmed = Programmed(model)
    for layer in faulty_layers(model).values():
        for slot in layer.kernels:
            _write(layer, slot, None, 1.0)
    return programmed


def population(fault_model: FaultModel, count: int, seed: int = 0, first: int = 0) -> list[Chip]:
    """Returns `count` chips of one fault model, with the indices `first`, `first + 1`, ...

    Raises:
        ValueError: if `count` is not a positive integer.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"`count` must be an integer >= 1. Received: count={count!r}")
    return [Chip(fault_model, seed, index) for index in range(first, first + count)]


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


def _match(
    measured: Mapping[str, Fault], kernels: Mapping[str, keras.Variable]
) -> dict[str, Fault]:
    """Returns a map's faults under full kernel names, checked against the kernels."""
    matched: dict[str, Fault] = {}
    for name, fault in measured.items():
        found = [key for key in kernels if key == name or key.split("/")[0] == name]
        if len(found) != 1:
            reason = f"its kernels are {found}; name one" if found else "there is no such layer"
            raise ValueError(
                f"The fault map has an array '{name}', but {reason}. Kernels of the model: "
                f"{sorted(kernels)}"
            )
        shape = tuple(kernels[found[0]].shape)
        if fault.mask.shape != shape:
            raise ValueError(
                f"The fault map's array '{name}' must have the kernel's shape, {shape}. "
                f"Received: {fault.mask.shape}"
            )
        if found[0] in matched:
            raise ValueError(f"The fault map has two arrays for '{found[0]}'.")
        matched[found[0]] = fault
    return matched


def _parse_map(arrays: dict[str, np.ndarray], path: Any, is_map: bool) -> dict[str, Fault]:
    """Checks the values of a map's arrays and joins masks and offsets."""
    if is_map and not arrays:
        raise ValueError(f"The fault map '{path}' holds no array.")
    for name, array in arrays.items():
        if array.dtype.kind not in "buif":
            raise ValueError(f"Array '{name}' of '{path}' must be numbers. Got {array.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(f"Array '{name}' of '{path}' has NaN or infinite values.")
        is_mask = not name.endswith(_OFFSET)
        if is_map and is_mask and array.size and (array.min() < 0 or array.max() > 1):
            raise ValueError(
                f"Array '{name}' of '{path}' must have values in [0, 1] (1 is healthy, 0 reads as "
                f"zero). Received: {array.min()} to {array.max()}"
            )
        if not is_mask and name.removesuffix(_OFFSET) not in arrays:
            raise ValueError(f"'{path}' has '{name}' without '{name.removesuffix(_OFFSET)}'.")
    return {
        name: Fault(
            array.astype(np.float32),
            arrays[name + _OFFSET].astype(np.float32) if name + _OFFSET in arrays else None,
        )
        for name, array in arrays.items()
        if not name.endswith(_OFFSET)
    }


def _snapshot(model: keras.Model, attribute: str) -> dict[str, np.ndarray]:
    return {
        f"{name}/{slot}": np.array(keras.ops.convert_to_numpy(variable))
        for name, layer in faulty_layers(model).items()
        for slot, variable in getattr(layer, attribute).items()
    }


def _write(layer: Any, slot: str, fault: Fault | None, scale: float) -> None:
    mask = layer.fault_masks[slot]
    mask.assign(np.ones(mask.shape, np.float32) if fault is None else fault.mask * scale)
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
