"""A model, or one chip of it, as a verified TFLite file with a sidecar."""

import hashlib
import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import keras
import numpy as np

from keras_rram.chips.chip import Chip, check_chip, program
from keras_rram.data import check_images
from keras_rram.export.answers import checked_labels, kind_of
from keras_rram.export.calibration import RangeChange, range_change
from keras_rram.export.convert import check_calibration, check_calibration_chips, convert
from keras_rram.export.converters import Converter, converter_name
from keras_rram.export.errors import ExportError, UnmappableError
from keras_rram.export.kernels import chip_gains, kernels_of, scaled, weights_sha256
from keras_rram.export.micro import MicroReport, run_micro
from keras_rram.export.patchable import PatchableModel, StuckValues
from keras_rram.export.prepare import unrolled_layers
from keras_rram.export.repairable import RepairableModel, quantize_on_repaired
from keras_rram.export.sidecar import (
    ExportReport,
    Source,
    chip_identity,
    repair_record,
    write_sidecar,
)
from keras_rram.export.verify import IMAGES, Thresholds, Verification, compare
from keras_rram.faults import Fault
from keras_rram.files import written_whole
from keras_rram.layers import check_weights
from keras_rram.repair import Repair, RepairStep

Labelled = tuple[np.ndarray, np.ndarray]
"""Float images `(n, ...)`, preprocessed as for the model, and integer classes `(n,)`."""


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    chip: Chip | None = None,
    quantization: str = "int8",
    calibration: np.ndarray | None = None,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    calibration_chips: Iterable[Chip] = (),
    repair: Repair | None = None,
    thresholds: Thresholds | None = None,
    batch_size: int | None = None,
    also_on: Mapping[str, Labelled] | None = None,
    micro_images: int = 0,
    data: str | None = None,
    command: str | None = None,
    commit: str | None = None,
    converter: Converter | str = "tensorflow",
) -> ExportReport:
    """Writes a model as a TFLite file, fault-free or for one chip, and verifies it.

    The model is converted fault-free, and the chip's faults are patched into the weight bytes: the
    file is what programming one binary onto this chip means. A model whose kernels cannot be found
    in its file is converted with the faults baked in instead, with a warning. For many chips use
    `export_population`, which converts once.

    Beside the file goes a sidecar, `path` with `.json` added. The file is read back, its weights
    are checked byte by byte against the chip, and it is run next to the Keras model with the same
    chip. Only a file that passes comes into place.

    Args:
        model: built model with one input and one output.
        path: `.tflite` file to write; its folder is made if needed.
        chip: the chip; None for the fault-free model.
        quantization: one of `QUANTIZATIONS`.
        calibration: float training images for int8 and int16x8, see `convert`.
        images: float images that the file is verified with. Defaults to calibration images.
        labels: of `images`, for the accuracies in the sidecar: classes, or 0 and 1 of sigmoids;
            those of a regression are not looked at.
        calibration_chips: for int8: chips that the activation ranges come from, rather than from
            the fault-free model. A fault-free file of such ranges is a template: what it computes
            is in its sidecar, but does not have to reach `thresholds`.
        repair: what is done to the chip, or to the fault-free model, before its file is made, see
            `keras_rram.repair.Repair`. Batch normalization, biases and steps are patched too; where
            the repair changed something else, the repaired model is converted anew.
        thresholds: what the file must reach, defaults to `Thresholds()`.
        batch_size: see `convert`.
        also_on: name -> further images and labels to run the file on, for the sidecar.
        micro_images: with int8: run the file on as many images in TensorFlow Lite Micro too, within
            a step of LiteRT's reference kernels; the sidecar gets arena and operators.
        data: name of the dataset, for the sidecar.
        command: command line, for the sidecar.
        commit: version of the code, for the sidecar.
        converter: see `convert`.

    Returns:
        What was written.

    Raises:
        ValueError: if an argument does not fit.
        ExportError: if the model cannot be converted, or the file fails its verification.
        OSError: if the file cannot be written.

    Example:

    ```python
    chip = keras_rram.Chip(keras_rram.StuckAtZero(0.2), seed=1, index=7)
    report = export_tflite(model, "chip7.tflite", chip, "int8", calibration=train_images[:300])
    ```
    """
    path = _check_path(path)
    exporter = Exporter(
        model,
        quantization,
        calibration,
        images,
        labels,
        chips=[] if chip is None else [chip],
        calibration_chips=calibration_chips,
        repair=repair,
        thresholds=thresholds,
        batch_size=batch_size,
        also_on=also_on,
        micro_images=micro_images,
        data=data,
        command=command,
        commit=commit,
        converter=converter,
    )
    return exporter.write(path, chip)


