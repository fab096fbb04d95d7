"""Tests of `keras_rram.repair.retraining`."""

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, layers
from keras_rram.faults import StuckCells
from keras_rram.repair.hand import responses
from keras_rram.repair.retraining import Retraining
from tests.helpers import to_numpy
from tests.repair.networks import CLASSES, images, network


def labels(count=24):
    return np.random.default_rng(3).integers(CLASSES, size=count)


def loss(model, data, classes):
    logits = to_numpy(model(data, training=False))
    logits -= logits.max(1, keepdims=True)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log[np.arange(len(classes)), classes].mean()


@pytest.mark.parametrize("head", ["logits", "softmax", "softmax layer", "sigmoid"])
def test_the_first_step_is_that_of_adam_on_the_weights_that_work(head):
    """By NumPy, on a single dense layer: the gradient of the cross entropy through the mask."""
    keras.utils.set_random_seed(0)
    activation = head if head in ("softmax", "sigmoid") else None
    units = 1 if head == "sigmoid" else 3
    layer = layers.DropConnectDense(units, activation=activation, drop_connect=0.3, name="head")
    behind = [keras.layers.Softmax()] if head == "softmax layer" else []
    model = keras.Sequential([keras.Input((5,)), layer, *behind])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5)).astype("float32"), rng.integers(max(units, 2), size=16)
    kernel = to_numpy(layer.kernels["kernel"])
    chip = Chip(StuckAtZero(0.4), seed=1)
    mask = chip.faults(model)["head/kernel"].mask
    repair = Retraining(x, y, steps=1, batch_size=16, learning_rate=1e-3)
    repair.check_model(model)
    with chip.program(model), repair(model, chip):
        changed = to_numpy(layer.kernels["kernel"])
        assert float(layer.drop_rate) == pytest.approx(0.3)
    logits = x @ (kernel * mask)
    if head == "sigmoid":
        error = 1 / (1 + np.exp(-logits)) - y[:, None]
    else:
        error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(3)[y]
    gradient = x.T @ error / len(x) * mask
    # Keras adds epsilon to the root of the second moment before its bias is corrected.
    epsilon = 1e-7 / np.sqrt(1 - 0.999)
    expected = kernel - 1e-3 * gradient / (np.abs(gradient) + epsilon)
    limit = np.abs(kernel).max()
    np.testing.assert_allclose(changed, np.clip(expected, -limit, limit), atol=2e-6)


@pytest.mark.parametrize(
    ("units", "activation", "classes", "message"),
    [
        (1, None, 2, "expected a classifier.*behind no sigmoid"),
        (4, "sigmoid", 2, "expected a classifier.*behind a sigmoid"),
        (1, "sigmoid", 3, "from 0 to 1"),
        (3, None, 5, "from 0 to 2"),
    ],
)
def test_a_model_that_is_no_classifier_of_the_labels_is_refused(
    units, activation, classes, message
):
    head = layers.DropConnectDense(units, activation=activation, drop_connect=0.1)
    model = keras.Sequential([keras.Input((5,)), head])
    repair, chip = Retraining(np.zeros((8, 5)), np.arange(8) % classes), Chip(StuckAtZero(0.1))
    with pytest.raises(ValueError, match=message):
        repair.check_model(model)
    with chip.program(model), pytest.raises(ValueError, match=message):
        repair(model, chip)


@pytest.mark.parametrize(
    "fault_model", [StuckAtZero(0.3), StuckCells(stuck_off=0.1, stuck_on=0.1)], ids=str
)
def test_training_lowers_the_loss_and_holds_the_faults(fault_model):
    model, data, classes = network(), images(), labels()
    before = [to_numpy(variable) for variable in model.variables]
    chip = Chip(fault_model, seed=2)
    plain = responses(model, chip)
    with chip.program(model):
        start = loss(model, data, classes)
        with Retraining(data, classes, steps=60, batch_size=24)(model, chip):
            assert loss(model, data, classes) < 0.6 * start
            for name, response in plain.items():
                layer = model.get_layer(name.partition("/")[0])
                effective = to_numpy(layer.effective_kernel())
                kernel = to_numpy(layer.kernels["kernel"])
                np.testing.assert_allclose(effective, response.apply(kernel), atol=1e-5)
                assert (effective <= response.high + 1e-5).all()
                assert (effective >= response.low - 1e-5).all()
    if not model.get_layer("conv").fault_offsets:
        for variable, value in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(to_numpy(variable), value)


class Traced(keras.layers.Layer):
    """Counts how often Python runs its call: once for each compilation."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def call(self, inputs):
        self.calls += 1
        return inputs


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch compiles nothing")
def test_all_chips_share_one_compilation_and_none_sees_the_one_before():
    counter = Traced()
    head = layers.DropConnectDense(3, drop_connect=0.0, name="head")
    model = keras.Sequential([keras.Input((5,)), counter, head])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5)).astype("float32"), rng.integers(3, size=16)
    repair = Retraining(x, y, steps=5)
    kernels, calls = [], []
    for index in (0, 1, 0):
        chip = Chip(StuckAtZero(0.4), seed=1, index=index)
        with chip.program(model), repair(model, chip):
            kernels.append(to_numpy(head.kernels["kernel"]))
        calls.append(counter.calls)
    assert calls[0] == calls[1] == calls[2]
    np.testing.assert_array_equal(kernels[0], kernels[2])
    assert not np.array_equal(kernels[0], kernels[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"labels": [1]}, "label"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        Retraining(**{"images": images(), "labels": labels(), **options})
