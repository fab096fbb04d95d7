"""Kills tools at random moments, resumes them, and compares what they leave with a run in one go.

    python -m tests.kills --kills=20 --seed=0 --out=/tmp/kills

Linux only. Each tool is killed (SIGKILL, its first process alone) as often as that; after each kill
no process of it may be left, and each resumed folder must hold the same bytes as the folder of a
run that was not killed, but for times and logs.
"""

import argparse
import atexit
import contextlib
import importlib
import io
import os
import pathlib
import random
import re
import runpy
import signal
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from tests.run_tools import ROOT

MOST_SECONDS = 240  # for a run to show that it makes progress
LEFT_SECONDS = 20  # for the workers to notice


@dataclass(frozen=True)
class Job:
    """A tool with its flags, the file that shows its progress, and what it leaves."""

    name: str
    flags: tuple[str, ...]
    progress: str
    content: Callable[[pathlib.Path], dict[str, bytes]]


def members(path: pathlib.Path, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    """Returns the members of an archive, without those that hold times."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        names = [name for name in archive.namelist() if name.endswith(suffixes)]
        # Keras writes addresses of objects.
        return {
            f"{path.name}/{name}": re.sub(rb'"shared_object_id": \d+', b"", archive.read(name))
            for name in names
        }


def training(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns config, weights, and all state of training but the durations of epochs."""
    found = {"config.json": (folder / "config.json").read_bytes()}
    found |= members(folder / "model.keras", ("config.json", ".h5"))
    state = members(folder / "checkpoint.npz", (".npy",))
    return found | {name: data for name, data in state.items() if "__" not in name}


def everything(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns all files; of an index the lines in order, pictures and locks left out."""
    left_out = (".lock", ".png")
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in left_out]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return {
        name: b"".join(sorted(data.splitlines(True))) if name == "index.jsonl" else data
        for name, data in found.items()
    }


def jobs(model: pathlib.Path) -> dict[str, Job]:
    quick = ("--train_images=200", "--validation_images=100", "--batch_size=50", "--bottlenecks=1")
    chosen = (f"--model={model}", "--data=digits")
    chips = ("--jobs=2", "--chips=80", "--images=300")
    return {
        "train": Job("train", (*quick, "--epochs=8"), "checkpoint.npz", training),
        "evaluate": Job("evaluate", (*chosen, *chips), "chips.jsonl", everything),
        "export": Job(
            "export_tflite",
            (*chosen, "--quantization=float32", "--fault_rate=0.2", "--chips=12", "--images=100"),
            "index.jsonl",
            everything,
        ),
    }


class Started:
    """A tool in a session of its own: a process, or a fork of this one, which has Keras already."""

    def __init__(self, job: Job, folder: pathlib.Path, warm: bool):
        self.log = pathlib.Path(f"{folder}.log")
        self._code: int | None = None
        # A path that is always the same, since the command is in some of the files.
        arguments = [*job.flags, f"--out={folder.name}", "--resume"]
        with self.log.open("ab") as log:
            if warm:
                self.pid = os.fork() or _as_a_tool(job.name, arguments, folder.parent, log.fileno())
                return
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-c", _START, str(folder.parent), job.name, *arguments],
                {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
                file_actions=[(os.POSIX_SPAWN_DUP2, log.fileno(), to) for to in (1, 2)],
                setsid=True,
            )

    def code(self) -> int | None:
        """Returns the exit code, or None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        while (code := self.code()) is None:
            time.sleep(0.02)
        assert code in (0, -signal.SIGKILL), self.log.read_text()[-3000:]
        return code


_START = """
import os, runpy, sys
os.chdir(sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_module(f"tools.{sys.argv[0]}", run_name="__main__", alter_sys=True)
"""


def _as_a_tool(name: str, arguments: list[str], folder: pathlib.Path, log: int) -> NoReturn:
    """Runs a tool in a fork, and ends the process as Python would."""
    code: Any = 1
    try:
        os.setsid()
        for stream in (1, 2):
            os.dup2(log, stream)
        os.chdir(folder)
        sys.argv = [name, *arguments]
        runpy.run_module(f"tools.{name}", run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    os._exit(code)


def alive(session: int) -> list[int]:
    """Returns the processes of a session that are no zombies."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it ended meanwhile
        if int(its_session) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def kill_once(job: Job, folder: pathlib.Path, rng: random.Random, warm: bool = False) -> bool:
    """Kills a run a moment after it made progress; returns False where it was done before."""
    place = folder / job.progress
    before = place.stat().st_mtime_ns if place.exists() else None
    started = Started(job, folder, warm)
    end = time.monotonic() + MOST_SECONDS
    # An empty file is no progress yet: the workers may not have begun.
    while not (place.exists() and place.stat().st_size and place.stat().st_mtime_ns != before):
        if started.code() is not None:
            return started.wait() != 0
        assert time.monotonic() < end, f"{job.name} makes no progress"
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 1.5))
    with contextlib.suppress(ProcessLookupError):
        os.kill(started.pid, signal.SIGKILL)
    if started.wait() == 0:
        return False
    end = time.monotonic() + LEFT_SECONDS
    while alive(started.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(started.pid), f"{job.name}: {alive(started.pid)} live on"
    return True


def campaign(job: Job, out: pathlib.Path, kills: int, rng: random.Random) -> None:
    """Kills a tool as often as wanted, and checks each folder once it is finished."""
    whole = out / job.name / "whole" / "run"
    whole.parent.mkdir(parents=True)
    assert Started(job, whole, True).wait() == 0
    expected, done, folders = job.content(whole), 0, 0
    while done < kills:
        folders += 1
        folder = out / job.name / f"killed{folders}" / "run"
        folder.parent.mkdir()
        while done < kills and kill_once(job, folder, rng, True):
            done += 1
        assert Started(job, folder, True).wait() == 0
        found = job.content(folder)
        differ = [name for name in expected | found if expected.get(name) != found.get(name)]
        assert not differ, f"{folder}: {differ}"
        print(
            f"{job.name}: {done} kills so far in {folders} folders, the same {len(expected)} "
            "contents, no process left",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", default="train,evaluate,export")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    given = parser.parse_args()
    rng, out = random.Random(given.seed), given.out.absolute()
    model = out / "model" / "run"
    model.parent.mkdir(parents=True, exist_ok=True)
    known = jobs(model / "model.keras")
    importlib.import_module("keras_rram")  # and with it Keras, for the forks
    assert Started(known["train"], model, True).wait() == 0
    for name in given.jobs.split(","):
        campaign(known[name], out, given.kills, rng)


if __name__ == "__main__":
    main()
