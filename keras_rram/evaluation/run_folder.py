"""A run's folder: its identity in `run.json`, and one line for each chip in `chips.jsonl`.

`run.json` is one JSON object, written when the first chip is about to be evaluated:

    {"schema": "keras_rram.run/3", "name": "<the model's name>",
     "fingerprint": {"model": ..., "data": ..., "images": ..., "fault_model": "stuck_at_zero",
                     "seed": ..., "engine": ..., "quantization": ..., "repair": ...,
                     "access_tier": "A", "stop": ...},
     "fault_free": {<the fields of ChipResult>}, "fault_free_repaired": null or the same,
     "lines": <of `chips.jsonl`, once the run was done; without it, it never was>,
     "digest": "<SHA-256 of the rest>"}

The fault model is its text (`keras_rram.faults.text`) but for the rate, which each chip's line has.

`chips.jsonl` holds the lines of `ChipResult`, in the order of evaluation: rate by rate, chip by
chip. Where a stop rule shows a chip more images, a later line of the chip replaces the earlier one.
Both files depend on the fingerprint and the chips alone, and not on when, where or in how many
parts a run was carried out.

While a process writes a run it holds `chips.jsonl.lock`, which may stay.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import filelock
import numpy as np

from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.fingerprint import text_at_rate
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.statistics.intervals import Interval
from keras_rram.files import lock, whole_lines
from keras_rram.files.schemas import CHIP_LINE, RUN

_RUN, _CHIPS = "run.json", "chips.jsonl"


class Records:
    """What is known of each chip, in memory and, with a folder, on disk after every chip.

    Args:
        out: folder of the run, made if needed; None keeps everything in memory.
        resume: whether a run that is in the folder goes on. A line that a kill cut short does not
            count, and is removed when chips are added.

    Raises:
        ValueError: if the folder has a run and `resume` is off, or if its files are damaged.
        OSError: if the folder cannot be read.

    Attributes:
        folder: the folder, or None.
        header: content of `run.json`, or None before `begin`.
    """

    def __init__(self, out: str | os.PathLike | None = None, resume: bool = False):
        self.folder = None if out is None else pathlib.Path(out)
        self.header: dict[str, Any] | None = None
        self._latest: dict[float, dict[int, ChipResult]] = {}
        self._whole = self._lines = 0
        self._file: BinaryIO | None = None
        self._lock: filelock.BaseFileLock | None = None
        if self.folder is None:
            if resume:
                raise ValueError("expected `out`, the folder to resume. Received: out=None")
            return
        if (self.folder / _RUN).exists() or (self.folder / _CHIPS).exists():
            if not resume:
                raise ValueError(
                    f"'{self.folder}' holds a run already: resume it (resume=True, --resume), or "
                    "name another folder."
                )
            self._read(self.folder)

    def recall(self) -> None:
        """Takes what is on disk for what is known: an interrupt comes between any two things."""
        if self.folder is not None and self._file is not None:
            self._read(self.folder)

    def _read(self, folder: pathlib.Path) -> None:
        self._latest, self._whole, self._lines = {}, 0, 0
        if (folder / _RUN).exists():
            self.header = RUN.read(folder / _RUN)
        path = folder / _CHIPS
        if not path.exists():
            return
        for line, chip in _lines(path, self._is_sealed):
            self._whole += len(line)
            self._lines += 1
            self._keep(chip)
        if self._latest and self.header is None:
            raise ValueError(f"'{path}' has no '{_RUN}' beside it that says what was evaluated.")

    def check(self, fingerprint: Mapping[str, Any]) -> None:
        """Raises ValueError, naming what differs, unless a run found here has this fingerprint."""
        if self.header is None:
            return
        found = self.header["fingerprint"]
        # What JSON makes of it: tuples are lists there.
        wanted = json.loads(json.dumps(dict(fingerprint)))
        names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        if names:
            detail = "; ".join(
                f"{name}: {_short(found.get(name))} there, {_short(wanted.get(name))} now"
                for name in names
            )
            raise ValueError(
                f"'{self.folder}' holds a run of something else, and results must not be mixed. "
                f"What differs is {detail}. Name another folder, or evaluate what that run did."
            )

    def begin(self, header: Mapping[str, Any]) -> None:
        """Writes the identity of a new run, see `run_header`, and opens it for chips.

        Raises:
            ValueError: if another process is writing it.
            OSError: if the folder cannot be made or written.
        """
        # As it is read back from the file, where tuples are lists.
        self.header = json.loads(json.dumps(header)) | {RUN.key: RUN.version}
        self.open()
        if self.folder is not None:
            RUN.write(self.folder / _RUN, header, indent=1)

    def open(self) -> None:
        """Opens a run that has begun for more chips.

        Raises:
            ValueError: if another process is writing it.
            OSError: if the folder cannot be made or written.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = lock(self.folder / f"{_CHIPS}.lock")
        except BlockingIOError:
            raise ValueError(f"'{self.folder}' is being written by another process.") from None
        # Unbuffered: a line is with the operating system before the next chip begins.
        self._file = (self.folder / _CHIPS).open("ab", buffering=0)
        self._file.truncate(self._whole)

    @property
    def _is_sealed(self) -> bool:
        """Whether each line must have a digest: runs of earlier versions have lines without."""
        return self.header is not None and self.header[RUN.key] == RUN.version

    @property
    def fault_free(self) -> ChipResult:
        """The fault-free model's answers, not repaired, of a run that has begun."""
        return ChipResult.from_dict(self._begun["fault_free"])

    @property
    def stopped_by_rule(self) -> bool:
        """Whether a stop rule chooses the number of chips."""
        return self._begun["fingerprint"]["stop"] is not None

    @property
    def _begun(self) -> dict[str, Any]:
        if self.header is None:
            raise ValueError(f"'{self.folder}' holds no run.")
        return self.header

    def engine_for(self, engine: str) -> str:
        """Returns the engine of the run that is resumed, where "auto" leaves it open."""
        is_open = engine == "auto" and self.header is not None
        return self._begun["fingerprint"]["engine"] if is_open else engine

    def result(
        self,
        rate: float,
        chips: Sequence[ChipResult] | None = None,
        interval: Interval | None = None,
        reason: str | None = None,
    ) -> PopulationResult:
        """Returns the result at one fault rate.

        Args:
            rate: the fault rate.
            chips: the chips; those that are known by default.
            interval: the one that a stop rule ended with.
            reason: why it ended; None where it was interrupted.
        """
        found = self._begun["fingerprint"]
        repaired = self._begun["fault_free_repaired"]
        return PopulationResult(
            model=found["model"],
            data=found["data"],
            fault_model=text_at_rate(found["fault_model"], rate),
            rate=rate,
            seed=found["seed"],
            engine=f"{found['engine']} {found['quantization']}",
            fault_free=self.fault_free.accuracy,
            chips=tuple(self.chips(rate).values() if chips is None else chips),
            repair=found["repair"],
            access_tier=found["access_tier"],
            fault_free_repaired=repaired and ChipResult.from_dict(repaired).accuracy,
            name=self._begun["name"],
            stop_interval=interval,
            measure=found.get("measure", {}).get("name", "accuracy"),
            higher_is_better=found.get("measure", {}).get("higher_is_better", True),
            reason=reason or "interrupted",
            interrupted=reason is None,
        )

    def add(self, chip: ChipResult) -> None:
        """Appends a chip."""
        if self._file is not None:
            self._file.write(chip.to_line().encode() + b"\n")
            self._lines += 1
        self._keep(chip)

    def finish(self) -> None:
        """Writes how many lines a run has that is done, so that a reader misses those that go.

        Runs of earlier versions stay without: with this version their lines would need digests.
        """
        if self.folder is None or not self._is_sealed or self._begun.get("lines") == self._lines:
            return
        self.header = self._begun | {"lines": self._lines}
        RUN.write(self.folder / _RUN, self.header, indent=1)

    def check_lines(self) -> None:
        """Raises ValueError if lines of a run that was done are gone."""
        lines = self._begun.get("lines") or 0
        if self._lines < lines:
            raise ValueError(
                f"'{self.folder}' was done with {lines} lines in '{_CHIPS}', of which "
                f"{self._lines} are left. Resume the run (--resume): the chips of the others are "
                "evaluated anew."
            )

    def chips(self, rate: float) -> dict[int, ChipResult]:
        """Returns the latest record of each chip at a fault rate, by index."""
        return self._latest.get(rate, {})

    @property
    def rates(self) -> list[float]:
        """Fault rates that chips were evaluated at, in the order of the run."""
        return list(self._latest)

    def close(self) -> None:
        """Closes the file; what was added is complete."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.release()

    def _keep(self, chip: ChipResult) -> None:
        self._latest.setdefault(chip.fault_rate, {})[chip.index] = chip


def run_header(
    name: str,
    fingerprint: Mapping[str, Any],
    fault_free: np.ndarray,
    repaired: np.ndarray | None = None,
) -> dict[str, Any]:
    """Returns the content of `run.json`.

    Args:
        name: the model's name.
        fingerprint: what must agree where the run is resumed.
        fault_free: whether the fault-free model is right on each image, or its scores.
        repaired: the same of the repaired one, where there is a repair.
    """
    healthy, after = (
        None
        if answers is None
        else ChipResult.from_answers(0, 0.0, 0.0, answers, images=fingerprint["images"]).to_dict()
        for answers in (fault_free, repaired)
    )
    return {
        RUN.key: RUN.version,
        "name": name,
        "fingerprint": dict(fingerprint),
        "fault_free": healthy,
        "fault_free_repaired": after,
    }


def load_run(folder: str | os.PathLike) -> list[PopulationResult]:
    """Reads the results in the folder of a run, one for each fault rate.

    Args:
        folder: `out` of an evaluation without a stop rule, or of `merge_runs`.

    Raises:
        ValueError: if there is no run, or one with a stop rule: its interval depends on all its
            looks, so evaluate it again with `resume=True`, which repeats nothing.
    """
    records = read_run(folder)
    if records.stopped_by_rule:
        raise ValueError(
            f"'{folder}' was ended by a stop rule: call evaluate_population(..., resume=True)."
        )
    return [
        records.result(rate, reason=f"all {len(records.chips(rate))} chips on all images")
        for rate in records.rates
    ]


def merge_runs(
    folders: Sequence[str | os.PathLike], out: str | os.PathLike
) -> list[PopulationResult]:
    """Joins runs of disjoint chips of one population into one folder.

    Args:
        folders: folders that `evaluate_population` wrote, without a stop rule.
        out: folder to write; it must not hold a run.

    Returns:
        The joined results, one for each fault rate, as `load_run(out)` reads them.

    Raises:
        ValueError: if a folder holds no run, or if the runs have different fingerprints, a stop
            rule, or a chip in common.

    Example:

    ```python
    evaluate_population(model, faults, data, chips=50, out="a")
    evaluate_population(model, faults, data, chips=50, first_chip=50, out="b")
    merge_runs(["a", "b"], out="both")
    ```
    """
    if len(folders) < 2:
        raise ValueError(f"expected two runs or more to merge. Received: {list(folders)}")
    joined: dict[tuple[float, int], ChipResult] = {}
    first, *others = parts = [read_run(folder) for folder in folders]
    if first.stopped_by_rule:
        raise ValueError(
            f"'{first.folder}' was ended by a stop rule, which chose its number of chips: "
            "such runs cannot be merged. Evaluate all chips in one run."
        )
    header = {key: value for key, value in (first.header or {}).items() if key != "lines"}
    for part in others:
        part.check(header["fingerprint"])
    for part in parts:
        for rate in part.rates:
            for index, chip in part.chips(rate).items():
                if (rate, index) in joined:
                    raise ValueError(
                        f"expected runs of disjoint chips. Received: chip {index} at rate {rate} "
                        f"again in '{part.folder}' (evaluate it in one of them; `first_chip` "
                        "chooses where a run begins)"
                    )
                joined[rate, index] = chip
    order = list(dict.fromkeys(rate for part in parts for rate in part.rates))
    with contextlib.closing(Records(out)) as records:
        records.begin(header)
        for rate, index in sorted(joined, key=lambda key: (order.index(key[0]), key[1])):
            records.add(joined[rate, index])
        records.finish()
    return load_run(out)


def read_run(folder: str | os.PathLike) -> Records:
    """Reads the folder of a run.

    Raises:
        ValueError: if it holds none, or one that was done and has lost lines.
    """
    if not (pathlib.Path(folder) / _RUN).is_file():
        raise ValueError(f"'{folder}' holds no run: it has no '{_RUN}'.")
    records = Records(folder, resume=True)
    records.check_lines()
    if not records.rates:
        raise ValueError(f"'{folder}' holds a run of no chip yet: resume it (--resume) first.")
    return records


def _lines(path: pathlib.Path, is_sealed: bool) -> Iterator[tuple[bytes, ChipResult]]:
    """Yields the whole lines of a file with their chips; the last may have been cut short."""
    for number, line in whole_lines(path.read_bytes()):
        fields = CHIP_LINE.parse(line, path, number, is_sealed=is_sealed)
        try:
            chip = ChipResult.from_dict(fields)
        except (ValueError, TypeError) as error:
            raise ValueError(f"'{path}', line {number}, is damaged: {error}") from None
        yield line, chip


def _short(value: Any) -> str:
    if isinstance(value, dict) and {"name", "identity"} <= set(value):  # a measure
        return f"{value['name']} ({value['identity'][-60:]})"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:16]}...{text[-8:]}"
