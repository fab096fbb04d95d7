"""What is known about an exported file, and the sidecar that says it."""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from keras_rram import faults
from keras_rram.chips.chip import Chip
from keras_rram.export.calibration import RangeChange
from keras_rram.export.micro import MicroReport
from keras_rram.export.patchable import StuckValues
from keras_rram.export.verify import Verification
from keras_rram.faults import FaultModel
from keras_rram.files import array_sha256, is_sha256_of, whole_lines
from keras_rram.files.schemas import INDEX_LINE, MODELS_INDEX, SIDECAR
from keras_rram.repair import Repair, access_tier, describe_repair

FORMAT = SIDECAR.version
"""Version of sidecars and indexes. From 2 on a fault model is its text, `faults.spec`; from 3 on
they have a digest."""

INDEX, MODELS = "index.jsonl", "index.json"
"""Names of the index in the folder of an export, and of `tools.export_models`."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What all files of one export have in common.

    Attributes:
        model: name of the Keras model.
        weights_sha256: SHA-256 of its trained weights.
        parameters: number of its trained weights.
        quantization: one of `QUANTIZATIONS`.
        data: name of the dataset of the calibration and verification images, if given.
        calibration: what the activation ranges come from; None where there are none.
        ranges: what calibration on chips changed; None without.
        gains: kernel name -> factor on the healthy weights, for layers that rescale.
        command: the command line that made the export, if given.
        commit: the version of the code that made it, if given.
        repair: what was done to each chip, and to the fault-free model, before its file was made,
            see `repair_record`; None without.
        unrolled: names of the recurrent layers that are a chain of steps in the files.
        converter: what made the files, by name.
    """

    model: str
    weights_sha256: str
    parameters: int
    quantization: str
    data: str | None
    calibration: dict[str, Any] | None
    ranges: RangeChange | None
    gains: dict[str, float]
    command: str | None
    commit: str | None
    repair: dict[str, Any] | None = None
    unrolled: tuple[str, ...] = ()
    converter: str = "tensorflow"

    def facts(self) -> dict[str, Any]:
        """Returns what a sidecar says of it, plain values; of the last three what is unusual."""
        usual = {"repair": None, "unrolled": (), "converter": "tensorflow"}
        found = dataclasses.asdict(self).items()
        return {key: value for key, value in found if usual.get(key, ...) != value}


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """One exported file.

    Attributes:
        path: the `.tflite` file.
        sha256: of the file.
        size: of the file, in bytes.
        source: the model and how it was converted.
        method: `"converted"`, or `"patched"` from the fault-free file.
        chip: identity of the chip, see `chip_identity`; None for the fault-free model.
        fault_rate: achieved fault rate over all kernels that a chip acts on, in `[0, 1]`.
        verification: what running the file showed; None if only its bytes were checked.
        also_on: name of a further set of images -> what running the file on it showed.
        micro: what TensorFlow Lite Micro showed: arena, operators, difference; None if not run.
        stuck_values: how well the file holds stuck values other than zero; None without any.
    """

    path: pathlib.Path
    sha256: str
    size: int
    source: Source
    method: str
    chip: dict[str, Any] | None
    fault_rate: float
    verification: Verification | None
    also_on: dict[str, Verification]
    micro: MicroReport | None
    stuck_values: StuckValues | None

    def summary(self) -> dict[str, Any]:
        """Returns what an index says of the file, as plain values."""
        return {
            "format": FORMAT,
            "file": self.path.name,
            "sha256": self.sha256,
            "size": self.size,
            "method": self.method,
            "chip": self.chip,
            "fault_rate": self.fault_rate,
            "verification": _plain(self.verification),
            "also_on": {name: _plain(found) for name, found in self.also_on.items()},
            "micro": _plain(self.micro),
            "stuck_values": _plain(self.stuck_values),
        }

    def sidecar(self) -> dict[str, Any]:
        """Returns the content of the file's sidecar, as plain values."""
        import keras_rram

        return {
            **self.summary(),
            "project": "keras_rram",
            "version": keras_rram.__version__,
            **self.source.facts(),
        }


