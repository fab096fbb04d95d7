import contextlib
import logging
import os
import random
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_rram import StuckAtZero, read_noise
from keras_rram.chips import chip as chips
from keras_rram.evaluation.population import evaluate_population, evaluate_rates
from keras_rram.evaluation.run_folder import Records, load_run, merge_runs
from keras_rram.faults import StuckCells, at_rate, parse
from tests.classifiers import classifier, digits, right_answers, training_digits
from tests.evaluation.runs import content, evaluate, interrupt
from tests.run_tools import ROOT

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"


@pytest.mark.parametrize("engine", ["keras", "auto"])
def test_matches_the_users_own_loop(model, loop, engine):
    result = evaluate(model, 10, engine=engine)
    np.testing.assert_array_equal(result.matrix, loop[:10])
    np.testing.assert_allclose(result.accuracies, loop[:10].mean(1))
    assert result.fault_free == right_answers(model, None, *digits()).mean()
    assert result.indices == tuple(range(10)) and result.rate == 0.2 and result.seed == 5
    name = "litert" if engine == "auto" and IS_TENSORFLOW else "keras"
    assert result.engine == f"{name} float32" and result.repair == "none"
    assert result.fault_model == "stuck_at_zero:rate=0.2"
    assert result.reason == "all 10 chips on all images" and not result.interrupted


def test_rates_share_their_chips(model, loop):
    curve = evaluate(model, 4, rate=0.0, rates=[0.1, 0.2, 0.4])
    results = list(curve)
    assert curve.results == tuple(results) and curve.engine == "keras float32"
    assert [result.rate for result in results] == [0.1, 0.2, 0.4]
    np.testing.assert_array_equal(results[1].matrix, loop[:4])
    # Nested masks: each chip has the faults of the lower rates, and more.
    rates = np.array([[c.achieved_fault_rate for c in result.chips] for result in results])
    assert np.all(np.diff(rates, axis=0) > 0)
    for index in range(4):
        low, high = (chips.Chip(StuckAtZero(r), 5, index).faults(model) for r in (0.1, 0.4))
        assert all(np.all(high[name].mask <= low[name].mask) for name in low)


def test_first_chip_chooses_where_a_run_begins(model, loop):
    result = evaluate(model, 3, first_chip=7)
    assert result.indices == (7, 8, 9)
    np.testing.assert_array_equal(result.matrix, loop[7:10])


def test_results_are_on_disk_after_every_chip(model, tmp_path):
    seen = []

    @contextlib.contextmanager
    def look(model, chip):
        path = tmp_path / "run" / "chips.jsonl"
        # There is no file yet when the fault-free model is repaired.
        seen.append(path.read_bytes().count(b"\n") if chip else -1)
        yield

    result = evaluate(model, 4, repair=look, out=tmp_path / "run")
    assert [count for count in seen if count >= 0] == [0, 1, 2, 3]
    assert result.repair.endswith("look")
    assert load_run(tmp_path / "run") == [result]


def test_a_finished_run_is_read_and_not_repeated(model, tmp_path, monkeypatch):
    first = evaluate(model, out=tmp_path / "run")
    before = content(tmp_path / "run")
    monkeypatch.setattr("keras_rram.evaluation.engines.choose.open_engine", None)
    assert evaluate(model, out=tmp_path / "run", resume=True, engine="auto") == first
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("cut", [0, 10, -1, -30])
def test_a_torn_last_line_is_evaluated_again(model, tmp_path, cut):
    result = evaluate(model, out=tmp_path / "run")
    before = content(tmp_path / "run")
    path = tmp_path / "run" / "chips.jsonl"
    lines = before["chips.jsonl"].splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:cut])
    assert evaluate(model, out=tmp_path / "run", resume=True) == result
    assert content(tmp_path / "run") == before


