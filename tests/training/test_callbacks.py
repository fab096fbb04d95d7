"""Tests of `keras_rram.training.on_chips`."""

import csv
import dataclasses
import hashlib

import keras
import numpy as np
import pytest

from keras_rram import DropConnectDense
from keras_rram.chips.chip import Chip
from keras_rram.faults import Fault, StuckAtValues, StuckAtZero, StuckCells
from keras_rram.training.checkpoint import restore_checkpoint
from keras_rram.training.on_chips import ChipValidation, Reprogram
from keras_rram.training.records import Checkpoint, EpochRecords
from keras_rram.training.schedule import DropRateSchedule

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(40, 6)).astype("float32")
LABELS = IMAGES[:, :3].argmax(1)


def _model(rate=0.2, units=8, metrics=("accuracy",)):
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            DropConnectDense(units, name="hidden", activation="relu", drop_connect=rate),
            DropConnectDense(3, name="head", drop_connect=rate),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=metrics and list(metrics),
        jit_compile=False,
    )
    return model


def _fit(model, callbacks, epochs=2, **kwargs):
    return model.fit(
        IMAGES, LABELS, batch_size=20, epochs=epochs, callbacks=callbacks, verbose=0, **kwargs
    )


def _numpy_accuracy(model, chip):
    """The accuracy of a chip without Keras: masks times weights, matrix products, argmax."""
    hidden, head = model.get_layer("hidden"), model.get_layer("head")
    faults = chip.faults(model)
    weights = {}
    for layer in (hidden, head):
        kernel, bias = (keras.ops.convert_to_numpy(v) for v in (layer.kernel, layer.bias))
        fault = faults[f"{layer.name}/kernel"]
        offset = 0 if fault.offset is None else fault.offset
        weights[layer.name] = (kernel * fault.mask + offset, bias)
    values = np.maximum(IMAGES @ weights["hidden"][0] + weights["hidden"][1], 0)
    logits = values @ weights["head"][0] + weights["head"][1]
    return (logits.argmax(1) == LABELS).mean()


@dataclasses.dataclass(frozen=True)
class StuckOn:
    """Every third weight reads as one: a fault model with offsets."""

    rate: float = 1 / 3
    needs_kernel: bool = False

    def sample(self, shape, rng, kernel=None):
        stuck = rng.random(shape) < self.rate
        return Fault((~stuck).astype("float32"), stuck.astype("float32"))

    def get_config(self):
        return {"rate": self.rate}


@pytest.mark.parametrize("fault_model", [StuckAtZero(0.3), StuckOn()])
def test_chip_validation_is_the_accuracy_of_the_chips(fault_model):
    model = _model()
    callback = ChipValidation(IMAGES, LABELS, fault_model, chips=4, seed=7, batch_size=16)
    history = _fit(model, [callback], epochs=3).history
    expected = [
        _numpy_accuracy(model, Chip(fault_model, 7, index, stream="validation"))
        for index in range(4)
    ]
    assert history["val_chip_accuracy"][-1] == pytest.approx(np.mean(expected))
    assert history["val_chip_accuracy_min"][-1] == pytest.approx(min(expected))
    assert history["val_chip_accuracy_max"][-1] == pytest.approx(max(expected))
    assert len(set(expected)) > 1
    assert len(history["val_chip_loss"]) == 3
    # The model trains and ends without faults.
    for layer in model.layers:
        assert keras.ops.convert_to_numpy(layer.fault_masks["kernel"]).all()
        for offset in layer.fault_offsets.values():
            assert not keras.ops.convert_to_numpy(offset).any()