class Exporter:
    """Converts a model once and writes verified files of it.

    Args:
        model: see `export_tflite`, likewise most other arguments.
        quantization: see there.
        calibration: see there.
        images: see there.
        labels: see there.
        chips: what files will be written for, see `PatchableModel.convert`.
        calibration_chips: see there.
        repair: see there.
        thresholds: see there.
        batch_size: see there.
        also_on: see there.
        micro_images: see there.
        data: see there.
        command: see there.
        commit: see there.
        converter: see there.
        tflite: the fault-free file, if it was converted before.

    Attributes:
        source: the common part of all sidecars.
        patchable: the converted model, fault-free and repaired. Where it cannot be patched, each
            chip is converted.
    """

    def __init__(
        self,
        model: keras.Model,
        quantization: str = "int8",
        calibration: np.ndarray | None = None,
        images: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        *,
        chips: Sequence[Chip] = (),
        calibration_chips: Iterable[Chip] = (),
        repair: Repair | None = None,
        thresholds: Thresholds | None = None,
        batch_size: int | None = None,
        also_on: Mapping[str, Labelled] | None = None,
        micro_images: int = 0,
        data: str | None = None,
        command: str | None = None,
        commit: str | None = None,
        converter: Converter | str = "tensorflow",
        tflite: bytes | None = None,
    ):
        check_weights(model)
        self._model, self._repair = model, repair
        self._thresholds = thresholds or Thresholds()
        calibrated_on = list(calibration_chips)
        for chip in (*chips, *calibrated_on):
            check_chip(chip)
        if isinstance(repair, RepairStep):
            repair.check_model(model)
        check_calibration_chips(quantization, calibrated_on)
        calibration = check_calibration(model, quantization, calibration)
        if images is None and calibration is not None:
            if labels is not None:
                raise ValueError("`labels` belong to `images`. Received: labels without images")
            images = calibration[:IMAGES]
        if images is None:
            raise ValueError(
                "`images` is needed to verify a file: a few dozen, preprocessed as for the model. "
                "Received: images=None"
            )
        self._images = check_images(model, images)
        self._kind = kind_of(model, labels)
        self._labels = checked_labels(model, labels, len(self._images))
        self._also_on = {
            name: (
                check_images(model, others, name),
                checked_labels(model, classes, len(others), name),
            )
            for name, (others, classes) in (also_on or {}).items()
        }
        self._micro_images = _check_micro(micro_images, quantization, len(self._images))
        self._calibration, self._how = calibration, (batch_size, converter)
        gains = chip_gains(chips, model)
        if tflite is None and calibrated_on and repair is not None and calibration is not None:
            how = (gains, batch_size, converter)
            tflite = quantize_on_repaired(model, calibration, calibrated_on, repair, *how)
        self._repairable: RepairableModel | None = None
        with self._on_chip(None, {}):
            self.patchable = (
                PatchableModel.convert(
                    model, quantization, calibration, batch_size, chips, calibrated_on, converter
                )
                if tflite is None
                else PatchableModel(model, tflite, gains)
            )
            if repair is not None and self.patchable.unmappable is None:
                self._repairable = RepairableModel(model, self.patchable, self._images[:1])
            ranges = self._range_change() if calibrated_on else None
        self._healthy = scaled(model, self.patchable.gains)
        self.source = Source(
            model=model.name,
            weights_sha256=weights_sha256(model),
            parameters=int(sum(np.prod(weight.shape) for weight in model.trainable_weights)),
            quantization=quantization,
            data=data,
            calibration=_describe(calibration, calibrated_on),
            ranges=ranges,
            gains=self.patchable.gains,
            command=command,
            commit=commit,
            repair=None if repair is None else repair_record(repair),
            unrolled=tuple(unrolled_layers(model)),
            converter=converter_name(converter),
        )
        self._weights = sum(kernel.values.size for kernel in kernels_of(model).values())

    def write(
        self, path: str | os.PathLike, chip: Chip | None = None, run: bool = True
    ) -> ExportReport:
        """Writes the verified file of a chip, or the fault-free one, with its sidecar.

        Args:
            path: `.tflite` file to write.
            chip: the chip; None for the fault-free file, with the gains of this exporter.
            run: whether the file is run. Without, only its bytes are checked.

        Raises:
            ExportError: if the file fails its verification; it is not left in place.
            OSError: if the file cannot be written.
        """
        path = _check_path(path)
        faults = self._healthy if chip is None else chip.faults(self._model)
        with self._on_chip(chip, faults), written_whole(path) as temporary:
            tflite, is_patched = self._make(chip, faults)
            temporary.write_bytes(tflite)
            written = temporary.read_bytes()
            try:
                verification = self._verify(written, chip, faults, is_patched, run)
                also_on = {} if verification is None else self._run_on_others(written)
                micro = None if verification is None else self._run_micro(written)
            except ValueError as error:
                raise ExportError(f"{path.name} failed its verification: {error}") from error
            report = ExportReport(
                path=path,
                sha256=hashlib.sha256(written).hexdigest(),
                size=len(written),
                source=self.source,
                method="patched" if is_patched else "converted",
                chip=chip_identity(chip),
                fault_rate=self._fault_rate(faults),
                verification=verification,
                also_on=also_on,
                micro=micro,
                stuck_values=self._stuck_values(faults),
            )
            write_sidecar(report)
        return report

    @contextmanager
    def _on_chip(self, chip: Chip | None, faults: Mapping[str, Fault]) -> Iterator[None]:
        """Programs the model, and repairs it if that is asked for, within a `with` block."""
        with ExitStack() as stack:
            stack.enter_context(program(self._model, faults))
            if self._repair is not None:
                stack.enter_context(self._repair(self._model, chip))
            yield

    def _make(
        self, chip: Chip | None, faults: Mapping[str, Fault]
    ) -> tuple[bytes | bytearray, bool]:
        """Returns the file of the model as it is programmed, and whether it was patched."""
        if chip is None:
            return self.patchable.tflite, False
        reason = self.patchable.unmappable
        if reason is None:
            if self._repairable is None:
                return bytes(self.patchable.patch(faults)), True
            try:
                return bytes(self._repairable.patch()), True
            except UnmappableError as error:
                reason = error
        warnings.warn(
            f"The chip's model is converted anew, since its file cannot be patched: {reason}",
            stacklevel=4,
        )
        return self._convert(self.source.quantization), False

    def _verify(
        self,
        tflite: bytes,
        chip: Chip | None,
        faults: Mapping[str, Fault],
        is_patched: bool,
        run: bool,
    ) -> Verification | None:
        """Returns what running a file showed; None for one of which only the bytes are checked."""
        if is_patched and self._repairable is not None:
            self._repairable.check(tflite)
        elif self._repair is None and self.patchable.unmappable is None:
            self.patchable.check(tflite, faults)
        if not run and is_patched:
            return None
        found = compare(self._model, tflite, self._images, self._labels, self._kind)
        if chip is not None or self.source.ranges is None:
            found.check(self.source.quantization, self._thresholds)
        return found

    def _run_on_others(self, tflite: bytes) -> dict[str, Verification]:
        return {
            name: compare(self._model, tflite, *labelled, self._kind)
            for name, labelled in self._also_on.items()
        }

    def _run_micro(self, tflite: bytes) -> MicroReport | None:
        if not self._micro_images:
            return None
        report = run_micro(tflite, self._images[: self._micro_images])
        report.check()
        return report

    def _convert(self, quantization: str) -> bytes:
        return convert(self._model, quantization, self._calibration, *self._how)

    def _range_change(self) -> RangeChange:
        with program(self._model, scaled(self._model, self.patchable.gains)):
            fault_free = self._convert("int8")
        return range_change(fault_free, self.patchable.tflite)

    def _fault_rate(self, faults: Mapping[str, Fault]) -> float:
        faulty = sum(int(np.count_nonzero(fault.faulty)) for fault in faults.values())
        return faulty / self._weights

    def _stuck_values(self, faults: Mapping[str, Fault]) -> StuckValues | None:
        if (
            self.patchable.unmappable
            or self._repair is not None
            or all(fault.offset is None for fault in faults.values())
        ):
            return None
        return self.patchable.stuck_values(faults)


def _check_path(path: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(path)
    if path.suffix != ".tflite":
        raise ValueError(f"`path` must end in '.tflite'. Received: path='{path}'")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _check_micro(count: int, quantization: str, images: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(f"`micro_images` must be an integer >= 0. Received: {count!r}")
    if count and quantization != "int8":
        raise ValueError(
            "TensorFlow Lite Micro runs int8 files here. Received: "
            f"quantization={quantization!r} with micro_images={count}"
        )
    return min(count, images)


def _describe(images: np.ndarray | None, chips: list[Chip]) -> dict | None:
    if images is None:
        return None
    return {
        "images": len(images),
        "sha256": hashlib.sha256(images.tobytes()).hexdigest(),
        "chips": [chip_identity(chip) for chip in chips],
    }
