"""A chip in hand: what it makes of any weight, and a model that can be written to it anew."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.chips.chip import Chip, erase
from keras_rram.chips.unrolling import kernel_shape
from keras_rram.faults import Fault, StuckAtZero
from keras_rram.layers import faulty_layers

_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Response:
    """What the places of one kernel make of any weights that are written to them.

    `effective(w) = positive * max(w, 0) - negative * max(-w, 0) + offset`. The two gains differ
    where weights of either sign are in cells of their own, as in a differential pair.

    A pair with one cell stuck on still takes values: the other cell goes against it. So places have
    a range, from `low` to `high`, and `write` looks for the weight that comes closest.

    Attributes:
        positive: float32 array of the kernel's shape, gain on weights above zero, `>= 0`.
        negative: likewise for those below.
        offset: likewise, added to the weight, in its units.
        limit: largest magnitude of a weight that cells can hold; broadcasts against the kernel.
    """

    positive: np.ndarray
    negative: np.ndarray
    offset: np.ndarray
    limit: np.ndarray

    @property
    def low(self) -> np.ndarray:
        """The least effective weight of each place."""
        return self.offset - self.negative * self.limit

    @property
    def high(self) -> np.ndarray:
        """The largest effective weight of each place."""
        return self.offset + self.positive * self.limit

    def fault(self, kernel: np.ndarray) -> Fault:
        """Returns the fault of a kernel that is written to these places."""
        mask = np.where(kernel >= 0, self.positive, self.negative).astype(np.float32)
        return Fault(mask, self.offset.astype(np.float32) if self.offset.any() else None)

    def apply(self, kernel: np.ndarray) -> np.ndarray:
        """Returns the effective kernel."""
        return np.where(kernel >= 0, self.positive, self.negative) * kernel + self.offset

    def write(self, wanted: np.ndarray) -> np.ndarray:
        """Returns the kernel to write so that the effective one comes closest to `wanted`."""
        rest = np.clip(wanted, self.low, self.high) - self.offset
        gain = np.where(rest >= 0, self.positive, self.negative)
        with np.errstate(divide="ignore", invalid="ignore"):
            kernel = np.where(gain > 0, rest / gain, np.where(rest == 0, 0.0, wanted))
        # What is written to cells that hold nothing has no effect: the weight stays as it was.
        stuck = (self.positive == 0) & (self.negative == 0)
        kernel = np.where(stuck, wanted, kernel)
        return np.clip(kernel, -self.limit, self.limit).astype(np.float32)


def responses(model: keras.Model, chip: Chip) -> dict[str, Response]:
    """Returns what a chip makes of weights, by kernel name, without a look into its cells.

    A fault model of cells is asked twice, what it makes of the largest weights of either sign; all
    others have one gain for both.

    Raises:
        ValueError: if a weight's fault depends on more than its sign, as in bit slices.
    """
    layers = faulty_layers(model)
    kernels = {
        f"{name}/{slot}": ops.convert_to_numpy(kernel)
        for name, layer in layers.items()
        for slot, kernel in layer.kernels.items()
    }
    limits = {name: _limit(chip, layers, name, kernel) for name, kernel in kernels.items()}
    faults = chip.faults(model)
    positive = negative = faults
    if chip.measured is None and chip.fault_model is not None and chip.fault_model.needs_kernel:
        largest = {name: np.broadcast_to(limits[name], k.shape) for name, k in kernels.items()}
        positive = chip.faults(model, largest)
        negative = chip.faults(model, {name: -kernel for name, kernel in largest.items()})
    found = {}
    for name, kernel in kernels.items():
        if name not in faults:
            ones = np.ones(kernel.shape, np.float32)
            found[name] = Response(ones, ones, np.zeros_like(ones), limits[name])
            continue
        fault = faults[name]
        offset = np.zeros(kernel.shape, np.float32) if fault.offset is None else fault.offset
        response = Response(positive[name].factors, negative[name].factors, offset, limits[name])
        difference = np.abs(response.apply(kernel) - fault.apply(kernel))
        if difference.max(initial=0.0) > _TOLERANCE * float(np.max(limits[name], initial=1e-30)):
            raise ValueError(
                "expected a chip whose cells hold weights of any value, each sign with one gain. "
                f"Received: {chip.fault_model}, by which the fault of kernel '{name}' depends on "
                "more than the signs of its weights"
            )
        found[name] = response
    return found


class Hand:
    """A model that is programmed with a chip, while repairs work on it.

    Attributes:
        model: the model.
        chip: the chip; None for the model without faults, and for repairs that do not look at it.
        layers: the model's Drop-Connect layers, by name.
        trained: kernel name -> the kernel as trained.
    """

    def __init__(self, model: keras.Model, chip: Chip | None, before: "Repaired"):
        self.model, self.chip, self._before = model, chip, before
        self.layers = faulty_layers(model)
        self._responses: dict[str, Response] | None = None
        self.trained = {
            f"{name}/{slot}": np.array(ops.convert_to_numpy(kernel))
            for name, layer in self.layers.items()
            for slot, kernel in layer.kernels.items()
        }

    @property
    def responses(self) -> dict[str, Response]:
        """Kernel name -> what its places make of weights; repairs that move weights change it."""
        if self._responses is None:
            self._responses = responses(self.model, self.chip or self._no_chip())
        return self._responses

    @property
    def digest(self) -> str:
        """What the trained weights are, which tells what was prepared for them from the rest."""
        found = hashlib.sha256()
        for value in self._before.trainable:
            found.update(value.tobytes())
        return found.hexdigest()

    @contextmanager
    def healthy(self) -> Iterator[None]:
        """Gives the model its trained variables and no fault within a `with` block."""
        now = Repaired(self.model)
        try:
            self._before.restore()
            erase(self.model)
            yield
        finally:
            now.restore()

    def _no_chip(self) -> Chip:
        for name, layer in self.layers.items():
            for mask in (*layer.fault_masks.values(), *layer.fault_offsets.values()):
                values = ops.convert_to_numpy(mask)
                if (values != (0 if mask.name.endswith("offset") else 1)).any():
                    raise ValueError(
                        "expected the chip, whose map this repair needs. Received: chip=None, "
                        f"while layer '{name}' is programmed with faults"
                    )
        return Chip(StuckAtZero(0.0))

    def layer(self, name: str) -> Any:
        """Returns the layer of a kernel."""
        return self.layers[_layer(name)]

    def crossbar(self, name: str) -> Any:
        """Returns the crossbar of a kernel."""
        return kernel_shape(self.layer(name), name.rpartition("/")[2]).crossbar

    def kernel(self, name: str) -> np.ndarray:
        """Returns a kernel as it is stored now."""
        return np.array(ops.convert_to_numpy(self.layer(name).kernels[name.rpartition("/")[2]]))

    def effective(self, name: str) -> np.ndarray:
        """Returns a kernel as the chip has it now."""
        return self.responses[name].apply(self.kernel(name))

    def write(self, name: str, kernel: np.ndarray) -> None:
        """Writes a kernel to the chip: the weights, and what the chip makes of them."""
        layer, slot = self.layer(name), name.rpartition("/")[2]
        fault = self.responses[name].fault(kernel)
        layer.kernels[slot].assign(kernel)
        layer.fault_masks[slot].assign(fault.mask)
        if slot in layer.fault_offsets:
            offset = layer.fault_offsets[slot]
            offset.assign(np.zeros(offset.shape) if fault.offset is None else fault.offset)
        elif fault.offset is not None:
            raise ValueError(
                f"expected a programmed model. Received: kernel '{name}' of model "
                f"'{self.model.name}' without the offsets of its chip (call chip.program first)"
            )


class Repaired:
    """What a model's variables were before; gives them back at the end of a `with` block."""

    def __init__(self, model: keras.Model, keep: bool = False):
        self._model, self._keep = model, keep
        self._before = [
            (variable, np.array(ops.convert_to_numpy(variable))) for variable in model.variables
        ]

    def __enter__(self) -> keras.Model:
        """Returns the repaired model."""
        return self._model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restores the variables, error or not, unless they are to be kept."""
        if not self._keep:
            self.restore()

    def restore(self) -> None:
        """Gives the model its variables back, at once."""
        for variable, value in self._before:
            variable.assign(value)

    @property
    def trainable(self) -> Iterator[np.ndarray]:
        """The values of the trainable variables."""
        return (value for variable, value in self._before if variable.trainable)


def _limit(chip: Chip, layers: Mapping[str, Any], name: str, kernel: np.ndarray) -> np.ndarray:
    """Returns the scale of the mapping that the chip's faults are computed with."""
    parts: Any = getattr(chip.fault_model, "models", (chip.fault_model,))
    mapping = next((part.mapping for part in parts if getattr(part, "mapping", None)), None)
    if mapping is None or chip.measured is not None:
        return np.abs(kernel).max(keepdims=True, initial=0.0)
    return mapping.scale(kernel, kernel_shape(layers[_layer(name)], name.rpartition("/")[2]))


def _layer(name: str) -> str:
    return name.rpartition("/")[0]
