import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_rram import (
    StuckAtZero,
    bake,
    data,
    faults,
    layers,
    recalibrate_batch_norm,
)
from keras_rram.chips import chip as chips
from keras_rram.evaluation import load_run, paired_difference
from tests.classifiers import classifier, right_answers
from tests.run_tools import ROOT, run_here, run_in_turn, run_tool

DATA = ("--data=digits", "--normalize=mnist")
FIGURES = {"accuracy.png", "chips.png", "yield.png", "convergence.png"}
TABLES = {"run.json", "chips.jsonl", "config.json", "results.json", "summary.csv", "chips.csv"}
LOCK = {"chips.jsonl.lock"}  # what keeps a second writer away


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.keras"
    classifier().save(path)
    bake(classifier()).save(path.with_name("plain.keras"))
    return path


def evaluate(model, *arguments, code=0):
    common = [f"--model={model}", *DATA, "--images=200"]
    return run_here("evaluate", *common, *arguments, code=code)


@pytest.mark.slow
def test_writes_all_results_and_prints_the_table(saved, tmp_path):
    out = tmp_path / "run"
    common = ["--fault_rates=0.1,0.3", "--seed=2", "--yield_at=0.7,0.8", f"--out={out}"]
    output = evaluate(saved, "--chips=5", *common)
    assert {path.name for path in out.iterdir()} == TABLES | FIGURES | LOCK
    assert f"Results: {out}/\n" in output
    assert "5 chips, 1,000 answers (all 5 chips on all images), engine litert float32" in output
    images, labels = data.load("digits").arrays("test", 200)
    model = classifier()
    expected = [
        [
            right_answers(model, chip, images, labels).mean()
            for chip in chips.population(StuckAtZero(rate), 5, seed=2)
        ]
        for rate in (0.1, 0.3)
    ]
    results = json.loads((out / "results.json").read_text())
    assert results["schema"] == "keras_rram.evaluation/1"
    means = [row["mean"] for row in results["summary"]]
    np.testing.assert_allclose(means, np.mean(expected, 1), atol=0.002)
    with (out / "chips.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = [float(row["accuracy"]) for row in rows]
    np.testing.assert_allclose(found, np.ravel(expected), atol=0.0051)
    for row in results["summary"]:
        (line,) = [
            x for x in output.splitlines() if x.strip().startswith(f"{100 * row['rate']:g} ")
        ]
        assert f"{100 * row['mean']:.2f}" in line and f"{100 * row['worst']:.2f}" in line
    runs = load_run(out)
    with (out / "summary.csv").open() as file:
        assert [float(row["yield_0.7"]) for row in csv.DictReader(file)] == [
            run.yield_at(0.7).interval.estimate for run in runs
        ]
    for run, one in zip(runs, expected, strict=True):
        passed = run.yield_at(0.7, images="test_set")
        assert passed.interval.estimate == np.mean(np.array(one) >= 0.7)


@pytest.mark.slow
def test_a_wanted_precision_and_a_plain_model(saved, tmp_path):
    out = tmp_path / "run"
    plain = saved.with_name("plain.keras")
    output = evaluate(
        plain, "--convert", "--where=head", "--chips=40", "--target_half_width=0.05",
        "--images=1000", f"--out={out}",
    )  # fmt: skip
    assert "reached" in output and "No figures of single chips" in output
    assert {path.name for path in out.iterdir()} == TABLES | LOCK | {
        "accuracy.png",
        "convergence.png",
    }
    summary = json.loads((out / "results.json").read_text())["summary"][0]
    assert summary["half_width"] <= 0.05 and summary["worst"] is None


@pytest.mark.slow
def test_runs_go_on_and_two_become_one(saved, tmp_path):
    common = ["evaluate", f"--model={saved}", *DATA, "--images=200", "--engine=keras"]
    common.append("--fault_rates=0.2")
    *errors, error, alone = run_in_turn(
        [*common, "--chips=2", f"--out={tmp_path}/a"],
        [*common, "--chips=3", "--first_chip=2", f"--out={tmp_path}/b"],
        [*common, "--chips=5", f"--out={tmp_path}/whole"],
        ["merge", f"--runs={tmp_path}/a,{tmp_path}/b", f"--out={tmp_path}/both"],
        [*common, "--chips=2", f"--out={tmp_path}/part"],
        [*common, "--chips=5", f"--out={tmp_path}/part", "--resume"],
        [*common, "--chips=5", f"--out={tmp_path}/part", "--resume",
         "--fault_model=stuck_at_zero:exact=true"],
        ["merge", f"--runs={tmp_path}/a", f"--out={tmp_path}/alone"],
    )  # fmt: skip
    assert not any(errors) and "What differs is fault_model" in error
    assert "--runs must be two folders or more" in alone and not (tmp_path / "alone").exists()
    for name in TABLES | FIGURES:
        if name != "config.json":  # the command
            whole = (tmp_path / "whole" / name).read_bytes()
            assert (tmp_path / "both" / name).read_bytes() == whole, name
            assert (tmp_path / "part" / name).read_bytes() == whole, name


@pytest.mark.slow
def test_ctrl_c_prints_and_writes_what_there_is(saved, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tools.evaluate", f"--model={saved}", *DATA, "--engine=keras",
               "--chips=100000", f"--out={out}"]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        # What a shell starts in the background, this suite perhaps, ignores interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    lines = out / "chips.jsonl"
    while not (lines.exists() and lines.read_bytes().count(b"\n") > 3):
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        output, errors = process.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        # Python drops an interrupt that comes while a finalizer runs: a user presses again.
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert f"Results: {out}/" in output and "--resume goes on" in errors
    assert {path.name for path in out.iterdir()} == TABLES | FIGURES | LOCK
    summary = json.loads((out / "results.json").read_text())["summary"][0]
    assert 3 < summary["chips"] == lines.read_bytes().count(b"\n")


@pytest.fixture(scope="module")
def normalized(tmp_path_factory):
    """A small model with batch normalization, whose statistics faults put out of date."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.DropConnectConv2D(8, 3, strides=3, drop_connect=0.1, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            layers.DropConnectDense(10, drop_connect=0.1, name="head"),
        ]
    )
    path = tmp_path_factory.mktemp("normalized") / "model.keras"
    model.save(path)
    return path


@pytest.mark.slow
def test_repair_of_each_chip_is_recorded_and_not_mixed(normalized, tmp_path, capsys):
    common = ["evaluate", f"--model={normalized}", *DATA, "--images=200", "--chips=3"]
    common.append("--fault_rates=0.3")
    repaired = [*common, "--repair=batch_norm:images=64"]
    both = f"{tmp_path}/repaired,{tmp_path}/plain"
    *errors, mixed, unknown, many = run_in_turn(
        [*common, f"--out={tmp_path}/plain", "--engine=keras"],
        [*repaired, f"--out={tmp_path}/repaired"],
        ["compare", f"--runs={both}", f"--out={tmp_path}/compared", "--labels=repaired,plain"],
        [*repaired, f"--out={tmp_path}/keras", "--engine=keras"],
        [*repaired, f"--out={tmp_path}/plain", "--resume"],
        [*common, f"--out={tmp_path}/alone", "--repair=batchnorm"],
        [*common, f"--out={tmp_path}/many", "--repair=batch_norm:images=1000000"],
    )
    assert "Not of one access tier. Access tier B" in capsys.readouterr().out
    assert not any(errors)
    assert "What differs is repair: " in mixed
    assert "did you mean 'batch_norm'" in unknown
    assert "The data set has 4,000 training images" in many
    plain, found, slow = (
        json.loads((tmp_path / name / "results.json").read_text())["summary"][0]
        for name in ("plain", "repaired", "keras")
    )
    assert (plain["access_tier"], plain["repair"]) == ("A", "none")
    assert found["access_tier"] == "B" and found["repair"].startswith("batch_norm:images=64/")
    assert found["engine"] == "litert float32" and slow["engine"] == "keras float32"
    for name in ("mean", "fault_free", "worst"):
        assert found[name] == pytest.approx(slow[name], abs=0.005)
    assert slow["fault_free"] == plain["fault_free"]
    # The oracle: the library's repair on images drawn without labels.
    dataset = data.load("digits")
    chosen = np.random.default_rng(0).permutation(len(dataset.train_images))[:64]
    images = dataset.normalize(dataset.train_images[chosen])
    model = keras.models.load_model(normalized)
    test, labels = dataset.arrays("test", 200)
    expected = []
    for chip in chips.population(StuckAtZero(0.3), 3):
        with chip.program(model), recalibrate_batch_norm(model, images):
            expected.append(np.mean(model.predict(test, verbose=0).argmax(-1) == labels))
    assert abs(found["mean"] - np.mean(expected)) < 0.002
    comparison = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert comparison["schema"] == "keras_rram.comparison/1"
    (row,) = comparison["comparisons"]
    np.testing.assert_allclose(row["interval"]["estimate"], found["mean"] - plain["mean"])
    assert row["summary"]["access_tier"] == "B" and row["other"]["access_tier"] == "A"


@pytest.mark.slow
def test_two_models_are_compared_on_the_same_chips(saved, tmp_path, capsys):
    other = tmp_path / "other.keras"
    changed = classifier()
    changed.get_layer("head").bias.assign_add(np.linspace(-1, 1, 10).astype(np.float32))
    changed.save(other)
    common = [*DATA, "--images=200", "--engine=keras", "--chips=4"]
    common += ["--fault_rates=0.1,0.2", "--seed=3"]
    mine = ["evaluate", f"--model={saved}", *common]
    runs = {
        "a": mine,
        "b": ["evaluate", f"--model={other}", *common],
        "bootstrap": [*mine, "--bootstrap"],
        "seed": [*mine, "--seed=4"],
        "chips": [*mine, "--chips=5"],
        "images": [*mine, "--images=100"],
        "rates": [*mine, "--fault_rates=0.3"],
        "precise": [*mine, "--target_half_width=0.1"],
    }
    assert not any(run_in_turn(*([*run, f"--out={tmp_path}/{n}"] for n, run in runs.items())))
    assert re.search(r"20% faults: [\d.]+-[\d.]+ by .*bootstrap", capsys.readouterr().out)
    out = f"--out={tmp_path}/c"
    messages = {
        ("seed", "b"): "seed",
        ("chips", "b"): "chips",
        ("images", "b"): "images",
        ("rates", "b"): "expected the fault rates [0.1, 0.2]",
        ("precise", "b"): "ended by a stop rule",
        ("a",): "--runs must be two to 7 folders",
        ("a", "a"): "--labels must be 2 different names",
    }
    for names, message in messages.items():
        chosen = ",".join(f"{tmp_path}/{name}" for name in names)
        (error,) = run_in_turn(["compare", f"--runs={chosen}", out])
        assert message in error, names
    assert not (tmp_path / "c").exists()
    both = f"--runs={tmp_path}/a,{tmp_path}/b"
    *errors, one, none = run_in_turn(
        ["compare", f"{both},{tmp_path}/a", f"--out={tmp_path}/three", "--labels=a,b,again"],
        ["compare", both, out, "--labels=mine,other"],
        ["variance", both, f"--out={tmp_path}/variance"],
        ["variance", f"--runs={tmp_path}/a", f"--out={tmp_path}/one"],
        ["variance", f"--out={tmp_path}/one"],
    )
    assert not any(errors) and not (tmp_path / "one").exists()
    assert "at least 2 training seeds" in one and "--runs is missing" in none
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())["comparisons"]
    a, b = (load_run(tmp_path / name) for name in ("a", "b"))
    for row, one, two in zip(found, a, b, strict=True):
        expected = paired_difference(one, two)
        assert row["interval"] == dataclasses.asdict(expected.interval)
        assert row["wins"] == expected.wins and tuple(row["differences"]) == expected.differences
    three = json.loads((tmp_path / "three" / "comparison.json").read_text())["comparisons"]
    assert [row["interval"] for row in three[:2]] == [row["interval"] for row in found]
    assert [row["interval"]["estimate"] for row in three[2:]] == [0, 0]
    assert "a against again:" in capsys.readouterr().out
    for name in ("c", "three"):
        assert (tmp_path / name / "comparison.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "variance" / "variance.json").read_text())
    assert content["schema"] == "keras_rram.variance/1"
    assert [split["rate"] for split in content["splits"]] == [0.1, 0.2]
    assert content["splits"][0]["components"][1]["source"] == "chip"


@pytest.mark.slow
def test_fault_models_as_text_on_both_engines_resumed_and_replayed(saved, normalized, tmp_path):
    pairs = "differential_pair:stuck_off=0.0904,stuck_on=0.0175"
    both = "stuck_at_zero:rate=0.1+row_faults:rate=0.1,tile=16x4"
    common = ["evaluate", f"--model={saved}", *DATA, "--images=200", "--chips=2", "--seed=5"]
    swept = [*common, f"--fault_model={pairs}", "--fault_rates=0.05,0.1"]
    varied = "--fault_model=lognormal_variation:sigma=0.3"
    *errors, mixed = run_in_turn(
        [*swept, f"--out={tmp_path}/keras", "--engine=keras"],
        [*swept, f"--out={tmp_path}/litert", "--engine=litert"],
        [*swept, f"--out={tmp_path}/int8", "--quantization=int8", "--calibration_images=20"],
        [*common, f"--fault_model={both}", f"--out={tmp_path}/own"],
        [*common, varied, f"--out={tmp_path}/varied", "--engine=keras"],
        [*swept, f"--out={tmp_path}/keras", "--engine=keras", "--resume", "--chips=3"],
        ["evaluate", f"--model={normalized}", *DATA, "--images=50", "--chips=2",
         f"--fault_model={pairs}", "--repair=batch_norm:images=64",
         f"--out={tmp_path}/repaired"],
        [*common, "--fault_rates=0.05,0.1", f"--out={tmp_path}/keras", "--engine=keras",
         "--resume", "--fault_model=differential_pair:stuck_on=0.0175"],
    )  # fmt: skip
    assert not any(errors)
    assert "What differs is fault_model" in mixed
    results = {
        name: json.loads((tmp_path / name / "results.json").read_text())
        for name in ("keras", "litert", "int8", "own", "varied", "repaired")
    }
    model, (images, labels) = classifier(), data.load("digits").arrays("test", 200)
    for name in ("keras", "litert", "own", "varied"):
        # What is recorded is enough to replay each chip.
        for row, found in zip(results[name]["summary"], results[name]["populations"], strict=True):
            fault_model = faults.parse(row["fault_model"])
            assert fault_model == faults.parse(found["fault_model"])
            for chip in chips.population(fault_model, row["chips"], row["seed"]):
                held = found["chips"][chip.index]["correct"]
                assert abs(held - right_answers(model, chip, images, labels).sum()) <= 1
    for row, other in zip(results["litert"]["summary"], results["int8"]["summary"], strict=True):
        assert other["engine"] == "litert int8" and abs(row["mean"] - other["mean"]) < 0.1
    rows = results["keras"]["summary"]
    assert [(row["rate"], row["chips"]) for row in rows] == [(0.05, 3), (0.1, 3)]
    assert faults.parse(rows[0]["fault_model"]).rate == 0.05
    (own,), (variation,) = results["own"]["summary"], results["varied"]["summary"]
    assert own["fault_model"] == both and own["rate"] == 0.19
    assert (variation["fault_model"], variation["rate"]) == (varied.partition("=")[2], 0.0)
    assert results["repaired"]["summary"][0]["fault_model"] == pairs
    assert json.loads((tmp_path / "keras" / "config.json").read_text())["fault_model"] == pairs


BAD = [
    ([], "--model is missing"),
    (["--model=none.keras"], "there is no such file"),
    (["--model={model}", "--fault_rates=0.1,1.0"], "--fault_rates must be numbers in [0, 1)"),
    (
        ["--model={model}", "--fault_rates=many"],
        "--fault_rates must be numbers in [0, 1). Received: ['many']",
    ),
    (["--model={model}", "--yield_at=90"], "--yield_at must be numbers in [0, 1]"),
    (["--model={model}", "--engine=fast"], "flag --engine=fast"),
    (["--model={model}", "--where=head"], "--where goes with --convert"),
    (["--model={plain}"], "has no Drop-Connect layer that faults could go to. Give --convert"),
    (["--fault_model=row_fault"], "did you mean 'row_faults'"),
    (["--fault_model=row_faults:exact=true"], "has no key 'exact'"),
    (["--fault_model=drift:seconds=9,nu=0.1", "--fault_rates=0.1"], "with a rate to sweep"),
    (["--model={model}", "--data=digits", "--out=/proc/none"], "/proc/none"),
    (["--model={model}", "--data=none.npz"], "none.npz"),
    (["--model={model}"], "--data is missing, and no config.json beside the model"),
]


def test_bad_flags_are_one_line_and_leave_nothing_behind(saved, tmp_path):
    for arguments, message in BAD:
        plain = saved.with_name("plain.keras")
        filled = [argument.format(model=saved, plain=plain) for argument in arguments]
        (found,) = run_in_turn(["evaluate", f"--out={tmp_path}/run", *filled])
        assert message in found, arguments
    assert not (tmp_path / "run").exists()
    output = run_tool("evaluate", "--model=none.keras", f"--out={tmp_path}/run", code=1)
    assert output == "error: --model='none.keras': there is no such file.\n"
