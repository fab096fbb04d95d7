"""A whole population of chips as TFLite files: one folder, one index, resumable."""

import dataclasses
import functools
import inspect
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import keras
import numpy as np

from keras_rram.chips.chip import Chip, check_chip
from keras_rram.export.converters import Converter
from keras_rram.export.exporter import Exporter, Labelled
from keras_rram.export.flatbuffer import read
from keras_rram.export.sidecar import (
    FORMAT,
    INDEX,
    ExportReport,
    check_described,
    chip_identity,
    read_index,
    read_sidecar,
    sidecar_path,
)
from keras_rram.export.verify import Thresholds
from keras_rram.files import is_sha256_of, one_writer, written_whole
from keras_rram.files.schemas import INDEX_LINE
from keras_rram.repair import Repair

BASE = "base.tflite"


_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclasses.dataclass(frozen=True)
class FailedChip:
    """A chip without a file.

    Attributes:
        file: name that its file would have.
        chip: identity of the chip, see `chip_identity`.
        reason: why there is none.
    """

    file: str
    chip: dict[str, Any]
    reason: str

    def summary(self) -> dict[str, Any]:
        """Returns what an index says of the chip, as plain values."""
        return {"format": FORMAT, "file": self.file, "chip": self.chip, "failed": self.reason}


@dataclasses.dataclass(frozen=True)
class PopulationExport:
    """What `export_population` left in a folder.

    Attributes:
        folder: the folder.
        base: the fault-free file that all chips are patched from.
        index: JSON lines, one for each chip, those of the runs that this one resumed too: file,
            SHA-256, size, chip, fault rate, verification; of a chip without a file the reason, as
            `failed`.
        written: number of chips that were written.
        kept: number of these chips that were there before, from the run that this one resumed.
        failed: the chips that have no file.
    """

    folder: pathlib.Path
    base: pathlib.Path
    index: pathlib.Path
    written: int
    kept: int
    failed: tuple[FailedChip, ...] = ()


