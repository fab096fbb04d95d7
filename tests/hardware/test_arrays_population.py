"""Populations of arrays: converters and read noise through the engine and the tool."""

import json

import numpy as np
import pytest

from keras_rram import StuckAtZero, data, faulty_layers
from keras_rram.chips import chip as chips
from keras_rram.evaluation import evaluate_population
from keras_rram.evaluation.engines.keras import KerasEngine
from keras_rram.evaluation.engines.protocol import Task
from keras_rram.hardware.arrays import Analog, to_analog
from keras_rram.noise.injection import read_noise
from tests.classifiers import classifier, right_answers
from tests.helpers import to_numpy
from tests.run_tools import run_here

ARRAY = Analog(adc_bits=4, tile_rows=8)


@pytest.fixture(scope="module")
def digits():
    dataset = data.load("digits")
    return dataset.arrays("test", 120), dataset.arrays("train", 100)[0]


def test_a_population_of_arrays_equals_a_loop(digits):
    (images, labels), calibration = digits
    model = to_analog(classifier(), ARRAY, calibration)
    found = evaluate_population(
        model, StuckAtZero(0.2), chips=3, data=(images, labels), seed=5, progress=False
    )
    assert found.engine.startswith("keras")
    for chip, record in zip(
        chips.population(StuckAtZero(0.2), 3, seed=5), found.chips, strict=True
    ):
        assert record.correct == right_answers(model, chip, images, labels).sum()
    exact = evaluate_population(
        classifier(), StuckAtZero(0.2), chips=3, data=(images, labels), seed=5, progress=False
    )
    assert [chip.correct for chip in exact.chips] != [chip.correct for chip in found.chips]


def test_noise_follows_from_the_chip_and_the_images_alone(digits):
    (images, labels), calibration = digits
    model = to_analog(classifier(), Analog(6, read_noise=0.2), calibration)
    engine = KerasEngine(model, images, labels, batch=50)
    tasks = [Task(chip) for chip in chips.population(StuckAtZero(0.1), 3)]
    before = [to_numpy(layer.seed_generator.state) for layer in faulty_layers(model).values()]
    found = engine.answer(tasks)
    alone = KerasEngine(model, images, labels, batch=50).answer(tasks[2:])
    np.testing.assert_array_equal(alone[0].correct, found[2].correct)
    after = [to_numpy(layer.seed_generator.state) for layer in faulty_layers(model).values()]
    np.testing.assert_array_equal(before, after)
    # Another chip that happens to be healthy is read with other noise.
    healthy = engine.answer([Task(chip) for chip in chips.population(StuckAtZero(0.0), 2)])
    assert (healthy[0].correct != healthy[1].correct).any()


def test_each_batch_is_read_anew(digits):
    (images, labels), _ = digits
    model = classifier()
    twice = np.concatenate([images[:60], images[:60]])
    with read_noise(model, 0.3):
        engine = KerasEngine(model, twice, np.tile(labels[:60], 2), batch=60)
        (answers,) = engine.answer([Task(None)])
    assert (answers.correct[:60] != answers.correct[60:]).any()


def test_no_file_has_arrays_or_read_noise(digits):
    (images, labels), calibration = digits
    arguments = {"chips": 2, "data": (images, labels), "progress": False}
    analog = to_analog(classifier(), ARRAY, calibration)
    with pytest.raises(ValueError, match="no arrays with converters"):
        evaluate_population(analog, StuckAtZero(0.1), engine="litert", **arguments)
    with pytest.raises(ValueError, match="int8.* no arrays with converters"):
        evaluate_population(
            analog, StuckAtZero(0.1), quantization="int8", calibration=calibration, **arguments
        )
    model = classifier()
    with (
        read_noise(model, 0.1),
        pytest.raises(ValueError, match="no read noise"),
    ):
        evaluate_population(model, StuckAtZero(0.1), engine="litert", **arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adc_bits=6", Analog(6)),
        (" adc_bits = none , read_noise=1e-2", Analog(None, read_noise=0.01)),
        ("tile_rows=64,coverage=0.999,adc_bits=12", Analog(12, 64, 0.0, 0.999)),
    ],
)
def test_a_periphery_as_text(text, expected):
    assert Analog.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bits=6", "array has no key 'bits'.*Keys: adc_bits=8"),
        ("adc_bits=6,adc_bits=7", "'adc_bits' twice: give it once"),
        ("adc_bits=6.5", "`adc_bits` must be an integer"),
        ("read_noise=none", "`read_noise` must be.*, a number"),
        ("adc_bits=1", "`adc_bits` must be"),
        ("", "expected a key of array"),
    ],
)
def test_a_bad_text_is_a_clear_error(text, message):
    with pytest.raises(ValueError, match=message):
        Analog.parse(text)


@pytest.mark.slow
def test_the_tool_evaluates_on_arrays_and_says_so(tmp_path):
    path = tmp_path / "model.keras"
    classifier().save(path)
    flags = [f"--model={path}", "--data=digits", "--normalize=mnist", "--images=60", "--chips=2"]
    flags.append("--array=adc_bits=3,tile_rows=16")
    run_here("evaluate", *flags, "--calibration_images=50", f"--out={tmp_path / 'run'}")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["array"] == {
        "adc_bits": 3,
        "tile_rows": 16,
        "read_noise": 0.0,
        "coverage": 1.0,
    }
    found = json.loads((tmp_path / "run" / "results.json").read_text())["populations"][0]["chips"]
    dataset = data.load("digits")
    images, labels = dataset.arrays("test", 60)
    analog = to_analog(classifier(), Analog(3, 16), dataset.arrays("train", 50)[0])
    for record, chip in zip(found, chips.population(StuckAtZero(0.1), 2), strict=True):
        assert record["correct"] == right_answers(analog, chip, images, labels).sum()
    for flag in ("--array=adc_bits=x", "--engine=litert"):
        failed = run_here("evaluate", *flags, flag, f"--out={tmp_path / 'bad'}", code=1)
        assert "error: --array" in failed
    assert not (tmp_path / "bad").exists()