def test_more_chips_continue_a_run(model, tmp_path):
    evaluate(model, 3, out=tmp_path / "parts")
    evaluate(model, 6, out=tmp_path / "parts", resume=True)
    evaluate(model, 6, out=tmp_path / "whole")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_a_damaged_line_in_the_middle_is_an_error(model, tmp_path):
    evaluate(model, out=tmp_path / "run")
    path = tmp_path / "run" / "chips.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"index": 2', b'"indx": 2'))
    with pytest.raises(ValueError, match="line 3, is damaged"):
        evaluate(model, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", {"seed": 6}),
        ("data", {"data": digits(200)}),
        ("data", {"data": (digits()[0], digits()[1][::-1].copy())}),
        ("stop", {"stop": 0.05}),
        ("fault_model", {"exact": True}),
        ("model", {"model": "other"}),
        ("repair", {"repair": "some"}),
        ("engine", {"engine": "litert"}),
    ],
)
def test_refuses_to_mix_and_says_what_differs(model, tmp_path, name, change):
    evaluate(model, 2, out=tmp_path / "run")
    before = content(tmp_path / "run")
    change = dict(change)
    exact = change.pop("exact", False)
    if change.pop("model", None):
        model = classifier()
        model.get_layer("head").bias.assign_add(np.full(10, 1e-6, np.float32))
    if change.get("repair"):
        change["repair"] = lambda model, chip: contextlib.nullcontext()
    options = {"engine": "keras", "seed": 5, "progress": False, "data": digits(), **change}
    options |= {"chips": 8, "out": tmp_path / "run", "resume": True}
    with pytest.raises(ValueError, match=rf"must not be mixed. What differs is .*{name}: "):
        evaluate_population(model, StuckAtZero(0.2, exact), **options)
    assert content(tmp_path / "run") == before


def test_what_a_model_is_called_or_programmed_with_does_not_matter(model, tmp_path):
    first = evaluate(model, 2, out=tmp_path / "run")
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    again.name = "other"
    with chips.Chip(StuckAtZero(0.5)).program(again):
        assert evaluate(again, 2, out=tmp_path / "run", resume=True) == first


