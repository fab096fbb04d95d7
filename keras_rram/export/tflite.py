"""A model, or one chip of it, as a verified TFLite file with a sidecar."""

import hashlib
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping

import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.data import check_images, check_labels
from keras_rram.export.calibration import RangeChange, range_change
from keras_rram.export.convert import check_calibration, convert
from keras_rram.export.errors import ExportError, UnmappableError
from keras_rram.export.kernels import (
    chip_gains,
    fault_free,
    kernels_of,
    rescaled,
    weights_sha256,
)
from keras_rram.export.micro import MicroReport, run_micro
from keras_rram.export.patchable import StuckValues, TFLitePatcher, convert_fault_free
from keras_rram.export.report import ExportReport, Source, chip_identity, write_sidecar
from keras_rram.export.verify import Thresholds, Verification, check_weights, compare
from keras_rram.faults import Fault
from keras_rram.files import written_whole

VERIFICATION_IMAGES = 256
"""Calibration images that files are verified with where no `images` are given."""

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
    thresholds: Thresholds | None = None,
    batch_size: int | None = None,
    also_on: Mapping[str, Labelled] | None = None,
    micro_images: int = 0,
    data: str | None = None,
    command: str | None = None,
    commit: str | None = None,
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
        labels: integer classes of `images`, for the accuracies in the sidecar.
        calibration_chips: for int8: chips that the activation ranges come from, rather than from
            the fault-free model. A fault-free file of such ranges is a template: what it computes
            is in its sidecar, but does not have to reach `thresholds`.
        thresholds: what the file must reach, defaults to `Thresholds()`.
        batch_size: see `convert`.
        also_on: name -> further images and labels to run the file on, for the sidecar.
        micro_images: with int8: run the file on as many images in TensorFlow Lite Micro too, where
            its outputs must be within a step of LiteRT's; the sidecar gets arena and operators.
        data: name of the dataset, for the sidecar.
        command: command line, for the sidecar.
        commit: version of the code, for the sidecar.

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
        calibration_chips=calibration_chips,
        gains=chip_gains([] if chip is None else [chip], model),
        thresholds=thresholds,
        batch_size=batch_size,
        also_on=also_on,
        micro_images=micro_images,
        data=data,
        command=command,
        commit=commit,
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
        calibration_chips: see there.
        gains: factors on healthy weights, see `chip_gains`.
        thresholds: see there.
        batch_size: see there.
        also_on: see there.
        micro_images: see there.
        data: see there.
        command: see there.
        commit: see there.
        tflite: the fault-free file, if it was converted before.

    Attributes:
        source: the common part of all sidecars.
        tflite: the fault-free file.
        patcher: its patcher, or None for a model whose kernels cannot be found in its file.
    """

    def __init__(
        self,
        model: keras.Model,
        quantization: str = "int8",
        calibration: np.ndarray | None = None,
        images: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        *,
        calibration_chips: Iterable[Chip] = (),
        gains: Mapping[str, float] | None = None,
        thresholds: Thresholds | None = None,
        batch_size: int | None = None,
        also_on: Mapping[str, Labelled] | None = None,
        micro_images: int = 0,
        data: str | None = None,
        command: str | None = None,
        commit: str | None = None,
        tflite: bytes | None = None,
    ):
        self._model = model
        self._thresholds = thresholds or Thresholds()
        chips = list(calibration_chips)
        calibration = check_calibration(model, quantization, calibration)
        if images is None and calibration is not None:
            if labels is not None:
                raise ValueError("`labels` belong to `images`. Received: labels without images")
            images = calibration[:VERIFICATION_IMAGES]
        if images is None:
            raise ValueError(
                "`images` is needed to verify a file: a few dozen, preprocessed as for the model. "
                "Received: images=None"
            )
        self._images = check_images(model, images)
        self._labels = None if labels is None else check_labels(labels, len(self._images))
        self._also_on = {
            name: (check_images(model, others, name), check_labels(classes, len(others)))
            for name, (others, classes) in (also_on or {}).items()
        }
        self._micro_images = _check_micro(micro_images, quantization, len(self._images))
        self._calibration, self._batch_size = calibration, batch_size
        self.tflite = tflite or convert_fault_free(
            model, quantization, calibration, batch_size, gains, chips
        )
        self.source = Source(
            model=model.name,
            weights_sha256=weights_sha256(model),
            parameters=int(sum(np.prod(weight.shape) for weight in model.trainable_weights)),
            quantization=quantization,
            data=data,
            calibration=_describe(calibration, chips),
            ranges=self._range_change(gains) if chips else None,
            gains=dict(gains or {}),
            command=command,
            commit=commit,
        )
        self._weights = sum(kernel.values.size for kernel in kernels_of(model).values())
        self.unmappable: UnmappableError | None = None
        self.patcher: TFLitePatcher | None = None
        try:
            self.patcher = TFLitePatcher(model, self.tflite, gains)
        except UnmappableError as error:
            self.unmappable = error

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
        drawn = {} if chip is None else chip.faults(self._model)
        faults = {} if chip is None else rescaled(chip, self._model, drawn)
        method = "converted" if chip is None or self.patcher is None else "patched"
        tflite = self._make(chip, faults)
        with written_whole(path) as temporary:
            temporary.write_bytes(tflite)
            written = temporary.read_bytes()
            try:
                verification, also_on = self._verify(written, chip, faults, run)
                micro = self._run_micro(written) if verification is not None else None
            except ValueError as error:
                raise ExportError(f"{path.name} failed its verification: {error}") from error
            report = ExportReport(
                path=path,
                sha256=hashlib.sha256(written).hexdigest(),
                size=len(written),
                source=self.source,
                method=method,
                chip=chip_identity(chip),
                fault_rate=self._fault_rate(drawn),
                verification=verification,
                also_on=also_on,
                micro=micro,
                stuck_values=self._stuck_values(faults),
            )
            write_sidecar(report)
        return report

    def _make(self, chip: Chip | None, faults: Mapping[str, Fault]) -> bytes | bytearray:
        if chip is None:
            return self.tflite
        if self.patcher is not None:
            return self.patcher.patch(faults)
        warnings.warn(
            f"The chip's faults are baked in before conversion, since its file cannot be patched: "
            f"{self.unmappable}",
            stacklevel=3,
        )
        with chip.program(self._model):
            return convert(
                self._model, self.source.quantization, self._calibration, self._batch_size
            )

    def _verify(
        self, tflite: bytes, chip: Chip | None, faults: Mapping[str, Fault], run: bool
    ) -> tuple[Verification | None, dict[str, Verification]]:
        """Returns what running a file showed, on the images and on each further set."""
        if self.patcher is not None:
            check_weights(self.patcher, tflite, self._with_gains(faults, chip))
        if not run and self.patcher is not None:
            return None, {}
        programmed = (
            fault_free(self._model, self.source.gains)
            if chip is None
            else chip.program(self._model)
        )
        with programmed:
            verification = compare(self._model, tflite, self._images, self._labels)
            if chip is not None or self.source.ranges is None:
                verification.check(self.source.quantization, self._thresholds)
            also_on = {
                name: compare(self._model, tflite, *labelled)
                for name, labelled in self._also_on.items()
            }
        return verification, also_on

    def _run_micro(self, tflite: bytes) -> MicroReport | None:
        if not self._micro_images:
            return None
        report = run_micro(tflite, self._images[: self._micro_images])
        report.check()
        return report

    def _range_change(self, gains: Mapping[str, float] | None) -> RangeChange:
        fault_free_ranges = convert_fault_free(
            self._model, "int8", self._calibration, self._batch_size, gains
        )
        return range_change(fault_free_ranges, self.tflite)

    def _with_gains(self, faults: Mapping[str, Fault], chip: Chip | None) -> Mapping[str, Fault]:
        """Returns the faults of the file: the fault-free one has every gain."""
        if chip is not None or self.patcher is None:
            return faults
        return {
            name: Fault(np.full(self.patcher.places[name][0].kernel.values.shape, gain, np.float32))
            for name, gain in self.source.gains.items()
        }

    def _fault_rate(self, faults: Mapping[str, Fault]) -> float:
        faulty = sum(int(np.count_nonzero(fault.faulty)) for fault in faults.values())
        return faulty / self._weights

    def _stuck_values(self, faults: Mapping[str, Fault]) -> StuckValues | None:
        if self.patcher is None or all(fault.offset is None for fault in faults.values()):
            return None
        return self.patcher.stuck_values(faults)


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
