"""Tests of `keras_rram.callbacks`."""

import csv
import dataclasses

import keras
import numpy as np
import pytest

from keras_rram import DropConnectDense
from keras_rram.callbacks import Checkpoint, ChipValidation, DropRateSchedule, EpochRecords
from keras_rram.checkpoint import restore_checkpoint
from keras_rram.chips import Chip
from keras_rram.faults import Fault, StuckAtZero

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
    expected = [_numpy_accuracy(model, Chip(fault_model, 7, index)) for index in range(4)]
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
