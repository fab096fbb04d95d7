"""Tests of `keras_rram.evaluation.explain`."""

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, bake, faults
from keras_rram.evaluation import KerasEngine, explain
from keras_rram.evaluation.engines.protocol import Task
from keras_rram.faults.beginnings import beginnings
from keras_rram.hardware.periphery import Analog
from tests.classifiers import classifier, digits, right_answers, training_digits
from tests.helpers import to_numpy

IMAGES, LABELS = digits(200)
THREE = "stuck_at_zero:rate=0.1+lognormal_variation:sigma=0.2+row_faults:rate=0.1,tile=16x4"


@pytest.fixture(scope="module")
def model():
    return classifier()


def test_no_fault_is_keras_exactly_in_every_step(model):
    chip = Chip(StuckAtZero(0.0), seed=1)
    plain = bake(model)
    found = explain(plain, chip, (IMAGES, LABELS), layer_images=70)
    wanted = np.mean(plain.predict(IMAGES, batch_size=100, verbose=0).argmax(-1) == LABELS)
    assert [step.accuracy for step in found.steps] == [wanted] * 3
    assert [step.name for step in found.steps] == ["keras", "cells", "faults"]
    for one in found.layers:
        assert (one.rate, one.shift, one.scale, one.lost) == (0.0, 0.0, 1.0, 0.0)
        assert one.alone == wanted
    assert "Nothing is lost" in str(found)


def test_each_part_of_a_composition_adds_to_those_before(model):
    chip = Chip(faults.parse(THREE), seed=3, index=2)
    found = explain(model, chip, (IMAGES, LABELS))
    assert [step.detail for step in found.steps[2:]] == THREE.split("+")
    assert found.on_chip == right_answers(model, chip, IMAGES, LABELS).mean()
    # The oracle: each part's own draws, joined by hand from the words of each kernel's generator.
    kernel = to_numpy(model.get_layer("conv").kernel)
    whole = chip.faults(model)["conv/kernel"]
    masks = []
    for _, so_far in beginnings(chip.fault_model):
        held = Chip(so_far, seed=3, index=2).faults(model)["conv/kernel"]
        masks.append(held.apply(kernel))
    np.testing.assert_array_equal(masks[-1], whole.apply(kernel))
    assert ((masks[0] == 0) | (masks[0] == kernel)).all() and (masks[0] == 0).any()
    np.testing.assert_array_equal(masks[1] == 0, masks[0] == 0)
    factor = masks[1][masks[0] != 0] / kernel[masks[0] != 0]
    later = masks[2] != 0
    np.testing.assert_array_equal(masks[2][later], masks[1][later])
    assert np.unique(factor).size == factor.size and (masks[2] == 0).sum() > (masks[0] == 0).sum()


def test_effects_are_those_of_the_two_matrices(model):
    chip = Chip(StuckAtZero(0.4), seed=5)
    found = {one.layer: one for one in explain(model, chip, (IMAGES, LABELS)).layers}
    features = keras.Model(model.inputs, model.get_layer("flatten").output)
    head, fault = model.get_layer("head"), chip.faults(model)
    kernel, bias = to_numpy(head.kernel).astype(np.float64), to_numpy(head.bias)
    healthy = features.predict(IMAGES, verbose=0) @ kernel + bias
    with chip.program(model):
        spoiled = features.predict(IMAGES, verbose=0)
    faulty = spoiled @ (kernel * fault["head/kernel"].mask) + bias
    shifts = (faulty.mean(0) - healthy.mean(0)) / healthy.std(0)
    one = found["head"]
    assert one.shift == pytest.approx(np.sqrt((shifts**2).mean()), rel=1e-4)
    assert one.scale == pytest.approx((faulty.std(0) / healthy.std(0)).mean(), rel=1e-4)
    r = [np.corrcoef(healthy[:, k], faulty[:, k])[0, 1] for k in range(10)]
    assert one.lost == pytest.approx(1 - np.mean(np.square(r)), rel=1e-4)
    assert one.rate == pytest.approx(1 - fault["head/kernel"].mask.mean())
    # Alone: the chip of which only this layer's faults were kept.
    only = Chip(measured={"head/kernel": fault["head/kernel"]})
    assert one.alone == right_answers(model, only, IMAGES, LABELS).mean()
    assert (to_numpy(head.fault_masks["kernel"]) == 1).all()


def test_cells_levels_converters_and_repair_are_steps_of_their_own():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(4, 5, strides=4, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="head"),
        ]
    )
    slices = "differential_pair:stuck_off=0.2,mapping=bit_slices(bits=4)"
    chip = Chip(faults.parse(slices), seed=1)
    calibration = training_digits(100)[0][:64]
    found = explain(
        model,
        chip,
        (IMAGES, LABELS),
        bits=3,
        analog=Analog(adc_bits=5),
        calibration=calibration,
        layer_images=64,
    )
    names = ["keras", "cells", "levels", "converters", "faults", "repair"]
    assert [step.name for step in found.steps] == names
    assert found.steps[1].detail == "BitSlices" and "batch_norm" in found.steps[-1].detail
    assert found.repaired == found.steps[-1].accuracy
    assert "5 bits, tiles of 128 rows" in str(found)
    assert found.to_dict()["verdict"] == found.verdict


def test_what_does_not_fit_is_an_error(model):
    with pytest.raises(TypeError, match="expected a chip, such as"):
        explain(model, StuckAtZero(0.1), (IMAGES, LABELS))
    chip = Chip(StuckAtZero(0.1))
    with pytest.raises(ValueError, match="`layer_images` must be"):
        explain(model, chip, (IMAGES, LABELS), layer_images=0)
    with pytest.raises(ValueError, match="`mapping` must be one of"):
        explain(model, chip, (IMAGES, LABELS), mapping="pairs")
    with pytest.raises(ValueError, match="to calibrate the range"):
        explain(model, chip, (IMAGES, LABELS), analog=Analog())


def test_faults_that_are_held_are_those_of_the_chip(model):
    """`Chip.load` with faults saved beside the identity is one step."""
    chip = Chip(StuckAtZero(0.3), seed=2)
    held = Chip(StuckAtZero(0.3), seed=2, measured=chip.faults(model))
    found = explain(model, held, (IMAGES, LABELS), layer_images=10)
    assert found.steps[-1].detail == "as saved with the chip"
    (answers,) = KerasEngine(model, IMAGES, LABELS).answer([Task(chip)])
    assert found.on_chip == answers.correct.mean()
