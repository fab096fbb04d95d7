import contextlib
import importlib.util
import json
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_rram import Chip, Fault, StuckAtZero, read_noise
from keras_rram.chips import audit
from keras_rram.chips import chip as chips
from keras_rram.evaluation.engines.keras import KerasEngine
from keras_rram.evaluation.engines.protocol import Task, achieved_rate
from keras_rram.layers import faulty_weights
from tests.classifiers import classifier, digits, right_answers
from tests.run_tools import ROOT, on_backend


@pytest.fixture(scope="module")
def model():
    return classifier()


@pytest.fixture(scope="module")
def engine(model):
    return KerasEngine(model, *digits(), batch=64)


class StuckOn:
    """A fault model with offsets, as cells have that are stuck at a high conductance."""

    rate, needs_kernel = 0.1, True

    def sample(self, shape, rng, kernel=None):
        faulty = rng.random(shape) < self.rate
        offset = np.where(faulty, np.abs(kernel).max(), 0.0).astype(np.float32)
        return Fault((~faulty).astype(np.float32), offset)


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_matches_the_users_own_loop(model, engine, rate):
    population = chips.population(StuckAtZero(rate), 4, seed=3)
    found = engine.answer([Task(None), *map(Task, population)])
    for chip, answers in zip([None, *population], found, strict=True):
        np.testing.assert_array_equal(answers.correct, right_answers(model, chip, *digits()))
        assert answers.correct.dtype == np.bool_


def test_a_part_of_the_images_in_its_order(model, engine):
    chip, part = Chip(StuckAtZero(0.2), 1, 5), np.array([250, 3, 77, 100])
    (answers,) = engine.answer([Task(chip, part)])
    np.testing.assert_array_equal(answers.correct, right_answers(model, chip, *digits())[part])


def test_achieved_rate_is_that_of_the_audit(model, engine):
    chip = Chip(StuckAtZero(0.2), 1, 5)
    (answers,) = engine.answer([Task(chip)])
    with chip.program(model):
        assert answers.fault_rate == pytest.approx(audit(model).rate, abs=1e-12)
    assert achieved_rate({}, 0) == 0.0


def test_masks_are_assigned_without_tracing_again(engine):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("counts the traces of a tf.function")
    engine.answer([Task(chip) for chip in chips.population(StuckAtZero(0.1), 3)])
    assert engine._predict.compiled.experimental_get_tracing_count() == 1


def test_the_model_gets_back_what_it_held(model, engine):
    with Chip(StuckAtZero(0.4), 9, 9).program(model):
        before = [np.array(value) for value in model.get_weights()]
        engine.answer([Task(None), Task(Chip(StuckAtZero(0.1)))])
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_offsets_that_come_after_compilation_are_seen():
    model = classifier()
    engine = KerasEngine(model, *digits(100))
    engine.answer([Task(Chip(StuckAtZero(0.1)))])
    chip = Chip(StuckOn(), 1, 2)
    (answers,) = engine.answer([Task(chip)])
    np.testing.assert_array_equal(answers.correct, right_answers(model, chip, *digits(100)))
    (answers,) = engine.answer([Task(None)])
    np.testing.assert_array_equal(answers.correct, right_answers(model, None, *digits(100)))


def test_a_repair_acts_on_each_programmed_chip_and_is_undone(model):
    seen = []

    @contextlib.contextmanager
    def no_bias(model, chip):
        bias = model.get_layer("head").bias
        before = np.array(bias)
        seen.append(achieved_rate(chip.faults(model) if chip else {}, faulty_weights(model)))
        bias.assign(np.zeros(bias.shape))
        yield
        bias.assign(before)

    chip = Chip(StuckAtZero(0.2), 1, 0)
    engine = KerasEngine(model, *digits(), repair=no_bias)
    unrepaired = Task(None, repaired=False)
    healthy, repaired, again = engine.answer([unrepaired, Task(chip), unrepaired])
    assert seen == [repaired.fault_rate]
    np.testing.assert_array_equal(healthy.correct, right_answers(model, None, *digits()))
    np.testing.assert_array_equal(healthy.correct, again.correct)
    with no_bias(model, None):
        expected = right_answers(model, chip, *digits())
    np.testing.assert_array_equal(repaired.correct, expected)
    (fault_free,) = engine.answer([Task(None)])
    assert seen[-1] == 0.0
    with no_bias(model, None):
        expected = right_answers(model, None, *digits())
    np.testing.assert_array_equal(fault_free.correct, expected)


