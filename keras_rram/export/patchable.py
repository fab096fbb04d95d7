"""Chips written into the weight bytes of one converted TFLite file."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.export.calibration import quantize_int8
from keras_rram.export.convert import check_calibration, convert
from keras_rram.export.errors import UnmappableError
from keras_rram.export.kernel_places import Place, find_places
from keras_rram.export.kernels import chip_faults, fault_free, kernels_of
from keras_rram.faults import Fault

_INT8_LIMIT = 127


@dataclasses.dataclass(frozen=True)
class StuckValues:
    """How well a file holds the weights that a chip makes something else than zero.

    Attributes:
        count: number of such weights.
        saturated: how many of them lie outside the range of their channel's int8 weights.
        mean_error: mean absolute difference of held and wanted value, in units of the weights.
        max_error: the largest such difference.
    """

    count: int
    saturated: int
    mean_error: float
    max_error: float


class TFLitePatcher:
    """Makes the TFLite file of any chip by patching the one of the fault-free model.

    Much faster than converting each chip: a patch copies the file once and writes the faulty
    weights. A weight that reads as zero becomes the zero bytes (int8 weights are symmetric). Any
    other faulty value is quantized with the step of its channel, and saturates where the channel's
    range ends. Biases need no patch: folded batch normalization scales the kernel, and what it
    adds does not depend on it. `verify` shows that this holds for a model.

    Args:
        model: the Keras model; its trained kernels count, not the chip it is programmed with.
        tflite: the bytes of its fault-free conversion.
        gains: kernel name -> factor on the healthy weights in `tflite`, 1 where absent. See
            `chip_gains`.

    Raises:
        UnmappableError: if a kernel's bytes cannot be found in `tflite` beyond doubt.
        ValueError: if `tflite` is not a TFLite file.

    Attributes:
        tflite: the fault-free file.
        places: kernel name -> where the file holds it.

    Example:

    ```python
    patcher = TFLitePatcher.from_model(model, "int8", calibration=train_images[:300])
    for chip in keras_rram.population(StuckAtZero(0.2), 100):
        tflite = patcher.patch(chip.faults(model))
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        tflite: bytes | bytearray,
        gains: Mapping[str, float] | None = None,
    ):
        self.tflite = bytes(tflite)
        self.gains = dict(gains or {})
        kernels = kernels_of(model)
        scaled = {
            name: dataclasses.replace(kernel, values=kernel.values * np.float32(gain))
            for name, kernel in kernels.items()
            if (gain := self.gains.get(name, 1.0)) != 1
        }
        self.places: dict[str, tuple[Place, ...]] = find_places({**kernels, **scaled}, self.tflite)

    @classmethod
    def from_model(
        cls,
        model: keras.Model,
        quantization: str = "int8",
        calibration: np.ndarray | None = None,
        batch_size: int | None = None,
        gains: Mapping[str, float] | None = None,
        calibration_chips: Sequence[Chip] = (),
    ) -> "TFLitePatcher":
        """Converts the fault-free model once and returns its patcher; see `convert_fault_free`."""
        tflite = convert_fault_free(
            model, quantization, calibration, batch_size, gains, calibration_chips
        )
        return cls(model, tflite, gains)

    def patch(self, faults: Mapping[str, Fault]) -> bytearray:
        """Returns the TFLite file of a chip.

        Args:
            faults: kernel name -> fault, from `Chip.faults`; kernels left out are healthy.

        Raises:
            ValueError: if a fault does not fit the model's kernels.
            UnmappableError: if a weight is to be stuck at a value in a channel whose scale in the
                file is unknown, since all its weights are zero.
        """
        patched = bytearray(self.tflite)
        for place, fault in self._places_of(faults):
            _write(place, fault, self._gain(place), patched)
        for name in self.gains.keys() - faults.keys():
            # Without a fault, a kernel is not rescaled either.
            for place in self.places[name]:
                healthy = Fault(np.ones(place.kernel.values.shape, np.float32))
                _write(place, healthy, self._gain(place), patched)
        return patched

    def patch_chip(self, chip: Chip, model: keras.Model) -> bytearray:
        """Returns the TFLite file of a chip of `model`, with the scale of layers that rescale."""
        return self.patch(chip_faults(chip, model))

    def expected(self, faults: Mapping[str, Fault]) -> dict[str, np.ndarray]:
        """Returns what a file of these faults must store for each kernel, in the kernel's layout.

        Computed from the weights and not from the patched bytes; for verification.
        """
        stored = {}
        for name, places in self.places.items():
            place, fault = places[0], faults.get(name)
            held = np.array(place.restore(place.view(self.tflite)), order="C")
            stored[name] = held
            if fault is None and self._gain(place) == 1:
                continue
            if fault is None:
                fault = Fault(np.ones(held.shape, np.float32))
            gain = np.float32(self._gain(place))
            changed, mask = _is_changed(fault, gain), fault.mask
            if fault.offset is None:
                # Most chips only lose weights, and a lost weight needs no arithmetic.
                lost = mask == 0
                np.copyto(held, 0, where=lost)
                changed &= ~lost
            changed = np.flatnonzero(changed)
            if not changed.size:
                continue
            wanted = place.kernel.values.ravel()[changed] * (mask.ravel()[changed] / gain)
            if fault.offset is not None:
                wanted = wanted + fault.offset.ravel()[changed]
            # In the layout of Keras the output channels are last.
            factor = place.channel_factors[changed % place.channel_factors.size]
            wanted = wanted * np.where(wanted == 0, 0.0, factor)
            if place.is_integer:
                wanted = np.clip(np.rint(wanted), -_INT8_LIMIT, _INT8_LIMIT)
            held.reshape(-1)[changed] = wanted
        return stored

    def stuck_values(self, faults: Mapping[str, Fault]) -> StuckValues:
        """Returns the quantization error of the faulty weights that are not zero."""
        count = saturated = 0
        errors = [np.zeros(0)]
        for place, fault in self._places_of(faults):
            if place is not self.places[place.kernel.name][0] or fault.offset is None:
                continue
            stuck = place.transpose(fault.offset) != 0
            wanted = _values(place, fault, self._gain(place))[stuck]
            factor = np.broadcast_to(place.factor, stuck.shape)[stuck]
            held = _stored(place, wanted, factor).astype(np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                errors.append(np.where(factor == 0, 0.0, np.abs(held / factor - wanted)))
            count += wanted.size
            if place.is_integer:
                saturated += int((np.abs(np.rint(wanted * factor)) > _INT8_LIMIT).sum())
        joined = np.concatenate(errors)
        return StuckValues(
            count,
            saturated,
            float(joined.mean()) if count else 0.0,
            float(joined.max()) if count else 0.0,
        )

    def _gain(self, place: Place) -> float:
        return self.gains.get(place.kernel.name, 1.0)

    def _places_of(self, faults: Mapping[str, Fault]) -> list[tuple[Place, Fault]]:
        """Returns faults with the places they go to, after checking that they fit."""
        found = []
        for name, fault in faults.items():
            if name not in self.places:
                raise ValueError(
                    f"Expected faults of kernels {sorted(self.places)}. Received: '{name}'. The "
                    "chip is of another model."
                )
            shape = self.places[name][0].kernel.values.shape
            if fault.mask.shape != shape:
                raise ValueError(
                    f"The fault of kernel '{name}' must have the kernel's shape, {shape}. "
                    f"Received: {fault.mask.shape}. The chip is of another model."
                )
            found += [(place, fault) for place in self.places[name]]
        return found


def convert_fault_free(
    model: keras.Model,
    quantization: str = "int8",
    calibration: np.ndarray | None = None,
    batch_size: int | None = None,
    gains: Mapping[str, float] | None = None,
    calibration_chips: Sequence[Chip] = (),
) -> bytes:
    """Converts a model as if it were programmed with no chip; see `convert`.

    Args:
        model: see `convert`, likewise `quantization`, `calibration` and `batch_size`.
        quantization: see there.
        calibration: see there.
        batch_size: see there.
        gains: kernel name -> factor on the weights, see `chip_gains`.
        calibration_chips: for int8: chips that the activation ranges come from, rather than from
            the fault-free model; see `quantize_int8`.
    """
    if calibration_chips and quantization != "int8":
        raise ValueError(
            "`calibration_chips` is for int8 files. Received: "
            f"quantization={quantization!r} with {len(calibration_chips)} chips"
        )
    if not calibration_chips:
        with fault_free(model, gains):
            return convert(model, quantization, calibration, batch_size)
    images = check_calibration(model, quantization, calibration)
    floats = TFLitePatcher.from_model(model, "float32", batch_size=batch_size, gains=gains)
    files = (floats.patch_chip(chip, model) for chip in calibration_chips)
    return quantize_int8(floats.tflite, cast(np.ndarray, images), files)


def _write(place: Place, fault: Fault, gain: float, patched: bytearray) -> None:
    """Writes one fault at one place."""
    view = place.view(patched)
    changed = _is_changed(fault, np.float32(gain))
    if fault.offset is None:
        # Most chips only lose weights. Their zero is the same in every quantization.
        lost = fault.mask == 0
        np.copyto(view, 0, where=place.transpose(lost))
        changed &= ~lost
        if not changed.any():
            return
    if not place.is_live and place.kernel.values.any():
        return
    changed = place.transpose(changed)
    wanted = _values(place, fault, gain)[changed]
    factor = np.broadcast_to(place.factor, place.shape)[changed]
    view[changed] = _stored(place, wanted, factor)


def _is_changed(fault: Fault, gain: np.float32) -> np.ndarray:
    """Returns which weights differ from those of the fault-free file, in the kernel's layout."""
    changed = fault.mask != gain
    return changed if fault.offset is None else changed | (fault.offset != 0)


def _values(place: Place, fault: Fault, gain: float) -> np.ndarray:
    """Returns the effective kernel in the file's layout, in units of the weights."""
    values = place.kernel.values * (fault.mask / np.float32(gain))
    if fault.offset is not None:
        values = values + fault.offset
    return place.transpose(values)


def _stored(place: Place, wanted: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Returns weights as the file stores them: folded, quantized and saturated."""
    if (np.isnan(factor) & (wanted != 0)).any():
        raise UnmappableError(
            f"Layer '{place.kernel.layer}': a weight of '{place.kernel.name}' is stuck at a value, "
            "but all trained weights of its output channel are zero, so that the scale of the "
            "channel in the file is unknown. Convert the programmed model instead."
        )
    # Adding 0 makes every -0.0 a zero of zero bytes.
    stored = wanted * np.nan_to_num(factor) + 0.0
    if place.is_integer:
        stored = np.clip(np.rint(stored), -_INT8_LIMIT, _INT8_LIMIT)
    return stored.astype(place.tensor.dtype)
