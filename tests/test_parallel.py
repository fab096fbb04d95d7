import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from keras_rram import StuckAtZero
from keras_rram.evaluation.parallel import _is_lost_worker
from keras_rram.evaluation.population import evaluate_population
from keras_rram.evaluation.stopping import StopRule
from tests.classifiers import classifier, digits

CHIPS = 12
FILES = ("run.json", "chips.jsonl")


@pytest.fixture(scope="module")
def model():
    return classifier()


def evaluate(model, folder, **options):
    return evaluate_population(
        model, StuckAtZero(0.2), options.pop("chips", CHIPS), digits(), seed=5, progress=False,
        out=folder, **options,
    )  # fmt: skip


def content(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.slow
def test_processes_write_what_one_process_writes(model, tmp_path):
    for engine in ("auto", "keras"):
        alone = evaluate(model, tmp_path / f"{engine}1", engine=engine)
        together = evaluate(model, tmp_path / f"{engine}2", engine=engine, jobs=2)
        assert together == alone
        assert content(tmp_path / f"{engine}1") == content(tmp_path / f"{engine}2")
    # The looks of a stop rule do not depend on the number of processes either.
    rule = StopRule(0.01, 24, 300, pilot_chips=8, pilot_images=32, chip_overhead_images=5.0)
    options = {"chips": 24, "stop": rule}
    alone = evaluate(model, tmp_path / "stop1", **options)
    together = evaluate(model, tmp_path / "stop2", jobs=2, **options)
    assert together == alone and content(tmp_path / "stop1") == content(tmp_path / "stop2")


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_still_has_everything(model, tmp_path):
    distributed = pytest.importorskip("distributed")
    alone = evaluate(model, tmp_path / "alone", chips=400)
    path = tmp_path / "cluster" / "chips.jsonl"
    killed = []

    def kill_one(pids):
        while not (path.exists() and path.read_bytes().count(b"\n") >= 5):
            time.sleep(0.005)
        os.kill(pids[0], signal.SIGKILL)
        killed.append(path.read_bytes().count(b"\n"))

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = list(client.run(os.getpid).values())
        killer = threading.Thread(target=kill_one, args=(pids,), daemon=True)
        killer.start()
        found = evaluate(
            model,
            tmp_path / "cluster",
            chips=400,
            parallel="dask",
            scheduler=cluster.scheduler_address,
        )
        killer.join(10)
    assert len(killed) == 1 and killed[0] < 400, "killed too late to mean anything"
    assert found == alone
    assert content(tmp_path / "cluster") == content(tmp_path / "alone")


def test_no_scheduler_is_an_error(model, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
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


def test_workers_import_no_more_than_they_need():
    """A worker of the keras engine on JAX never loads TensorFlow."""
    pytest.importorskip("jax")
    code = "import keras_rram.evaluation.population, sys; assert 'tensorflow' not in sys.modules"
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_tasks_of_few_images_travel_together(monkeypatch):
    from keras_rram.evaluation import parallel
    from keras_rram.evaluation.engine import Answers, Task

    sizes = []
    pool = parallel.Pool(recipe=None, jobs=2)

    def answer(parts):
        for part in parts:
            sizes.append(len(part))
            yield [Answers(np.ones(1, bool), 0.0) for _ in part]

    monkeypatch.setattr(pool, "_start", answer)
    assert len(list(pool.run([Task(None)] * 10, images=10_000))) == 10
    assert len(list(pool.run([Task(None)] * 10, images=300))) == 10
    assert len(list(pool.run([Task(None)] * 10, images=10))) == 10
    assert sizes == [1] * 10 + [3, 3, 3, 1] + [8, 2]


def test_lost_tasks_are_sent_again(monkeypatch):
    from keras_rram.evaluation import parallel
    from keras_rram.evaluation.engine import Answers, Task

    class KilledWorker(Exception):
        pass

    tasks = [Task(None, np.array([number])) for number in range(6)]
    pool = parallel.Pool(recipe=None, jobs=2)
    failures = iter([2, 1])

    def answer(parts):
        allowed = next(failures, None)
        for number, part in enumerate(parts):
            if number == allowed:
                raise KilledWorker
            yield [Answers(task.images, 0.0) for task in part]

    monkeypatch.setattr(pool, "_start", answer)
    found = [int(answers.correct[0]) for answers in pool.run(tasks, images=10_000)]
    assert found == [0, 1, 2, 3, 4, 5]