def sidecar_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns where the sidecar of a `.tflite` file is: beside it, with `.json` added."""
    return pathlib.Path(f"{path}.json")


def write_sidecar(report: ExportReport) -> None:
    """Writes the sidecar of an exported file, whole or not at all."""
    SIDECAR.write(sidecar_path(report.path), report.sidecar())


def read_sidecar(path: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the sidecar of a `.tflite` file, or None where there is none.

    Raises:
        ValueError: if there is one that cannot be understood.
    """
    try:
        return SIDECAR.read(sidecar_path(path))
    except FileNotFoundError:
        return None


def read_index(place: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the lines of an index by file name; a last line that was cut short does not count.

    Raises:
        ValueError: if a line cannot be understood, or names a file that another one names.
    """
    records: dict[str, dict[str, Any]] = {}
    if not place.exists():
        return records
    for number, line in whole_lines(place.read_bytes()):
        record = INDEX_LINE.parse(line, place, number)
        if records.setdefault(record["file"], record) is not record:
            raise ValueError(f"'{place}', line {number}, names '{record['file']}' a second time.")
    return records


def check_described(path: pathlib.Path, tflite: bytes | bytearray) -> dict[str, Any] | None:
    """Returns the sidecar of a file, None without one, once file, sidecar and index agree.

    Args:
        path: the `.tflite` file.
        tflite: its bytes.

    Raises:
        ValueError: if the sidecar, or the index beside it, is damaged or says something else than
            the other, or of other bytes.
    """
    sidecar = read_sidecar(path)
    if sidecar is None:
        return None
    if not is_sha256_of(sidecar["sha256"], tflite) or sidecar["size"] != len(tflite):
        raise ValueError(
            f"'{path}' is not the file that its sidecar describes: the SHA-256 differ. Export it "
            "again, or copy both anew."
        )
    lines = read_index(path.parent / INDEX)
    if (models := path.parent / MODELS).exists():
        lines |= {each["file"]: each for each in MODELS_INDEX.read(models)["files"]}
    if path.name in lines:
        check_agreement(lines[path.name], sidecar, path)
    return sidecar


def check_agreement(line: dict[str, Any], sidecar: dict[str, Any], path: pathlib.Path) -> None:
    """Raises ValueError where a line of an index and a sidecar say different things of a file."""
    shared = (line.keys() & sidecar.keys()) - {"format"}
    names = sorted(name for name in shared if line[name] != sidecar[name])
    if names:
        raise ValueError(
            f"'{path}': its sidecar and its line of the index differ in {', '.join(names)}. "
            "Export the files again."
        )


def chip_identity(chip: Chip | None) -> dict[str, Any] | None:
    """Returns what a chip is, as plain values.

    That is the text of its fault model, seed and index, and the SHA-256 of a measured map.
    """
    if chip is None:
        return None
    digest = None
    if chip.measured is not None:
        sha256 = hashlib.sha256()
        for name, fault in sorted(chip.measured.items()):
            sha256.update(name.encode())
            sha256.update(fault.mask.tobytes())
            sha256.update(b"" if fault.offset is None else fault.offset.tobytes())
        digest = sha256.hexdigest()
    return {
        "fault_model": None if chip.fault_model is None else _text(chip.fault_model),
        "seed": chip.seed,
        "index": chip.index,
        "stream": chip.stream,
        "measured_sha256": digest,
        **({"name": chip.name} if chip.name else {}),
    }


def repair_record(repair: Repair) -> dict[str, Any]:
    """Returns what a repair is, as plain values.

    That is the text of its options and the digest of its data, its access tier, and for each array
    of its data, images above all, how many there are and their SHA-256.
    """
    return {
        "repair": describe_repair(repair),
        "access_tier": access_tier(repair),
        "data": [
            {
                "repair": str(getattr(part, "name", type(part).__name__)),
                "array": field.name,
                "count": len(value),
                "sha256": array_sha256(value),
            }
            for part in getattr(repair, "parts", (repair,))
            if dataclasses.is_dataclass(part)
            for field in dataclasses.fields(part)
            if isinstance(value := getattr(part, field.name), np.ndarray)
        ],
    }


def _text(model: FaultModel) -> str:
    try:
        return faults.spec(model)
    except TypeError:
        return repr(model)  # what no text says, a user's own class say, cannot be read back


def _plain(value: Any) -> dict[str, Any] | None:
    return None if value is None else dataclasses.asdict(value)
