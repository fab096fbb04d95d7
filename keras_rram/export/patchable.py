"""A converted model that every chip is patched from."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import keras
import numpy as np

from keras_rram.chips.chip import Chip, program
from keras_rram.export.convert import check_calibration, check_calibration_chips, convert
from keras_rram.export.converters import Converter, find_converter
from keras_rram.export.errors import ExportError, UnmappableError
from keras_rram.export.kernel_places import find_places
from keras_rram.export.kernels import chip_gains, kernels_of, scaled
from keras_rram.export.place import INT8_LIMIT, Place
from keras_rram.export.reading import has_other_biases, same_graph
from keras_rram.export.verify import Verification, check_weights, compare
from keras_rram.faults import Fault

# Rounding of a weight that was scaled and scaled back.
_SAME = {"FLOAT32": 1e-5, "FLOAT16": 2e-3}


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


class PatchableModel:
    """A model that was converted once, fault-free, and the place of each kernel in the file.

    The file of a chip is a copy with its weights written into it, much faster than a conversion of
    its own. A weight that reads as zero becomes the zero bytes (int8 weights are symmetric). Any
    other faulty value is quantized with the step of its channel, and saturates where the channel's
    range ends. Biases need no patch: folded batch normalization scales the kernel, and what it
    adds does not depend on it. `verify` shows that this holds for a model.

    Args:
        model: the Keras model; its trained kernels count, not the chip it is programmed with.
        tflite: the bytes of its fault-free conversion.
        gains: kernel name -> factor on the weights in `tflite`, 1 where absent.

    Raises:
        ValueError: if `tflite` is not a TFLite file.

    Attributes:
        tflite: the fault-free file.
        gains: see above.
        unmappable: why the file cannot be patched, if a kernel's bytes cannot be found in it beyond
            doubt; None where all are found.
        verification: what the last `verify` showed; None before.

    Example:

    ```python
    patchable = PatchableModel.convert(model, "int8", calibration=train_images[:300])
    for chip in keras_rram.population(StuckAtZero(0.2), 100):
        tflite = patchable.patch(chip.faults(model))
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        tflite: bytes | bytearray,
        gains: Mapping[str, float] | None = None,
    ):
        self.tflite, self.gains = bytes(tflite), dict(gains or {})
        self.verification: Verification | None = None
        self.unmappable: UnmappableError | None = None
        self._places: dict[str, tuple[Place, ...]] = {}
        try:
            self._places = find_places(kernels_of(model), self.tflite, self.gains)
        except UnmappableError as error:
            self.unmappable = error

    @classmethod
    def convert(
        cls,
        model: keras.Model,
        quantization: str = "int8",
        calibration: np.ndarray | None = None,
        batch_size: int | None = None,
        chips: Iterable[Chip] = (),
        calibration_chips: Sequence[Chip] = (),
        converter: Converter | str = "tensorflow",
    ) -> "PatchableModel":
        """Converts a model as if it were programmed with no chip.

        Args:
            model: see `convert`, likewise `quantization`, `calibration` and `batch_size`.
            quantization: see there.
            calibration: see there.
            batch_size: see there.
            chips: chips that are to be patched. Where layers rescale, the file's weights get the
                largest scale of these, so that int8 weights of none of them saturate.
            calibration_chips: for int8: chips that the activation ranges come from, rather than
                from the fault-free model; see `quantize_int8`.
            converter: see `convert`.
        """
        check_calibration_chips(quantization, calibration_chips)
        gains = chip_gains(chips, model)
        if not calibration_chips:
            with program(model, scaled(model, gains)):
                tflite = convert(model, quantization, calibration, batch_size, converter)
                return cls(model, tflite, gains)
        images = check_calibration(model, quantization, calibration)
        floats = cls.convert(model, "float32", batch_size=batch_size, converter=converter)
        files = (floats.patch(chip.faults(model)) for chip in calibration_chips)
        base = floats.patch(scaled(model, gains))
        made_by = find_converter(converter)
        return cls(model, made_by.quantize_int8(base, cast(np.ndarray, images), files), gains)

    @property
    def places(self) -> dict[str, tuple[Place, ...]]:
        """Kernel name -> where the file holds it.

        Raises:
            UnmappableError: if a kernel's bytes cannot be found.
        """
        if self.unmappable is not None:
            raise self.unmappable
        return self._places

    def patch(self, faults: Mapping[str, Fault]) -> bytearray:
        """Returns the TFLite file of a chip.

        Args:
            faults: kernel name -> fault, from `Chip.faults`; kernels left out are healthy.

        Raises:
            ValueError: if a fault does not fit the model's kernels.
            UnmappableError: if the file cannot be patched, or a weight is to be stuck at a value in
                a channel whose scale in the file is unknown, since all its weights are zero.
        """
        patched = bytearray(self.tflite)
        for name, fault in self._complete(faults).items():
            for place in self.places[name]:
                place.write(patched, fault)
        return patched

    def faults_in(self, tflite: bytes | bytearray) -> dict[str, Fault]:
        """Returns the faults that a chip's file has: patching, inverted.

        A weight that is zero in the fault-free file already, as small int8 weights are, looks
        healthy however faulty it is: the faults found have the same effect as the chip's, and may
        be fewer. `Chip(measured=faults)` is the chip, and its `save` writes the map.

        Of a chip that was repaired, scales and biases may differ too. In a float file the scale of
        each channel is then that of most of its weights.

        Returns:
            Kernel name -> fault; the offset of a weight that changed to another value than zero is
            that value.

        Raises:
            ValueError: if it is not a TFLite file, or differs from `self.tflite` in more than
                weights, steps and biases; or if a repair wrote most weights anew, so that nobody
                can tell what is a fault.
        """
        graph = same_graph(self.tflite, tflite)
        is_repaired = has_other_biases(graph, self.tflite, tflite)
        found = {}
        for name, (place, *_) in self.places.items():
            before, after = place.view(self.tflite), place.view(tflite)
            changed = before != after
            if is_repaired and not place.is_integer:
                after = place.unscaled(before, after)
                changed = np.abs(after - before) > _SAME[place.tensor.type] * np.abs(before)
            if is_repaired and (changed & (after != 0)).mean() > 0.5:
                raise ExportError(
                    f"Most weights of '{name}' are neither lost nor what they were trained to be: "
                    "the repair of this chip wrote new ones, and its map is not in the file."
                )
            mask = place.restore(1.0 - changed.astype(np.float32))
            stuck = changed & (after != 0)
            offset = None
            if stuck.any():
                values = np.zeros(place.shape, np.float32)
                values[stuck] = after[stuck] / np.broadcast_to(place.factor, place.shape)[stuck]
                offset = np.ascontiguousarray(place.restore(values))
            found[name] = Fault(np.ascontiguousarray(mask), offset)
        return found

    def check(self, tflite: bytes | bytearray, faults: Mapping[str, Fault]) -> None:
        """Checks every byte of a chip's file, see `check_weights`."""
        check_weights(self.places, self.tflite, tflite, self._complete(faults))

    def verify(
        self,
        model: keras.Model,
        faults: Mapping[str, Fault],
        images: np.ndarray,
        labels: np.ndarray | None = None,
        tflite: bytes | bytearray | None = None,
    ) -> Verification:
        """Checks a chip's file byte by byte, and runs it next to the Keras model.

        Args:
            model: the model that was converted.
            faults: see `patch`; best of a chip that no other choice depends on.
            images: float images `(n, ...)`, preprocessed as for the model.
            labels: integer classes `(n,)`, for the accuracies.
            tflite: the file, say as it was read back; defaults to a freshly patched one.

        Returns:
            What running it showed; `Verification.check` compares that with thresholds.

        Raises:
            ExportError: if a byte differs.
        """
        tflite = self.patch(faults) if tflite is None else tflite
        if self.unmappable is None:
            self.check(tflite, faults)
        with program(model, faults):
            self.verification = compare(model, tflite, images, labels)
        return self.verification

    def stuck_values(self, faults: Mapping[str, Fault]) -> StuckValues:
        """Returns the quantization error of the faulty weights that are not zero."""
        count = saturated = 0
        errors = [np.zeros(0)]
        for name, fault in self._complete(faults).items():
            if fault.offset is None:
                continue
            place = self.places[name][0]
            where = place.transpose(fault.offset) != 0
            wanted, stored = place.stored(fault, where)
            factor = np.broadcast_to(place.factor, place.shape)[where]
            with np.errstate(invalid="ignore", divide="ignore"):
                errors.append(np.where(factor == 0, 0.0, np.abs(stored / factor - wanted)))
            count += wanted.size
            if place.is_integer:
                saturated += int((np.abs(np.rint(wanted * factor)) > INT8_LIMIT).sum())
        joined = np.concatenate(errors)
        return StuckValues(
            count,
            saturated,
            float(joined.mean()) if count else 0.0,
            float(joined.max()) if count else 0.0,
        )

    def _complete(self, faults: Mapping[str, Fault]) -> dict[str, Fault]:
        """Returns the faults of all kernels that the file of a chip has otherwise, checked."""
        shapes = {name: place.kernel.values.shape for name, (place, *_) in self.places.items()}
        for name, fault in faults.items():
            if name not in shapes:
                raise ValueError(
                    f"Expected faults of kernels {sorted(shapes)}. Received: '{name}'. The chip "
                    "is of another model."
                )
            if fault.mask.shape != shapes[name]:
                raise ValueError(
                    f"The fault of kernel '{name}' must have the kernel's shape, {shapes[name]}. "
                    f"Received: {fault.mask.shape}. The chip is of another model."
                )
        # A healthy kernel has no gain.
        healthy = {name: Fault(np.ones(shapes[name], np.float32)) for name in self.gains}
        return healthy | dict(faults)