def test_a_pickled_engine_gives_the_same_answers(model):
    tasks = [Task(None), Task(Chip(StuckAtZero(0.2), 1, 0), np.arange(30))]
    with Chip(StuckAtZero(0.9)).program(model):  # what is programmed does not travel
        copy = pickle.loads(pickle.dumps(KerasEngine(model, *digits(100))))
    for one, other in zip(
        KerasEngine(model, *digits(100)).answer(tasks), copy.answer(tasks), strict=True
    ):
        np.testing.assert_array_equal(one.correct, other.correct)
        assert one.fault_rate == other.fault_rate


def test_a_model_that_is_no_classifier_is_refused():
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(x), name="regression")
    with pytest.raises(ValueError, match=r"outputs \(n, classes\).*'regression'"):
        KerasEngine(model, *digits(20))


CODE = """
import json
import keras, numpy as np
from keras_rram import StuckAtZero, Chip
from keras_rram.chips import chip as chips
from keras_rram.evaluation.engines.protocol import Task
from keras_rram.evaluation.engines.keras import KerasEngine
from keras_rram.layers import faulty_weights
from tests.classifiers import classifier, digits, right_answers

model = classifier()
images, labels = digits(100)
engine = KerasEngine(model, images, labels, batch=40)
group = engine.group
tasks = [Task(None), *(Task(chip) for chip in chips.population(StuckAtZero(0.2), 5, seed=3))]
tasks += [Task(tasks[2].chip, np.arange(7)), Task(tasks[3].chip, np.arange(7))]
wrong = 0
for task, answers in zip(tasks, engine.answer(tasks)):
    expected = right_answers(model, task.chip, images, labels)
    wrong += int((expected[slice(None) if task.images is None else task.images]
                  != answers.correct).sum())
means = [float(answers.correct.mean()) for answers in engine.answer(tasks[:6])]
print(json.dumps([keras.backend.backend(), group, wrong, means]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_backend_gives_the_same_answers(backend, engine):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    result = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env=on_backend(backend),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    name, group, wrong, means = json.loads(result.stdout.splitlines()[-1])
    assert name == backend
    assert group > 1 if backend == "jax" else group == 1  # JAX evaluates chips side by side
    assert wrong == 0
    tasks = [Task(None), *map(Task, chips.population(StuckAtZero(0.2), 5, seed=3))]
    tasks = [Task(task.chip, np.arange(100)) for task in tasks]
    here = KerasEngine(classifier(), *digits(100)).answer(tasks)
    np.testing.assert_allclose(means, [answers.correct.mean() for answers in here], atol=1e-3)


def test_noisy_reads_travel_with_the_engine(model):
    with read_noise(model, 0.3):
        engine = KerasEngine(model, *digits())
        again = pickle.loads(pickle.dumps(engine))
        tasks = [Task(Chip(StuckAtZero(0.2), 1, 5))]
        (here,), (there,) = engine.answer(tasks), again.answer(tasks)
    np.testing.assert_array_equal(here.correct, there.correct)
    assert (here.correct != right_answers(model, tasks[0].chip, *digits())).any()


def test_measured_chips_have_reads_of_their_own(model):
    """Neither has a seed or an index: the same map under two names is two chips."""
    kernel = next(iter(Chip(StuckAtZero(0.0)).faults(model)))
    fault = Chip(StuckAtZero(0.0)).faults(model)[kernel]
    one, other = (Chip(measured={kernel: fault}, name=name) for name in ("a", "b"))
    with read_noise(model, 0.3):
        first, second, again = KerasEngine(model, *digits()).answer(
            list(map(Task, (one, other, one)))
        )
    np.testing.assert_array_equal(first.correct, again.correct)
    assert (first.correct != second.correct).any()


def test_layers_that_a_map_leaves_out_count_as_healthy(model, engine):
    faults = Chip(StuckAtZero(0.4), 1, 5).faults(model)
    name = min(faults, key=lambda one: faults[one].mask.size)
    chip = Chip(measured={name: Fault(faults[name].mask)})
    (answers,) = engine.answer([Task(chip)])
    with chip.program(model):
        assert answers.fault_rate == pytest.approx(audit(model).rate)
    assert 0 < answers.fault_rate < 0.4 * 0.9
