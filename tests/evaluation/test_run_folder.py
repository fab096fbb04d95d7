"""The folder of a run: its files, who may write them, and what they say of faults and repairs."""

import contextlib
import json
import pathlib
from dataclasses import dataclass

import keras
import numpy as np
import pytest

from keras_rram import BatchNormRecalibration, Fault, StuckAtZero
from keras_rram.evaluation import evaluate_population, evaluate_rates, load_run, merge_runs
from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.fingerprint import text_at_rate, text_without_rate
from keras_rram.evaluation.run_folder import Records, run_header
from keras_rram.faults import LognormalVariation, StuckCells, at_rate, parse
from keras_rram.files.schemas import RUN
from keras_rram.layers import DropConnectDense
from tests.classifiers import classifier, digits, right_answers, training_digits

GOLDEN = pathlib.Path(__file__).parent / "golden_run"
BEFORE = pathlib.Path(__file__).parent.parent / "golden" / "before" / "run"
HEALTHY = np.array([True, True, True, False, True, True, True, True, False, True])
REPAIRED = HEALTHY | (np.arange(10) == 3)
FINGERPRINT = {
    "model": "0" * 64, "data": "1" * 64, "images": 10, "fault_model": "stuck_at_zero:exact=true",
    "seed": 7, "quantization": "float32", "repair": "batch_norm/256/0123456789abcdef",
    "access_tier": "B", "stop": None, "engine": "keras", "backend": "tensorflow",
}  # fmt: skip


def golden_chips():
    for rate in (0.1, 0.3):
        for index in range(2):
            answers = HEALTHY & (np.arange(10) % (4 - index) != 1)
            yield ChipResult.from_answers(index, rate, rate + 0.01 * index, answers)


def write_golden(folder):
    """Writes the files of `golden_run`."""
    with contextlib.closing(Records(folder)) as records:
        records.begin(run_header("mini", FINGERPRINT, HEALTHY, REPAIRED))
        for chip in golden_chips():
            records.add(chip)
        records.finish()