def test_chip_validation_changes_nothing_about_the_training():
    results = []
    for callbacks in ([], [ChipValidation(IMAGES, LABELS, StuckAtZero(0.3), chips=2)]):
        keras.utils.set_random_seed(0)
        model = _model()
        _fit(model, callbacks, shuffle=False)
        results.append(model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_chip_validation_gives_back_a_chip_that_was_programmed_before():
    model = _model()
    Chip(StuckAtZero(0.5), seed=1).program(model)
    mask = keras.ops.convert_to_numpy(model.get_layer("hidden").fault_masks["kernel"]).copy()
    _fit(model, [ChipValidation(IMAGES, LABELS, StuckAtZero(0.3))])
    after = keras.ops.convert_to_numpy(model.get_layer("hidden").fault_masks["kernel"])
    np.testing.assert_array_equal(after, mask)


def test_chip_validation_gives_the_model_back_when_evaluation_fails(monkeypatch):
    model = _model()

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "evaluate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        _fit(model, [ChipValidation(IMAGES, LABELS, StuckAtZero(0.3))])
    for layer in model.layers:
        assert keras.ops.convert_to_numpy(layer.fault_masks["kernel"]).all()


def test_the_metrics_reach_callbacks_that_come_later(tmp_path):
    records = EpochRecords()
    callbacks = [
        DropRateSchedule({0: 0.0, 1: 0.1}),
        ChipValidation(IMAGES, LABELS, StuckAtZero(0.3)),
        keras.callbacks.CSVLogger(tmp_path / "history.csv"),
        records,
    ]
    history = _fit(_model(), callbacks).history
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("loss", "accuracy", "val_chip_accuracy", "val_chip_loss", "drop_rate"):
        values = [float(row[name]) for row in rows]
        np.testing.assert_allclose(values, history[name])
        np.testing.assert_allclose([record[name] for record in records.records], history[name])
    assert [record["epoch"] for record in records.records] == [1, 2]
    assert all(record["seconds"] > 0 for record in records.records)
    assert records.records[0]["learning_rate"] == pytest.approx(0.01)


def test_chip_validation_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="40 images, 39 labels"):
        ChipValidation(IMAGES, LABELS[:-1], StuckAtZero(0.1))
    with pytest.raises(ValueError, match="count"):
        ChipValidation(IMAGES, LABELS, StuckAtZero(0.1), chips=0)
    with pytest.raises(ValueError, match="batch_size"):
        ChipValidation(IMAGES, LABELS, StuckAtZero(0.1), batch_size=0)
    callback = ChipValidation(IMAGES, LABELS, StuckAtZero(0.1))
    plain = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(3)])
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no Drop-Connect layer"):
        _fit(plain, [callback])
    with pytest.raises(ValueError, match="metric named 'accuracy'"):
        _fit(_model(metrics=None), [callback])


class _CountedDense(DropConnectDense):
    """Counts how often Keras runs `call` in Python: once a trace, not once a step."""

    calls = 0

    def call(self, inputs, training=None):
        type(self).calls += 1
        return super().call(inputs, training=training)


