import dataclasses
import os
import pathlib
import random
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from keras_rram import StuckAtZero
from keras_rram.evaluation.engines import workers
from keras_rram.evaluation.engines.protocol import Answers, Task
from keras_rram.evaluation.engines.workers import _is_lost_worker
from keras_rram.evaluation.population import evaluate_population
from keras_rram.evaluation.statistics.stopping import StopRule
from tests import kills
from tests.classifiers import classifier, digits
from tests.run_tools import ROOT

CHIPS = 12
FILES = ("run.json", "chips.jsonl")


@pytest.fixture(scope="module")
def model():
    return classifier()


def evaluate(model, folder, **options):
    return evaluate_population(
        model, StuckAtZero(0.2), digits(), options.pop("chips", CHIPS), seed=5, progress=False,
        out=folder, **options,
    )  # fmt: skip


def content(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.slow
def test_processes_write_what_one_process_writes(model, tmp_path, capfd):
    alone = evaluate(model, tmp_path / "alone")
    together = evaluate(model, tmp_path / "together", jobs=2)
    assert together == alone
    assert content(tmp_path / "together") == content(tmp_path / "alone")
    # TensorFlow's messages of each process would be about oneDNN, CUDA and absl.
    assert not re.search("oneDNN|cuda|absl", capfd.readouterr().err, re.IGNORECASE)
    # The looks of a stop rule do not depend on the number of processes either.
    rule = StopRule(0.01, pilot_chips=8, pilot_images=32, chip_overhead_images=5.0)
    alone = evaluate(model, tmp_path / "stop", chips=24, stop=rule)
    together = evaluate(model, tmp_path / "stops", chips=24, stop=rule, jobs=2)
    assert together == alone and content(tmp_path / "stop") == content(tmp_path / "stops")


CLUSTER = r"""
import os, pathlib, signal, sys, threading, time
import numpy as np
import keras
from distributed import Client, LocalCluster
from keras_rram import StuckAtZero, layers
from keras_rram.evaluation.population import evaluate_population
from tests.run_tools import ROOT

def main(folder):
    model = keras.Sequential([
        keras.Input((6,)),
        layers.DropConnectDense(16, activation="relu", drop_connect=0.1, name="first"),
        layers.DropConnectDense(3, drop_connect=0.1, name="second"),
    ])
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    data = rng.normal(size=(1000, 6)).astype("float32"), rng.integers(0, 3, 1000)
    options = {"data": data, "progress": False}
    alone = evaluate_population(model, StuckAtZero(0.1), chips=300, out=folder / "alone", **options)
    path, killed = folder / "cluster" / "chips.jsonl", []

    def kill_one(pids):
        while not (path.exists() and path.read_bytes().count(b"\n") >= 5):
            time.sleep(0.002)
        os.kill(pids[0], signal.SIGKILL)
        killed.append(path.read_bytes().count(b"\n"))

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            pids = list(client.run(os.getpid).values())
            killer = threading.Thread(target=kill_one, args=(pids,), daemon=True)
            killer.start()
            together = evaluate_population(
                model, StuckAtZero(0.1), chips=300, out=folder / "cluster", parallel="dask",
                scheduler=cluster.scheduler_address, **options)
            killer.join(10)
    assert len(killed) == 1 and killed[0] < 300, f"killed too late to mean anything: {killed}"
    assert together == alone

if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_still_has_everything(tmp_path):
    pytest.importorskip("distributed")
    # On Keras's NumPy backend, which starts fastest; Dask's workers import the script again.
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "numpy", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert content(tmp_path / "cluster") == content(tmp_path / "alone")


def test_no_scheduler_is_an_error(model, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "_CONNECT_SECONDS", 1)
    with pytest.raises(ValueError, match="No Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        evaluate(
            model,
            tmp_path / "run",
            engine="keras",
            parallel="dask",
            scheduler="tcp://127.0.0.1:9",
        )


def test_errors_of_the_work_itself_are_not_retried():
    class TerminatedWorkerError(RuntimeError):
        pass

    assert _is_lost_worker(TerminatedWorkerError())
    assert not _is_lost_worker(ValueError("no such layer"))


def test_tasks_of_few_images_travel_together(monkeypatch):
    sizes = []
    pool = workers.Pool(SimpleNamespace(group=1), images=10_000, jobs=2)

    def answer(parts):
        for part in parts:
            sizes.append(len(part))
            yield [Answers(np.ones(1, bool), 0.0) for _ in part]

    monkeypatch.setattr(pool, "_start", answer)
    for images in (None, np.arange(300), np.arange(10)):
        assert len(list(pool.answer([Task(None, images)] * 10))) == 10
    assert sizes == [1] * 10 + [3, 3, 3, 1] + [8, 2]


def test_lost_tasks_are_sent_again(monkeypatch):
    class KilledWorker(Exception):
        pass

    tasks = [Task(None, np.full(10_000, number)) for number in range(6)]
    pool = workers.Pool(SimpleNamespace(group=1), images=10_000, jobs=2)
    failures = iter([2, 1])

    def answer(parts):
        allowed = next(failures, None)
        for number, part in enumerate(parts):
            if number == allowed:
                raise KilledWorker
            yield [Answers(task.images, 0.0) for task in part]

    monkeypatch.setattr(pool, "_start", answer)
    found = [int(answers.correct[0]) for answers in pool.answer(tasks)]
    assert found == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="looks at Linux's /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    """A worker would live on for minutes, with a model in its memory."""
    classifier().save(tmp_path / "model.keras")
    run = kills.jobs(tmp_path / "model.keras")["evaluate"]
    run = dataclasses.replace(
        run, flags=(*run.flags, "--engine=keras", "--images=50", "--chips=5000")
    )
    assert kills.kill_once(run, tmp_path / "run", random.Random(0))
    assert len((tmp_path / "run" / "chips.jsonl").read_text().splitlines()) > 0