def test_a_folder_with_a_run_is_not_overwritten(model, tmp_path):
    evaluate(model, 2, out=tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run already"):
        evaluate(model, 2, out=tmp_path / "run")


def test_runs_of_disjoint_chips_merge(model, tmp_path):
    rates = [0.3, 0.1]
    evaluate(model, 3, rates=rates, first_chip=3, out=tmp_path / "b")
    evaluate(model, 3, rates=rates, out=tmp_path / "a")
    whole = evaluate(model, 6, rates=rates, out=tmp_path / "whole")
    both = merge_runs([tmp_path / "b", tmp_path / "a"], tmp_path / "both")
    assert content(tmp_path / "both") == content(tmp_path / "whole")
    assert load_run(tmp_path / "both") == both == list(whole)


def test_runs_that_do_not_belong_together_do_not_merge(model, tmp_path):
    evaluate(model, 3, out=tmp_path / "a")
    evaluate(model, 3, first_chip=2, out=tmp_path / "b")
    evaluate(model, 3, first_chip=3, seed=6, out=tmp_path / "c")
    with pytest.raises(ValueError, match="chip 2 at rate 0.2 again"):
        merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    with pytest.raises(ValueError, match="seed: 5 there, 6 now|seed: 6 there, 5 now"):
        merge_runs([tmp_path / "a", tmp_path / "c"], tmp_path / "both")
    with pytest.raises(ValueError, match="holds no run"):
        merge_runs([tmp_path / "a", tmp_path / "none"], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_ctrl_c_ends_with_what_there_is(model, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = evaluate_rates(
            model, StuckAtZero(0.2), [0.1, 0.2, 0.3], digits(), 6, seed=5, progress=False,
            repair=interrupt(8), out=tmp_path / "run",
        )  # fmt: skip
    assert found.interrupted and "Interrupted" in caplog.text
    assert [len(result.chips) for result in found.results] == [6, 2]
    reasons = [(result.reason, result.interrupted) for result in found]
    assert reasons == [("all 6 chips on all images", False), ("interrupted", True)]
    rest = evaluate(
        model, 6, rates=[0.1, 0.2, 0.3], repair=interrupt(-1), out=tmp_path / "run", resume=True
    )
    assert [len(result.chips) for result in rest] == [6, 6, 6]


def test_ctrl_c_after_a_chip_is_written_and_before_it_is_noted(model, tmp_path, monkeypatch):
    keep = Records._keep

    def press(self, chip):
        if chip.index == 3:
            monkeypatch.setattr(Records, "_keep", keep)
            raise KeyboardInterrupt
        keep(self, chip)

    monkeypatch.setattr(Records, "_keep", press)
    result = evaluate(model, 6, out=tmp_path / "run")
    written = (tmp_path / "run" / "chips.jsonl").read_text().count("\n")
    assert result.interrupted and len(result.chips) == written == 4
    assert len(evaluate(model, 6, out=tmp_path / "run", resume=True).chips) == 6


def test_ctrl_c_before_the_first_chip(model):
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, repair=interrupt(0))


def test_a_rate_and_a_text_are_fault_models(model):
    options = {"engine": "keras", "progress": False, "seed": 5}
    wanted = evaluate(model, 3)
    assert evaluate_population(model, 0.2, digits(), 3, **options) == wanted
    text = "stuck_at_zero:rate=0.2"
    assert evaluate_population(model, text, digits(), 3, **options) == wanted
    curve = evaluate_rates(model, "stuck_at_zero", [0.1, 0.2], digits(), 3, **options)
    assert curve.results[1] == wanted
    table = curve.to_frame()
    assert table["rate"].tolist() == [0.1, 0.2] and table["mean"][1] == wanted.mean
    assert len(str(curve).splitlines()) == 4 and "correctness" not in repr(curve)
    for bad in (None, "0.2x", [], [0.1]):
        with pytest.raises((TypeError, ValueError), match="xpected"):
            evaluate_population(model, bad, digits(), **options)


def test_int8_differs_from_float_and_needs_calibration(model):
    if not IS_TENSORFLOW:
        pytest.skip("TFLite conversion needs TensorFlow")
    calibration = training_digits()[0][:100]
    options = {"engine": "auto", "quantization": "int8", "calibration": calibration}
    result = evaluate(model, 4, **options)
    assert result.engine == "litert int8"
    assert abs(result.mean - evaluate(model, 4).mean) < 0.05
    with pytest.raises(ValueError, match="expected `calibration`"):
        evaluate(model, 4, quantization="int8", engine="auto")


class BadTier:
    access_tier = "D"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fast"}, "expected engine as one of"),
        ({"quantization": "int4"}, "expected quantization as one of"),
        ({"quantization": "int8"}, "Keras computes in floats"),
        ({"calibration": np.zeros((1, 28, 28, 1))}, "calibration given"),
        ({"count": 0}, "expected chips as an integer >= 1"),
        ({"count": 2.5}, "expected chips as an integer"),
        ({"first_chip": -1}, "expected first_chip as an integer >= 0"),
        ({"seed": -1}, "expected seed as an integer >= 0"),
        ({"rates": []}, "expected fault rates, each once"),
        ({"rates": [0.1, 0.1]}, "expected fault rates, each once"),
        ({"rates": [0.1, 1.0]}, r"must be .*in \[0, 1\)"),
        ({"jobs": 0}, "expected jobs >= 1"),
        ({"parallel": "threads"}, "'processes' or 'dask'"),
        ({"parallel": "dask"}, "scheduler='tcp://host:8786'"),
        ({"parallel": "dask", "scheduler": "tcp://x:1", "jobs": 2}, "without jobs"),
        ({"scheduler": "tcp://x:1"}, "expected parallel='dask' with a scheduler"),
        ({"repair": BadTier()}, "expected access_tier as one of"),
        ({"resume": True}, "Received: out=None"),
        ({"stop": 0.7}, "target_half_width between 0 and 0.5"),
        ({"stop": 0.01, "count": 3}, "expected max_chips >= 4 with a stop rule"),
        ({"data": None}, "expected `data`"),
        (
            {"data": (digits()[0][:, 1:], digits()[1])},
            "`test images` must be a non-empty",
        ),
        ({"data": (digits()[0], np.eye(10)[digits()[1]])}, "one-hot"),
        ({"data": (digits()[0], digits()[1] + 1)}, "expected `labels` from 0 to 9"),
        ({"data": (digits()[0], digits()[1] - 1)}, "classes from 0"),
    ],
)
def test_bad_arguments(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(model, **options)


def test_a_model_without_drop_connect_layers():
    with pytest.raises(ValueError, match="no Drop-Connect layer .*to_drop_connect"):
        evaluate(classifier(first=None, last=None))


def test_memory_does_not_grow_with_the_number_of_chips(model):
    resource = pytest.importorskip("resource", reason="Windows does not tell a process's peak")
    evaluate(model, 20, engine="auto")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    evaluate(model, 300, engine="auto")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20_000  # kilobytes; the interpreters alone would be 100 times as much


def test_the_bar_shows_accuracy_half_width_and_time_left(model, capsys):
    evaluate(model, 5, progress=True, rates=[0.1, 0.2])
    shown = capsys.readouterr().err
    assert "10.0% faults: 100%" in shown and "20.0% faults: 100%" in shown
    assert "accuracy" in shown and "+-" in shown and "chip/s" in shown


SCRIPT = """
import sys, time
import numpy as np
import keras
from keras_rram import StuckAtZero, layers
from keras_rram.evaluation.population import evaluate_rates

model = keras.Sequential([
    keras.Input((6,)),
    layers.DropConnectDense(16, activation="relu", drop_connect=0.1, name="first"),
    layers.DropConnectDense(3, drop_connect=0.1, name="second"),
])
rng = np.random.default_rng(0)
for weight in model.trainable_weights:
    weight.assign(rng.normal(size=weight.shape))
data = rng.normal(size=(400, 6)).astype("float32"), rng.integers(0, 3, 400)
evaluate_rates(model, StuckAtZero(0.1), [0.1, 0.3], data, 40, out=sys.argv[1],
               resume=True, progress=False)
"""


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_is_the_same_run(tmp_path):
    # On Keras's NumPy backend, which starts fastest.
    environment = {**os.environ, "KERAS_BACKEND": "numpy", "PYTHONWARNINGS": "ignore"}

    def start(folder):
        command = [sys.executable, "-c", SCRIPT, str(folder)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)

    whole = start(tmp_path / "whole")
    killed, path = tmp_path / "killed", tmp_path / "killed" / "chips.jsonl"
    moments = random.Random(1)
    last = 0
    for line in sorted(moments.sample(range(1, 60), 2)):
        process = start(killed)
        while process.poll() is None:
            if path.exists() and path.read_bytes().count(b"\n") >= line:
                break
            time.sleep(0.001)
        time.sleep(moments.random() * 0.01)
        process.kill()
        process.communicate()
        done = path.read_bytes().count(b"\n")
        assert last < done < 80, "killed too late to mean anything"
        last = done
    for process in (start(killed), whole):
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()[-2000:]
    assert content(killed) == content(tmp_path / "whole")
    assert len((killed / "chips.jsonl").read_bytes().splitlines()) == 80


def test_a_sweep_that_begins_without_faults_keeps_the_kind_of_its_faults(model, tmp_path):
    """At a rate of 0 cells that are stuck off and those stuck on have the same probabilities."""
    off, on = StuckCells(stuck_off=0.02), StuckCells(stuck_on=0.02)
    options = {"engine": "keras", "progress": False}
    curve = evaluate_rates(model, off, [0.0, 0.2], digits(), 2, out=tmp_path / "run", **options)
    assert parse(curve.results[1].fault_model) == at_rate(off, 0.2)
    with pytest.raises(ValueError, match="fault_model"):
        evaluate_rates(
            model, on, [0.0, 0.2], digits(), 3, out=tmp_path / "run", resume=True, **options
        )
    other = evaluate_rates(model, off, [0.1, 0.2], digits(), 2, **options).results[1]
    assert other.fault_model == curve.results[1].fault_model
    np.testing.assert_array_equal(other.matrix, curve.results[1].matrix)


def test_noisy_reads_are_part_of_what_a_run_is(model, tmp_path):
    evaluate(model, 2, out=tmp_path / "run")
    with (
        read_noise(model, 0.3),
        pytest.raises(ValueError, match="read_noise"),
    ):
        evaluate(model, 3, out=tmp_path / "run", resume=True)