@pytest.mark.skipif(keras.config.backend() == "torch", reason="torch runs eagerly")
def test_a_schedule_sets_the_rate_without_retracing():
    _CountedDense.calls = 0
    model = keras.Sequential(
        [keras.layers.Input((6,)), _CountedDense(3, name="head", drop_connect=0.5)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append((float(self.model.layers[0].drop_rate.value), _CountedDense.calls))

    schedule = DropRateSchedule(lambda epoch: 0.1 * epoch)
    history = _fit(model, [schedule, Look()], epochs=4).history
    rates, calls = zip(*seen, strict=True)
    np.testing.assert_allclose(rates, np.repeat([0.0, 0.1, 0.2, 0.3], 2), rtol=1e-6)
    np.testing.assert_allclose(history["drop_rate"], [0.0, 0.1, 0.2, 0.3], rtol=1e-6)
    assert calls[1] == calls[-1] == _CountedDense.calls


def test_a_dict_holds_each_rate_until_the_next():
    schedule = DropRateSchedule({0: 0.0, 5: 0.2, 3: 0.1})
    assert [schedule.rate(epoch) for epoch in range(7)] == [0, 0, 0, 0.1, 0.1, 0.2, 0.2]


def test_bad_schedules_raise():
    with pytest.raises(ValueError, match="0 among them"):
        DropRateSchedule({1: 0.1})
    with pytest.raises(ValueError, match="epochs >= 0"):
        DropRateSchedule({0: 0.1, -1: 0.2})
    with pytest.raises(TypeError, match="function of the epoch"):
        DropRateSchedule(0.2)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        _fit(_model(), [DropRateSchedule({0: 1.0})])


def test_a_checkpoint_is_written_after_each_epoch_with_the_history(tmp_path):
    path = tmp_path / "state.npz"
    callbacks = [
        ChipValidation(IMAGES, LABELS, StuckAtZero(0.3)),
        Checkpoint(path, {"seed": 1}, records=[{"epoch": 1, "loss": 9.0}]),
    ]
    model = _model()
    _fit(model, callbacks, epochs=3, initial_epoch=1)
    fresh = _model()
    restored = restore_checkpoint(fresh, path, {"seed": 1})
    assert restored.epoch == 3
    assert [record["epoch"] for record in restored.history] == [1, 2, 3]
    assert "val_chip_accuracy" in restored.history[-1]
    for one, other in zip(model.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def _regression(seed=5):
    """A linear layer, and data whose best weights have the opposite signs of the first ones."""
    keras.utils.set_random_seed(seed)
    layer = DropConnectDense(8, use_bias=False, drop_connect=0.0, name="dense")
    model = keras.Sequential([keras.layers.Input((6,)), layer])
    kernel = np.random.default_rng(seed).normal(size=(6, 8)).astype("float32")
    layer.kernels["kernel"].assign(kernel)
    model.compile(keras.optimizers.SGD(0.4), "mse", run_eagerly=True)
    return model, kernel, IMAGES @ -kernel


def _pair(weights, states, scale):
    """Effective weights of differential pairs and their derivative, by cases."""
    effective, slope = np.zeros_like(weights), np.zeros_like(weights)
    for place, w in np.ndenumerate(weights):
        levels = [max(w, 0.0), max(-w, 0.0)]
        for cell, sign in enumerate((1, -1)):
            state = states[(cell, *place)]
            if state:
                levels[cell] = scale if state == "on" else 0.0
            elif (w >= 0) == (sign > 0):
                slope[place] = 1.0
        effective[place] = levels[0] - levels[1]
    return effective, slope


def _stuck(chip, shape):
    """State of each cell, from the documented generator of a chip's kernel."""
    digest = hashlib.sha256(b"dense/kernel").digest()
    words = [int.from_bytes(digest[4 * i : 4 * i + 4], "little") for i in range(4)]
    draws = np.random.default_rng([chip.seed, chip.index, *words]).random((2, *shape), "float32")
    model = chip.fault_model
    return np.where(draws < model.stuck_off, "off", np.where(draws >= 1 - model.stuck_on, "on", ""))


def _effective(model):
    return keras.ops.convert_to_numpy(model.get_layer("dense").effective_kernel())


def test_retraining_on_a_chip_follows_the_weights_through_changes_of_sign():
    """Against gradient descent in NumPy on the closed form of the pairs."""
    chip = Chip(StuckCells(0.2, 0.1), seed=3)
    model, weights, targets = _regression()
    states, first = _stuck(chip, weights.shape), weights
    fit = {"batch_size": 40, "verbose": 0, "shuffle": False}
    data = np.tile(IMAGES, (40, 1)), np.tile(targets, (40, 1))
    with chip.program(model):
        before = model.evaluate(IMAGES, targets, verbose=0)
    model.fit(*data, callbacks=[Reprogram(chip)], **fit)
    for _ in range(40):
        effective, slope = _pair(weights, states, np.abs(weights).max())
        errors = IMAGES @ effective - targets
        weights = weights - 0.4 * slope * (IMAGES.T @ errors) * (2 / errors.size)
    trained = keras.ops.convert_to_numpy(model.get_layer("dense").kernel)
    np.testing.assert_allclose(trained, weights, atol=1e-4)
    flipped = (np.sign(trained) != np.sign(first)) & (states != "").any(0)
    assert flipped.sum() >= 3
    expected, _ = _pair(trained, states, np.abs(trained).max())
    np.testing.assert_allclose(_effective(model), expected, atol=1e-6)
    assert model.evaluate(IMAGES, targets, verbose=0) < 0.5 * before
    # Programmed once, the same training leaves masks and offsets of other weights.
    once, _, _ = _regression()
    with chip.program(once):
        once.fit(*data, **fit)
        fresh = chip.faults(once)["dense/kernel"]
        held = keras.ops.convert_to_numpy(once.get_layer("dense").kernel)
        assert np.abs(_effective(once) - fresh.apply(held)).max() > 0.1


def test_every_few_steps_and_for_validation():
    chip = Chip(StuckCells(0.2, 0.1), seed=3)
    model, _, targets = _regression()
    programmed = []

    class Counting(type(chip)):
        def program(self, model):
            programmed.append(keras.ops.convert_to_numpy(model.get_layer("dense").kernel).copy())
            return super().program(model)

    counting = Counting(chip.fault_model, seed=3)
    history = model.fit(
        IMAGES,
        targets,
        batch_size=10,
        epochs=2,
        verbose=0,
        callbacks=[Reprogram(counting, every=3)],
        validation_data=(IMAGES, targets),
    )
    # At first, after steps 3 and 6 of 8, and for validation after 4 and 8, in each case once.
    assert len(programmed) == 5
    loss = float(np.mean((IMAGES @ _effective(model) - targets) ** 2))
    assert history.history["val_loss"][-1] == pytest.approx(loss, rel=1e-4)
    programmed.clear()
    fixed = Counting(StuckAtZero(0.2), seed=3)
    model.fit(IMAGES, targets, batch_size=10, verbose=0, callbacks=[Reprogram(fixed)])
    assert len(programmed) == 1


def test_chips_that_cannot_be_programmed_anew(tmp_path):
    model, _, _ = _regression()
    chip = Chip(StuckAtValues(0.2, (1e-5,)), seed=3)
    chip.save(tmp_path / "chip.npz", model)
    with pytest.raises(ValueError, match="saved with the weights of then"):
        Reprogram(Chip.load(tmp_path / "chip.npz"))
    with pytest.raises(TypeError, match="must be a `Chip`"):
        Reprogram(StuckCells(0.1))
    with pytest.raises(ValueError, match="`every`"):
        Reprogram(chip, every=0)
