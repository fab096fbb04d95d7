"""Kills tools at random moments, resumes them, and compares what they leave with a run in one go.

    python -m tests.kills --kills=20 --seed=0 --out=/tmp/kills

Linux only. Each tool is killed (SIGKILL, its first process alone) as often as that; after each kill
no process of it may be left, and each resumed folder must hold the same bytes as the folder of a
run that was not killed, but for times and logs.
"""

import argparse
import io
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from tests.run_tools import ROOT

MOST_SECONDS = 240  # for a run to show that it makes progress
LEFT_SECONDS = 5  # for the workers to notice


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
        return {f"{path.name}/{name}": archive.read(name) for name in names}


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
    return {
        "train": Job("train", (*quick, "--epochs=40"), "checkpoint.npz", training),
        "evaluate": Job(
            "evaluate", (*chosen, "--jobs=2", "--chips=1500"), "chips.jsonl", everything
        ),
        "export": Job(
            "export_tflite",
            (*chosen, "--quantization=float32", "--fault_rate=0.2", "--chips=60", "--images=500"),
            "index.jsonl",
            everything,
        ),
    }


def start(job: Job, folder: pathlib.Path) -> subprocess.Popen:
    log = open(f"{folder}.log", "ab")  # noqa: SIM115
    # A path that is always the same, since the command is in some of the files.
    command = [sys.executable, "-m", f"tools.{job.name}", *job.flags, f"--out={folder.name}"]
    return subprocess.Popen(
        [*command, "--resume"],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


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


def finish(job: Job, folder: pathlib.Path) -> None:
    code = start(job, folder).wait()
    assert code == 0, pathlib.Path(f"{folder}.log").read_text()[-3000:]


def kill_once(job: Job, folder: pathlib.Path, rng: random.Random) -> bool:
    """Kills a run a moment after it made progress; returns False where it was done before."""
    place = folder / job.progress
    before = place.stat().st_mtime_ns if place.exists() else None
    process = start(job, folder)
    end = time.monotonic() + MOST_SECONDS
    while not place.exists() or place.stat().st_mtime_ns == before:
        if process.poll() is not None:
            assert process.returncode == 0, pathlib.Path(f"{folder}.log").read_text()[-3000:]
            return False
        assert time.monotonic() < end, f"{job.name} makes no progress"
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 1.5))
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
        return False
    end = time.monotonic() + LEFT_SECONDS
    while alive(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(process.pid), f"{job.name}: {alive(process.pid)} live on"
    return True


def campaign(job: Job, out: pathlib.Path, kills: int, rng: random.Random) -> str:
    """Kills a tool as often as wanted, and checks each folder once it is finished."""
    whole = out / job.name / "whole" / "run"
    whole.parent.mkdir(parents=True)
    finish(job, whole)
    expected, done, folders = job.content(whole), 0, 0
    while done < kills:
        folders += 1
        folder = out / job.name / f"killed{folders}" / "run"
        folder.parent.mkdir()
        while done < kills and kill_once(job, folder, rng):
            done += 1
        finish(job, folder)
        found = job.content(folder)
        differ = [name for name in expected | found if expected.get(name) != found.get(name)]
        assert not differ, f"{folder}: {differ}"
    return f"{job.name}: {done} kills in {folders} folders, the same {len(expected)} contents"


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
    finish(known["train"], model)
    for name in given.jobs.split(","):
        print(campaign(known[name], out, given.kills, rng), flush=True)


if __name__ == "__main__":
    main()
