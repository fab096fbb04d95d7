"""Two processes and one folder: the second is refused at once, the first ends whole."""

import json
import signal
import time

import keras
import pytest

from keras_rram.evaluation import load_run
from keras_rram.export.sidecar import check_described, read_index
from tests import kills
from tests.run_tools import beside, run_here, wait_until

# The tools of the first process, one after the other: they share its start.
FIRST = """
import json, sys
from tests.run_tools import run_main
for name, *flags in json.loads(sys.argv[1]):
    run_main(name, *flags)
"""
MOST_SECONDS = 120


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def has_content(path):
    return path.exists() and path.stat().st_size > 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops a process for a while")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports to TFLite")
def test_the_second_writer_is_refused_and_the_first_ends_whole(tmp_path):
    jobs = kills.jobs(tmp_path / "train" / "model.keras")
    fewer = {
        "train": ("--epochs=3",),
        "evaluate": ("--chips=20", "--images=100", "--jobs=1"),
        "export": ("--chips=4", "--images=50"),
    }
    runs = {
        name: (*job.flags, *fewer[name], f"--out={tmp_path / name}") for name, job in jobs.items()
    }
    calls = json.dumps([(jobs[n].name, *runs[n]) for n in runs])
    with beside(FIRST, calls, seconds=MOST_SECONDS) as first:
        for name, job in jobs.items():
            progress = tmp_path / name / job.progress
            wait_until(first, MOST_SECONDS, lambda path=progress: has_content(path))
            # It holds still, so that the second one surely comes in the middle.
            first.send_signal(signal.SIGSTOP)
            before, began = files(tmp_path / name), time.process_time()
            said = run_here(job.name, *runs[name], "--resume", code=1)
            *_, error = said.splitlines()
            assert error.startswith("error: ") and "is being written by another process" in error
            assert time.process_time() - began < 3
            assert files(tmp_path / name) == before
            first.send_signal(signal.SIGCONT)
    assert len((tmp_path / "train" / "history.csv").read_text().splitlines()) == 1 + 3
    keras.models.load_model(tmp_path / "train" / "model.keras")
    assert [len(result.chips) for result in load_run(tmp_path / "evaluate")] == [20]
    index = read_index(tmp_path / "export" / "index.jsonl")
    written = sorted((tmp_path / "export").glob("chip_*.tflite"))
    assert len(written) == len(index) == 4
    for path in written:
        check_described(path, path.read_bytes())
