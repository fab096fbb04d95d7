"""A model, or one chip of it, as a verified TFLite file with a sidecar."""

import hashlib
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np

from keras_rram.chips.chip import Chip, check_chip, program
from keras_rram.data import check_classes, check_images, check_labels
from keras_rram.export.calibration import RangeChange, range_change
from keras_rram.export.convert import check_calibration, convert
from keras_rram.export.errors import ExportError
from keras_rram.export.kernels import kernels_of, scaled, weights_sha256
from keras_rram.export.micro import MicroReport, run_micro
from keras_rram.export.patchable import PatchableModel, StuckValues
from keras_rram.export.sidecar import ExportReport, Source, chip_identity, write_sidecar
from keras_rram.export.verify import IMAGES, Thresholds, Verification, compare
from keras_rram.faults import Fault
from keras_rram.files import written_whole
from keras_rram.layers import check_weights

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
        chips=[] if chip is None else [chip],
        calibration_chips=calibration_chips,
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
        chips: what files will be written for, see `PatchableModel.convert`.
        calibration_chips: see there.
        thresholds: see there.
        batch_size: see there.
        also_on: see there.
        micro_images: see there.
        data: see there.
        command: see there.
        commit: see there.
        patchable: the converted model, if it was converted before.

    Attributes:
        source: the common part of all sidecars.
        patchable: the converted model. Where it cannot be patched, each chip is converted.
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
        thresholds: Thresholds | None = None,
        batch_size: int | None = None,
        also_on: Mapping[str, Labelled] | None = None,
        micro_images: int = 0,
        data: str | None = None,
        command: str | None = None,
        commit: str | None = None,
        patchable: PatchableModel | None = None,
    ):
        check_weights(model)
        self._model = model
        self._thresholds = thresholds or Thresholds()
        calibrated_on = list(calibration_chips)
        for chip in (*chips, *calibrated_on):
            check_chip(chip)
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
        self._labels = None if labels is None else check_labels(labels, len(self._images))
        check_classes(model, self._labels)
        self._also_on = {
            name: (check_images(model, others, name), check_labels(classes, len(others)))
            for name, (others, classes) in (also_on or {}).items()
        }
        for name, (_, classes) in self._also_on.items():
            check_classes(model, classes, name)
        self._micro_images = _check_micro(micro_images, quantization, len(self._images))
        self._calibration, self._batch_size = calibration, batch_size
        self.patchable = patchable or PatchableModel.convert(
            model, quantization, calibration, batch_size, chips, calibrated_on
        )
        self._healthy = scaled(model, self.patchable.gains)
        self.source = Source(
            model=model.name,
            weights_sha256=weights_sha256(model),
            parameters=int(sum(np.prod(weight.shape) for weight in model.trainable_weights)),
            quantization=quantization,
            data=data,
            calibration=_describe(calibration, calibrated_on),
            ranges=self._range_change() if calibrated_on else None,
            gains=self.patchable.gains,
            command=command,
            commit=commit,
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
        is_patched = chip is not None and self.patchable.unmappable is None
        tflite = self._make(chip, faults)
        with written_whole(path) as temporary:
            temporary.write_bytes(tflite)
            written = temporary.read_bytes()
            try:
                verification = self._verify(written, chip, faults, run)
                also_on = {} if verification is None else self._run_on_others(written, faults)
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

    def _make(self, chip: Chip | None, faults: Mapping[str, Fault]) -> bytes | bytearray:
        if chip is None:
            return self.patchable.tflite
        if self.patchable.unmappable is None:
            return self.patchable.patch(faults)
        warnings.warn(
            f"The chip's faults are baked in before conversion, since its file cannot be patched: "
            f"{self.patchable.unmappable}",
            stacklevel=3,
        )
        with program(self._model, faults):
            return convert(
                self._model, self.source.quantization, self._calibration, self._batch_size
            )

    def _verify(
        self, tflite: bytes, chip: Chip | None, faults: Mapping[str, Fault], run: bool
    ) -> Verification | None:
        """Returns what running a file showed; None for one of which only the bytes are checked."""
        if not run and self.patchable.unmappable is None:
            self.patchable.check(tflite, faults)
            return None
        found = self.patchable.verify(self._model, faults, self._images, self._labels, tflite)
        if chip is not None or self.source.ranges is None:
            found.check(self.source.quantization, self._thresholds)
        return found

    def _run_on_others(self, tflite: bytes, faults: Mapping[str, Fault]) -> dict[str, Verification]:
        with program(self._model, faults):
            return {
                name: compare(self._model, tflite, *labelled)
                for name, labelled in self._also_on.items()
            }

    def _run_micro(self, tflite: bytes) -> MicroReport | None:
        if not self._micro_images:
            return None
        report = run_micro(tflite, self._images[: self._micro_images])
        report.check()
        return report

    def _range_change(self) -> RangeChange:
        with program(self._model, self._healthy):
            fault_free = convert(self._model, "int8", self._calibration, self._batch_size)
        return range_change(fault_free, self.patchable.tflite)

    def _fault_rate(self, faults: Mapping[str, Fault]) -> float:
        faulty = sum(int(np.count_nonzero(fault.faulty)) for fault in faults.values())
        return faulty / self._weights

    def _stuck_values(self, faults: Mapping[str, Fault]) -> StuckValues | None:
        if self.patchable.unmappable or all(fault.offset is None for fault in faults.values()):
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