def test_the_files_are_written_as_ever(tmp_path):
    """Another version must not write the same files otherwise under the same schema."""
    write_golden(tmp_path / "run")
    for name in ("run.json", "chips.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (GOLDEN / name).read_bytes()
    # A fault model is persisted by its text: classes and modules may be renamed.
    assert "keras_rram.faults" not in (GOLDEN / "run.json").read_text()


def test_the_files_are_read_as_ever():
    low, high = load_run(GOLDEN)
    assert [low.fault_model, high.fault_model] == [
        "stuck_at_zero:rate=0.1,exact=true",
        "stuck_at_zero:rate=0.3,exact=true",
    ]
    assert parse(high.fault_model) == StuckAtZero(0.3, exact=True)
    assert low.chips == tuple(golden_chips())[:2] and high.chips == tuple(golden_chips())[2:]
    assert (low.name, low.seed, low.engine) == ("mini", 7, "keras float32")
    assert (low.repair, low.access_tier) == ("batch_norm/256/0123456789abcdef", "B")
    assert (low.fault_free, low.fault_free_repaired) == (0.8, 0.9)
    assert low.drop == pytest.approx(0.9 - low.mean)


def test_a_run_writes_what_the_golden_files_hold(tmp_path):
    evaluate_population(
        classifier(), StuckAtZero(0.1), digits(50), 1, engine="keras", out=str(tmp_path / "run"),
        progress=False,
    )  # fmt: skip
    found, golden = (
        json.loads((folder / "run.json").read_text()) for folder in (tmp_path / "run", GOLDEN)
    )
    assert found.keys() == golden.keys() and found["schema"] == golden["schema"]
    assert found["fingerprint"].keys() == golden["fingerprint"].keys()
    line = json.loads((tmp_path / "run" / "chips.jsonl").read_text())
    assert line.keys() == json.loads((GOLDEN / "chips.jsonl").read_text().splitlines()[0]).keys()


def test_another_schema_is_refused(tmp_path):
    write_golden(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace("keras_rram.run/3", "keras_rram.run/1"))
    with pytest.raises(ValueError, match="not of this version: expected the schema"):
        load_run(tmp_path)


def test_a_run_of_the_version_before_is_read_and_goes_on(tmp_path):
    """It has no digests; what is added has, and what has one must match it."""
    assert load_run(BEFORE) == load_run(GOLDEN)
    write_golden(tmp_path)
    for name in ("run.json", "chips.jsonl"):
        (tmp_path / name).write_bytes((BEFORE / name).read_bytes())
    with contextlib.closing(Records(tmp_path, resume=True)) as records:
        records.open()
        records.add(ChipResult.from_answers(2, 0.1, 0.1, HEALTHY))
        records.finish()
    assert (tmp_path / "run.json").read_bytes() == (BEFORE / "run.json").read_bytes()
    low, _ = load_run(tmp_path)
    assert len(low.chips) == 3
    path = tmp_path / "chips.jsonl"
    path.write_text(path.read_text().replace('"index": 2,', '"index": 3,'))
    with pytest.raises(ValueError, match="line 5, is damaged.*digest"):
        load_run(tmp_path)


def test_an_empty_run_is_no_result(tmp_path):
    with contextlib.closing(Records(tmp_path / "run")) as records:
        records.begin(run_header("mini", FINGERPRINT, HEALTHY, REPAIRED))
    for read in (load_run, lambda run: merge_runs([run, GOLDEN], tmp_path / "both")):
        with pytest.raises(ValueError, match="run' holds a run of no chip yet"):
            read(tmp_path / "run")
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("change", [b"}", b"\x0b", b"\x8a", b"x\n", b"} {"])
def test_what_follows_the_last_line_is_its_newline(tmp_path, change):
    """A changed newline does not make a chip that is there one that was never evaluated."""
    write_golden(tmp_path)
    path = tmp_path / "chips.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + change)
    with pytest.raises(ValueError, match="line 4, is damaged"):
        load_run(tmp_path)


def test_a_run_that_was_done_misses_lines_that_are_gone(tmp_path):
    write_golden(tmp_path / "run")
    path, header = tmp_path / "run" / "chips.jsonl", tmp_path / "run" / "run.json"
    whole, done = path.read_bytes(), header.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert json.loads(done)["lines"] == len(lines) == 4
    for cut in (whole[:-1], b"".join(lines[:3]), b"".join(lines[:1]), b""):
        path.write_bytes(cut)
        left = max(0, cut.count(b"\n"))
        for read in (load_run, lambda run: merge_runs([run, GOLDEN], tmp_path / "both")):
            with pytest.raises(ValueError, match=f"done with 4 lines .* of which {left} are left"):
                read(tmp_path / "run")
    assert not (tmp_path / "both").exists()
    # Resumed, it is what it was; and it may be stopped while it goes on to more chips.
    with contextlib.closing(Records(tmp_path / "run", resume=True)) as records:
        records.open()
        for chip in golden_chips():
            records.add(chip)
        records.finish()
    assert (path.read_bytes(), header.read_bytes()) == (whole, done)
    with contextlib.closing(Records(tmp_path / "run", resume=True)) as records:
        records.open()
        records.add(ChipResult.from_answers(2, 0.3, 0.3, HEALTHY))
    assert [len(result.chips) for result in load_run(tmp_path / "run")] == [2, 3]
    # Before it was done for the first time, fewer lines are a run that was stopped.
    stopped = {key: value for key, value in json.loads(done).items() if key != "lines"}
    RUN.write(header, stopped)
    path.write_bytes(lines[0])
    assert [len(result.chips) for result in load_run(tmp_path / "run")] == [1]


def test_a_folder_is_written_by_one_at_a_time(tmp_path):
    write_golden(tmp_path)
    with contextlib.closing(Records(tmp_path, resume=True)) as first:
        first.open()
        with pytest.raises(ValueError, match="is being written by another process"):
            Records(tmp_path, resume=True).open()
    with contextlib.closing(Records(tmp_path, resume=True)) as second:
        second.open()


@dataclass(frozen=True)
class Mine:
    """A fault model of the user's own: it has no name in the grammar."""

    rate: float
    where: tuple[int, ...] = (0, 1)
    weights: np.ndarray | None = None
    needs_kernel = False

    def sample(self, shape, rng, kernel=None):
        return Fault((rng.random(shape) >= self.rate).astype(np.float32))


def test_the_text_of_a_fault_model_leaves_the_rate_to_the_chips():
    cells = StuckCells(0.02, 0.01)
    models = (StuckAtZero(0.2), StuckAtZero(0.1, True), cells, LognormalVariation(0.1))
    for model in models:
        text = text_without_rate(model)
        assert parse(text_at_rate(text, model.rate)) == model
    assert text_without_rate(StuckAtZero(0.2)) == text_without_rate(StuckAtZero(0.3))
    # Cells have no rate of their own: the text has their probabilities.
    assert parse(text_at_rate(text_without_rate(cells), 0.06)) == at_rate(cells, 0.06)


def test_a_fault_model_of_ones_own_is_told_by_its_fields(tmp_path):
    assert text_without_rate(Mine(0.1)) == text_without_rate(Mine(0.2))
    large = np.arange(5000.0)
    changed = np.where(large == 2500, 0.1, large)
    texts = {text_without_rate(Mine(0.1, weights=array)) for array in (None, large, changed)}
    assert len({*texts, text_without_rate(Mine(0.1, where=(2,)))}) == 4
    with pytest.raises(TypeError, match="expected a fault model"):
        text_without_rate(object())
    options = {"chips": 2, "engine": "keras", "progress": False, "out": str(tmp_path / "run")}
    found = evaluate_rates(classifier(), Mine(0.1), [0.1, 0.2], digits(50), **options)
    assert found.results[1].fault_model == text_without_rate(Mine(0.1))
    assert load_run(tmp_path / "run") == list(found)
    with pytest.raises(ValueError, match="differs is fault_model"):
        evaluate_rates(
            classifier(), Mine(0.1, where=(3,)), [0.1], digits(50), resume=True, **options
        )


def normalized():
    """A classifier whose batch normalization has statistics that fit no image."""
    base = classifier()
    x = base.get_layer("flatten").output
    norm = keras.layers.BatchNormalization(name="norm")
    head = DropConnectDense(10, drop_connect=0.1, name="out")
    features = keras.Model(base.input, norm(x))
    model = keras.Model(base.input, head(features.output), name="normalized")
    images, labels = training_digits()
    with BatchNormRecalibration(images)(model):
        found = keras.ops.convert_to_numpy(features(images))
    gram = found.T @ found + 300 * np.eye(found.shape[1])
    head.kernels["kernel"].assign(np.linalg.solve(gram, found.T @ (2.0 * np.eye(10)[labels] - 1)))
    norm.moving_mean.assign(10 * np.random.default_rng(0).normal(size=found.shape[1]))
    return model


def test_a_repair_is_measured_on_the_fault_free_model_too(tmp_path):
    model, repair = normalized(), BatchNormRecalibration(training_digits()[0][:200])
    options = {"chips": 2, "repair": repair, "progress": False, "out": str(tmp_path / "run")}
    result = evaluate_population(model, StuckAtZero(0.1), digits(), **options)
    with repair(model):
        healthy = right_answers(model, None, *digits()).mean()
    assert result.fault_free == right_answers(model, None, *digits()).mean()
    assert result.fault_free_repaired == healthy > result.fault_free + 0.1
    assert result.fault_free - result.mean < 0 < result.drop == healthy - result.mean
    header = json.loads((tmp_path / "run" / "run.json").read_text())
    assert ChipResult.from_dict(header["fault_free_repaired"]).accuracy == healthy
    assert header["fingerprint"]["access_tier"] == "B"
    assert load_run(tmp_path / "run") == [result]
    assert evaluate_population(model, StuckAtZero(0.1), digits(), resume=True, **options) == result