def _alone(export: Callable[_P, _R]) -> Callable[_P, _R]:
    """Keeps every other writer out of the argument `folder` while a function writes."""
    signature = inspect.signature(export)

    @functools.wraps(export)
    def alone(*arguments: _P.args, **options: _P.kwargs) -> _R:
        folder = pathlib.Path(signature.bind(*arguments, **options).arguments["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        with one_writer(folder / INDEX):
            return export(*arguments, **options)

    return alone


@_alone
def export_population(
    model: keras.Model,
    folder: str | os.PathLike,
    chips: Sequence[Chip],
    quantization: str = "int8",
    calibration: np.ndarray | None = None,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    calibration_chips: Sequence[Chip] = (),
    repair: Repair | None = None,
    thresholds: Thresholds | None = None,
    resume: bool = False,
    run: bool = True,
    progress: Callable[[ExportReport], Any] | None = None,
    also_on: Mapping[str, Labelled] | None = None,
    micro_images: int = 0,
    data: str | None = None,
    command: str | None = None,
    commit: str | None = None,
    converter: Converter | str = "tensorflow",
) -> PopulationExport:
    """Writes a verified TFLite file for each of many chips, from one conversion.

    Where the fault-free file, or the repaired one, cannot be patched, each chip is converted, with
    a warning that says why.

    The folder gets `base.tflite` (fault-free), one file for each chip, a sidecar for each file, and
    an index. Files appear one by one and whole; a run that was stopped at any moment goes on with
    `resume=True`. A chip that cannot be written, since its map is of another model or its file
    fails the verification, leaves no file but its reason in the index, and the others are written;
    `resume=True` tries it again.

    Args:
        model: see `export_tflite`, likewise `quantization`, `calibration`, `images`, `labels`,
            `calibration_chips`, `repair`, `thresholds`, `also_on`, `micro_images`, `data`,
            `command`, `commit` and `converter`.
        folder: folder to write; made if needed, and without a population in it, unless resumed.
        chips: the chips, all different. The file of a measured one has the chip's name, so names
            differ, and none is "base".
        quantization: see `export_tflite`.
        calibration: see there.
        images: see there; every file is run on all of them.
        labels: see there.
        calibration_chips: see there.
        repair: see there; it is applied to each chip, and to the fault-free model of the base.
        thresholds: see there.
        resume: whether the chips of an earlier run of the same export are kept, these and others.
        run: whether each chip's file is run next to the Keras model. Without, every byte is checked
            all the same, and the base and the first chip are run: much faster.
        progress: called with the report of each file after it is written.
        also_on: see `export_tflite`; for the files that are run.
        micro_images: see there; likewise.
        data: see there.
        command: see there.
        commit: see there.
        converter: see there.

    Returns:
        What the folder holds, and which chips failed.

    Raises:
        ValueError: if an argument does not fit, or if the folder holds another export, or one of
            another format.
        ExportError: if the model cannot be converted, or the fault-free file fails its
            verification.
        OSError: if a file cannot be written.

    Example:

    ```python
    chips = keras_rram.population(keras_rram.StuckAtZero(0.2), 1000, seed=1)
    export_population(model, "chips", chips, "int8", train_images[:300], images, labels)
    ```
    """
    folder = pathlib.Path(folder)
    names = file_names(chips)
    folder.mkdir(parents=True, exist_ok=True)
    base, index = folder / BASE, folder / INDEX
    if not resume and (base.exists() or index.exists()):
        raise ValueError(
            f"Folder '{folder}' holds an export already. Resume it (`resume=True`), or choose "
            "another folder."
        )
    exporter = Exporter(
        model,
        quantization,
        calibration,
        images,
        labels,
        chips=chips,
        calibration_chips=calibration_chips,
        repair=repair,
        thresholds=thresholds,
        also_on=also_on,
        micro_images=micro_images,
        data=data,
        command=command,
        commit=commit,
        converter=converter,
        tflite=read(base) if base.exists() else None,
    )
    if base.exists():
        _check_same(base, exporter)
    else:
        exporter.write(base)
    known, mine = read_index(index) if resume else {}, set(names.values())
    kept = {
        name: known[name]
        for chip in chips
        if _is_kept(folder, known.get(name := names[_key(chip)]), chip)
    }
    others = [  # of earlier calls with other chips, whose files stay
        known[name]
        for name in known
        if name not in mine and ("failed" in known[name] or _is_whole(folder, known[name]))
    ]
    for leftover in folder.glob(".partial-*"):
        leftover.unlink()
    with written_whole(index) as temporary:
        ours = [kept[name] for name in names.values() if name in kept]
        lines = [INDEX_LINE.line(record) for record in [*others, *ours]]
        temporary.write_text("".join(lines), encoding="utf-8")
    written, failed = 0, []
    with index.open("a", encoding="utf-8") as lines_out:
        for chip in chips:
            name = names[_key(chip)]
            if name in kept:
                continue
            outcome = _write(exporter, folder / name, chip, run or not written)
            lines_out.write(INDEX_LINE.line(outcome.summary()))
            lines_out.flush()
            if isinstance(outcome, FailedChip):
                failed.append(outcome)
                continue
            written += 1
            if progress is not None:
                progress(outcome)
    return PopulationExport(folder, base, index, written, len(kept), tuple(failed))


def _write(
    exporter: Exporter, path: pathlib.Path, chip: Chip, run: bool
) -> ExportReport | FailedChip:
    """Writes the file of a chip, or says why there is none."""
    try:
        return exporter.write(path, chip, run=run)
    except ValueError as error:
        for leftover in (path, sidecar_path(path)):  # of a run that was killed before its index
            leftover.unlink(missing_ok=True)
        return FailedChip(path.name, chip_identity(chip) or {}, str(error))


def _key(chip: Chip) -> str:
    return json.dumps(chip_identity(chip), sort_keys=True)


def file_names(chips: Sequence[Chip]) -> dict[str, str]:
    """Returns the file name of each chip by its identity: seed and index, name, or map's SHA-256.

    Raises:
        ValueError: if there is no chip, if two would have one file, or one that of the base.
    """
    if not chips:
        raise ValueError("`chips` must hold at least one chip. Received: none")
    for chip in chips:
        check_chip(chip)
    models = {chip.fault_model for chip in chips}
    if len(models) > 1:
        raise ValueError(
            "All chips of a folder must have one fault model, since their files are named by seed "
            f"and index. Received: {sorted(map(str, models))}. Use a folder for each."
        )
    names: dict[str, str] = {}
    for chip in chips:
        identity = chip_identity(chip) or {}
        digest = identity["measured_sha256"]
        name = f"chip_{chip.seed}_{chip.index:05d}" if digest is None else f"chip_{digest[:16]}"
        if digest is not None and chip.name:
            name = chip.name
        names[_key(chip)] = f"{name}.tflite"
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    called = [chip.name for chip in chips if f"{chip.name}.tflite" in twice]
    if called:
        raise ValueError(
            "`chips` must have different names, which name their files. Received: maps that "
            f"differ, and {sorted(set(called))[:5]} more than once (a chip is called after its "
            "file: rename one)"
        )
    # Some file systems do not tell capitals apart.
    if base := [name for name in names.values() if name.casefold() == BASE]:
        raise ValueError(
            f"A chip cannot be called '{base[0].removesuffix('.tflite')}', since '{BASE}' is the "
            "fault-free file. Rename the chip (it is called after its file)."
        )
    if len(set(names.values())) != len(chips):
        raise ValueError(
            "`chips` must differ in seed, index or map, which name their files. Received: "
            f"{len(chips)} chips for {len(set(names.values()))} files"
        )
    return names


def _check_same(base: pathlib.Path, exporter: Exporter) -> None:
    """Refuses to go on with an export of something else."""
    found = read_sidecar(base)
    if found is None:
        raise ValueError(f"'{base}' has no sidecar: it is not the base of an export to resume.")
    source = json.loads(json.dumps(dataclasses.asdict(exporter.source)))
    found.setdefault("converter", "tensorflow")
    for name in ("weights_sha256", "quantization", "calibration", "gains", "repair", "converter"):
        if found.get(name) != source[name]:
            raise ValueError(
                f"'{base.parent}' holds an export of something else: its {name} is "
                f"{found.get(name)}, and this one's is {source[name]}. Choose another folder."
            )
    if not is_sha256_of(found.get("sha256"), exporter.patchable.tflite):
        raise ValueError(f"'{base}' is not the file that its sidecar describes.")


def _is_kept(folder: pathlib.Path, record: dict[str, Any] | None, chip: Chip) -> bool:
    if record is None or "failed" in record:
        return False
    if record["chip"] != json.loads(_key(chip)):
        raise ValueError(
            f"'{folder}' holds '{record['file']}' of another chip: {record['chip']}. Choose "
            "another folder."
        )
    return _is_whole(folder, record)


def _is_whole(folder: pathlib.Path, record: dict[str, Any]) -> bool:
    """Returns whether the file of a line of the index is there, as line and sidecar say."""
    path = folder / record["file"]
    if not path.exists() or not sidecar_path(path).exists():
        return False
    tflite = path.read_bytes()
    if not is_sha256_of(record["sha256"], tflite):
        return False
    check_described(path, tflite)
    return True
