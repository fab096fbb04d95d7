import contextlib
import logging
import pickle

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, layers
from keras_rram.chips import chip as chips
from keras_rram.evaluation.engines.choose import Workload, open_engine
from keras_rram.evaluation.engines.keras import KerasEngine
from keras_rram.evaluation.engines.litert import LiteRTEngine, convert_once
from keras_rram.evaluation.engines.protocol import Task
from keras_rram.export import ExportError, LiteRTModel, PatchableModel, export_tflite
from keras_rram.models import mini_mobilenet, resnet20
from keras_rram.repair import BatchNormRecalibration
from tests.classifiers import classifier, digits, right_answers, training_digits
from tests.repair import networks

CHIP = Chip(StuckAtZero(0.3), 0, 1 << 21)

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TFLite conversion needs TensorFlow"
)


@pytest.fixture(scope="module")
def model():
    return classifier()


@pytest.fixture(scope="module")
def engine(model):
    return LiteRTEngine(convert_once(model, digits()[0], CHIP), digits()[1])


def shaken(model):
    """Gives batch normalization statistics and scales that conversion has to fold."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(rng.normal(size=layer.beta.shape) * 0.2)
            layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape) * 0.2)
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_variance.shape))
    return model


def test_matches_the_users_own_loop(model, engine):
    population = chips.population(StuckAtZero(0.2), 4, seed=3)
    found = engine.answer([Task(None), *map(Task, population)])
    for chip, answers in zip([None, *population], found, strict=True):
        expected = right_answers(model, chip, *digits())
        assert np.mean(answers.correct == expected) >= 0.999
    (answers,) = engine.answer([Task(population[2], np.array([17, 3, 250]))])
    np.testing.assert_array_equal(answers.correct, found[3].correct[[17, 3, 250]])


def test_achieved_rates_are_those_of_the_keras_engine(model, engine):
    tasks = [Task(chip) for chip in chips.population(StuckAtZero(0.2), 2)]
    reference = KerasEngine(model, *digits(20)).answer(tasks)
    found = engine.answer(tasks)
    assert [one.fault_rate for one in found] == [one.fault_rate for one in reference]


def test_threads_and_parts_of_the_images_change_nothing(model):
    images, labels = digits(100)
    converted = convert_once(model, images, CHIP)
    chip = Chip(StuckAtZero(0.3), 1, 1)
    tasks = [Task(chip), Task(chip, np.arange(7)), Task(chip, np.arange(9, 28))]
    alone = LiteRTEngine(converted, labels, threads=1).answer(tasks)
    for threads in (2, 3, 64):
        found = LiteRTEngine(converted, labels, threads).answer(tasks)
        for one, other in zip(alone, found, strict=True):
            np.testing.assert_array_equal(one.correct, other.correct)


@pytest.mark.slow
def test_agrees_with_keras_on_networks_with_folded_batch_normalization():
    rng = np.random.default_rng(1)
    for network in (
        mini_mobilenet(1, drop_connect=0.1, scope="all"),
        resnet20((10, 17), drop_connect=0.1, width=4),
    ):
        shaken(network)
        images = rng.normal(size=(250, *network.input_shape[1:])).astype("float32")
        labels = rng.integers(0, 10, 250)
        converted = convert_once(network, images, CHIP)
        assert (converted.cached > 0.2) == (network.name == "resnet20")
        tasks = [Task(None), *(Task(chip) for chip in chips.population(StuckAtZero(0.2), 3))]
        fast = LiteRTEngine(converted, labels).answer(tasks)
        slow = KerasEngine(network, images, labels).answer(tasks)
        same = np.concatenate([a.correct == b.correct for a, b in zip(fast, slow, strict=True)])
        assert same.mean() >= 0.999


def test_rescaled_layers_are_rescaled():
    model = classifier(rescale=True)
    images, labels = digits(100)
    engine = LiteRTEngine(convert_once(model, images, CHIP), labels)
    chip = Chip(StuckAtZero(0.3), 1, 1)
    healthy, faulty = engine.answer([Task(None), Task(chip)])
    np.testing.assert_array_equal(healthy.correct, right_answers(model, None, images, labels))
    np.testing.assert_array_equal(faulty.correct, right_answers(model, chip, images, labels))


def test_clean_layers_are_computed_once(caplog):
    model = classifier(first=None)
    images, labels = digits(100)
    with caplog.at_level(logging.INFO):
        converted = convert_once(model, images, CHIP)
    assert "computed once for all chips" in caplog.text
    assert converted.inputs.shape == (100, 648)
    chip = Chip(StuckAtZero(0.3), 1, 1)
    (answers,) = LiteRTEngine(converted, labels).answer([Task(chip)])
    np.testing.assert_array_equal(answers.correct, right_answers(model, chip, images, labels))


def test_int8_numbers_are_those_of_the_deployed_file(model, tmp_path):
    images, labels = digits(100)
    calibration = training_digits()[0][:100]
    converted = convert_once(model, images, CHIP, "int8", calibration)
    assert converted.cached == 0.0
    chip = Chip(StuckAtZero(0.2), 4, 7)
    (answers,) = LiteRTEngine(converted, labels).answer([Task(chip)])
    # The files of other chips may saturate where the healthy one does not; this one is exported.
    report = export_tflite(model, tmp_path / "chip.tflite", chip, "int8", calibration, images)
    deployed = LiteRTModel(report.path.read_bytes()).predict(images).argmax(-1) == labels
    np.testing.assert_array_equal(answers.correct, deployed)


def test_a_wrong_file_is_found_out(model, monkeypatch):
    def forgets_the_faults(patcher, faults):
        return bytearray(patcher.tflite)

    monkeypatch.setattr(PatchableModel, "patch", forgets_the_faults)
    with pytest.raises(ExportError, match="are not what the chip makes of them"):
        convert_once(model, digits(50)[0], CHIP)


def test_a_file_that_computes_something_else_is_found_out(model, monkeypatch):
    predict = LiteRTModel.predict
    monkeypatch.setattr(LiteRTModel, "predict", lambda self, x: predict(self, x) + 0.1)
    with pytest.raises(ExportError, match="logits differ from the Keras model's"):
        convert_once(model, digits(50)[0], CHIP)


def unmappable():
    """A transposed convolution, whose kernel no weight tensor of a file holds as it is."""
    inputs = keras.Input((28, 28, 1))
    x = layers.DropConnectConv2DTranspose(4, 3, drop_connect=0.1, name="up")(inputs)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalMaxPooling2D()(x)))


def test_auto_falls_back_with_a_reason_and_litert_is_an_error(caplog):
    work = Workload(unmappable(), *digits(50), CHIP)
    with caplog.at_level(logging.WARNING):
        found = open_engine(work, "auto")
    assert found.name == "keras"
    assert "Falling back on the keras engine" in caplog.text and "'up'" in caplog.text
    with pytest.raises(ExportError, match="'up'"):
        open_engine(work, "litert")


def test_auto_says_what_it_picked(model, caplog):
    with caplog.at_level(logging.INFO):
        found = open_engine(Workload(model, *digits(50), CHIP), "auto")
    assert found.name == "litert" and "Engine: litert" in caplog.text


def test_unknown_quantization(model):
    with pytest.raises(ValueError, match="float16"):
        convert_once(model, digits(20)[0], CHIP, "float16")


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_repaired_chips_are_those_of_keras_here_and_in_a_worker(quantization):
    network, images = networks.settled(networks.network()), networks.images(300, seed=3)
    labels = network.predict_on_batch(images).argmax(-1)
    repair = BatchNormRecalibration(images[:100])
    calibration = images if quantization == "int8" else None
    work = Workload(network, images, labels, CHIP, quantization, calibration, repair)
    engine = open_engine(work)
    assert engine.name == "litert"
    tasks = [
        Task(Chip(StuckAtZero(0.2), 1, 0)),
        Task(Chip(StuckAtZero(0.2), 1, 1), np.arange(50)),
        Task(None),
        Task(None, repaired=False),
    ]
    before = [np.array(variable) for variable in network.variables]
    expected = KerasEngine(network, images, labels, repair).answer(tasks)
    agreement = 1.0 if quantization == "float32" else 0.85
    for one in (engine, pickle.loads(pickle.dumps(engine))):
        for found, wanted in zip(one.answer(tasks), expected, strict=True):
            assert (found.correct == wanted.correct).mean() >= agreement
            assert found.fault_rate == wanted.fault_rate
    assert expected[0].correct.mean() < 0.999  # there is something to tell apart
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_repair_of_your_own_is_left_to_keras_and_one_without_a_place_too(caplog):
    network, images = networks.network(), networks.images(30)
    labels = np.zeros(30, np.int64)

    def own(model, chip):
        return contextlib.nullcontext()

    assert open_engine(Workload(network, images, labels, CHIP, repair=own)).name == "keras"
    work = Workload(network, images, labels, CHIP, repair=own)
    assert open_engine(work, "litert").name == "litert"
    inputs = keras.Input((7, 7, 2))
    x = layers.DropConnectConv2D(3, 3, activation="relu", drop_connect=0.1, name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x))
    x = layers.DropConnectDense(3, drop_connect=0.1, name="head")(x)
    work = Workload(
        keras.Model(inputs, x), images, labels, CHIP, repair=BatchNormRecalibration(images)
    )
    with caplog.at_level(logging.WARNING):
        assert open_engine(work).name == "keras"
    assert "Falling back on the keras engine" in caplog.text
