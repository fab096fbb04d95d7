"""A run's folder: its identity in `run.json`, and one line for each chip in `chips.jsonl`.

`run.json` is one JSON object, written when the first chip is about to be evaluated:

    {"schema": "keras_rram.run/1", "name": "<the model's name>",
     "fingerprint": {"model": ..., "data": ..., "images": ..., "fault_model": ..., "seed": ...,
                     "engine": ..., "quantization": ..., "repair": ..., "stop": ...},
     "fault_free": {<the fields of ChipResult>}}

`chips.jsonl` holds the lines of `ChipResult`, in the order of evaluation: rate by rate, chip by
chip. Where a stop rule shows a chip more images, a later line of the chip replaces the earlier one.
Both files depend on the fingerprint alone, and not on when, where or in how many parts a run was
carried out.
"""

import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.files import written_whole

SCHEMA = "keras_rram.run/1"
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
        self._file: BinaryIO | None = None
        self._whole = 0
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

    def _read(self, folder: pathlib.Path) -> None:
        if (folder / _RUN).exists():
            self.header = _read_header(folder)
        path = folder / _CHIPS
        if not path.exists():
            return
        with path.open("rb") as file:
            for line, chip in _lines(file, path):
                self._whole += len(line)
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

    def begin(self, name: str, fingerprint: Mapping[str, Any], fault_free: ChipResult) -> None:
        """Writes the identity of the run and opens it for chips.

        Raises:
            ValueError: if another process is writing it.
            OSError: if the folder cannot be made or written.
        """
        header = {
            "schema": SCHEMA,
            "name": name,
            "fingerprint": dict(fingerprint),
            "fault_free": fault_free.to_dict(),
        }
        # As it is read back from the file, where tuples are lists.
        header = json.loads(json.dumps(header))
        is_new, self.header = self.header is None, self.header or header
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a line is with the operating system before the next chip begins.
        self._file = (self.folder / _CHIPS).open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"'{self.folder}' is being written by another process.") from None
        self._file.truncate(self._whole)
        if is_new:
            with written_whole(self.folder / _RUN) as temporary:
                temporary.write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")

    @property
    def fault_free(self) -> ChipResult | None:
        """The fault-free model's answers, if the run has begun."""
        return None if self.header is None else ChipResult.from_dict(self.header["fault_free"])

    def add(self, chip: ChipResult) -> None:
        """Appends a chip."""
        self._keep(chip)
        if self._file is not None:
            self._file.write(chip.to_line().encode() + b"\n")

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

    def _keep(self, chip: ChipResult) -> None:
        self._latest.setdefault(chip.fault_rate, {})[chip.index] = chip


def merge_runs(folders: Sequence[str | os.PathLike], out: str | os.PathLike) -> Records:
    """Joins runs of disjoint chips of one population into one folder.

    Args:
        folders: folders that `evaluate_population` wrote, without a stop rule.
        out: folder to write; it must not hold a run.

    Returns:
        The joined records; `PopulationResult`s come from `keras_rram.evaluation.load_run(out)`.

    Raises:
        ValueError: if a folder holds no run, or if the runs have different fingerprints, a stop
            rule, or a chip in common.

    Example:

    ```python
    evaluate_population(model, faults, chips=50, data=data, out="a")
    evaluate_population(model, faults, chips=50, first_chip=50, data=data, out="b")
    merge_runs(["a", "b"], out="both")
    ```
    """
    if len(folders) < 2:
        raise ValueError(f"expected two runs or more to merge. Received: {list(folders)}")
    joined: dict[tuple[float, int], ChipResult] = {}
    first, *others = parts = [read_run(folder) for folder in folders]
    header = _header(first)
    if header["fingerprint"]["stop"] is not None:
        raise ValueError(
            f"'{first.folder}' was ended by a stop rule, which chose its number of chips: "
            "such runs cannot be merged. Evaluate all chips in one run."
        )
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
    records = Records(out)
    records.begin(header["name"], header["fingerprint"], ChipResult.from_dict(header["fault_free"]))
    order = list(dict.fromkeys(rate for part in parts for rate in part.rates))
    for rate, index in sorted(joined, key=lambda key: (order.index(key[0]), key[1])):
        records.add(joined[rate, index])
    records.close()
    return records


def read_run(folder: str | os.PathLike) -> Records:
    """Reads the folder of a run.

    Raises:
        ValueError: if it holds none.
    """
    if not (pathlib.Path(folder) / _RUN).is_file():
        raise ValueError(f"'{folder}' holds no run: it has no '{_RUN}'.")
    return Records(folder, resume=True)


def _header(records: Records) -> dict[str, Any]:
    if records.header is None:
        raise ValueError(f"'{records.folder}' holds no run.")
    return records.header


def _read_header(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / _RUN
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is damaged: {error}") from None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(f"'{path}' is not of this version: expected the schema {SCHEMA!r}.")
    return header


def _lines(file: BinaryIO, path: pathlib.Path) -> Iterator[tuple[bytes, ChipResult]]:
    """Yields the whole lines of a file with their chips; the last may have been cut short."""
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            return
        try:
            yield line, ChipResult.from_line(line.decode())
        except (ValueError, TypeError) as error:
            raise ValueError(f"'{path}', line {number}, is damaged: {error}") from None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:16]}...{text[-8:]}"
