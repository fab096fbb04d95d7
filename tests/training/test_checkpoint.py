"""Tests of `keras_rram.training.checkpoint`."""

import keras
import numpy as np
import pytest

from keras_rram import DropConnect, DropConnectConv2D, DropConnectDense
from keras_rram.chips.chip import Chip
from keras_rram.faults import StuckAtZero
from keras_rram.training.checkpoint import restore_checkpoint, save_checkpoint

IMAGES = np.random.default_rng(0).normal(size=(32, 6, 6, 1)).astype("float32")
LABELS = np.arange(32) % 3


def _model(optimizer="sgd", rate=0.3, units=5, activation="relu", compiled=True):
    """Drop-Connect, dropout with a seed of its own, and batch normalization statistics."""
    model = keras.Sequential(
        [
            keras.layers.Input((6, 6, 1)),
            DropConnectConv2D(4, 3, name="conv", drop_connect=DropConnect(rate, seed=1)),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2),
            DropConnectDense(units, name="dense", activation=activation, drop_connect=rate),
            keras.layers.Dense(3, name="head"),
        ]
    )
    if compiled:
        optimizers = {
            "sgd": keras.optimizers.SGD(0.1, momentum=0.9),
            "adam": keras.optimizers.Adam(0.01),
        }
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizers[optimizer], loss, jit_compile=False)
    return model


def _train(model, batches=3):
    for start in range(batches):
        model.train_on_batch(IMAGES[start * 8 :][:8], LABELS[start * 8 :][:8])


def _state(model):
    variables = model.variables + model.optimizer.variables
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _assert_same(one, other):
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_fresh_model_goes_on_exactly(tmp_path, optimizer):
    path = tmp_path / "state.npz"
    model = _model(optimizer)
    _train(model)
    history = [{"epoch": 1, "loss": 0.5}]
    save_checkpoint(model, path, 1, history, {"seed": 3, "shape": (1, 2)})
    saved = _state(model)
    _train(model)

    fresh = _model(optimizer)  # other weights, other random seeds
    restored = restore_checkpoint(fresh, path, {"seed": 3, "shape": (1, 2)})
    assert restored.epoch == 1
    assert list(restored.history) == history
    _assert_same(_state(fresh), saved)
    _train(fresh)
    _assert_same(_state(fresh), _state(model))


def test_the_random_states_are_in_the_file(tmp_path):
    model = _model()
    states = [v for v in model.variables if "seed_generator" in v.path]
    assert len(states) == 3  # two Drop-Connect layers and the dropout
    save_checkpoint(model, tmp_path / "state.npz", 0)
    before = [keras.ops.convert_to_numpy(v).copy() for v in states]
    _train(model)
    assert all(
        not np.array_equal(keras.ops.convert_to_numpy(state), old)
        for state, old in zip(states, before, strict=True)
    )
    restore_checkpoint(model, tmp_path / "state.npz")
    _assert_same([keras.ops.convert_to_numpy(v) for v in states], before)


def test_a_programmed_chip_and_the_drop_rate_come_back(tmp_path):
    model = _model()
    Chip(StuckAtZero(0.5), seed=1).program(model)
    model.get_layer("conv").drop_rate.assign(0.1)
    save_checkpoint(model, tmp_path / "state.npz", 0)
    fresh = _model()
    restore_checkpoint(fresh, tmp_path / "state.npz")
    for name in ("conv", "dense"):
        masks = [
            keras.ops.convert_to_numpy(each.get_layer(name).fault_masks["kernel"])
            for each in (model, fresh)
        ]
        np.testing.assert_array_equal(*masks)
        assert not masks[0].all()
    assert float(fresh.get_layer("conv").drop_rate.value) == pytest.approx(0.1)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_other_dtypes_come_back_exactly(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model, fresh = _model(), _model()
    finally:
        keras.config.set_dtype_policy("float32")
    _train(model)  # float16 wraps the optimizer in one that scales the loss
    save_checkpoint(model, tmp_path / "state.npz", 1)
    restore_checkpoint(fresh, tmp_path / "state.npz")
    _assert_same(_state(fresh), _state(model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": 6}, r"another model: variable \d+ is .*5\] float32 .* and .*6\] float32"),
        ({"optimizer": "adam"}, "another optimizer"),
        ({"activation": "tanh"}, "differently configured"),
        ({"rate": 0.2}, "differently configured"),
    ],
)
def test_another_model_is_refused_and_left_alone(tmp_path, changes, message):
    save_checkpoint(_model(), tmp_path / "state.npz", 1)
    other = _model(**changes)
    other.optimizer.build(other.trainable_variables)
    before = _state(other)
    with pytest.raises(ValueError, match=message):
        restore_checkpoint(other, tmp_path / "state.npz")
    _assert_same(_state(other), before)


def test_another_run_is_refused(tmp_path):
    save_checkpoint(_model(), tmp_path / "state.npz", 1, fingerprint={"seed": 1, "data": "a"})
    with pytest.raises(ValueError, match="seed: 1 there, 2 here"):
        restore_checkpoint(_model(), tmp_path / "state.npz", {"seed": 2, "data": "a"})
    with pytest.raises(ValueError, match="more: None there, 3 here"):
        restore_checkpoint(_model(), tmp_path / "state.npz", {"seed": 1, "data": "a", "more": 3})


def test_bad_files_are_refused(tmp_path):
    model = _model()
    with pytest.raises(FileNotFoundError):
        restore_checkpoint(model, tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("nothing")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    save_checkpoint(model, tmp_path / "whole.npz", 1)
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "truncated.npz").write_bytes(content[: len(content) // 2])
    for name in ("text", "arrays", "truncated"):
        with pytest.raises(ValueError, match="not a training checkpoint"):
            restore_checkpoint(model, tmp_path / f"{name}.npz")
    with pytest.raises(ValueError, match=r"`\.npz` file"):
        save_checkpoint(model, tmp_path / "state.keras", 1)


def test_a_failing_save_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    model = _model()
    save_checkpoint(model, path, 1)
    content = path.read_bytes()

    def fail(file, **arrays):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(model, path, 2)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_an_unready_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no optimizer"):
        save_checkpoint(_model(compiled=False), tmp_path / "state.npz", 1)
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    unbuilt.compile("sgd", "mse")
    with pytest.raises(ValueError, match="not built"):
        save_checkpoint(unbuilt, tmp_path / "state.npz", 1)


def test_an_adapted_normalization_comes_back(tmp_path):
    """A fresh model has not adapted, and computes with what its variables are given."""

    def model():
        layers = [keras.layers.Input((4,)), keras.layers.Normalization(), keras.layers.Dense(3)]
        made = keras.Sequential(layers)
        made.compile("sgd", "mse")
        return made

    values = np.random.default_rng(0).normal(5.0, 3.0, (40, 4)).astype("float32")
    adapted, fresh = model(), model()
    adapted.layers[0].adapt(values)
    save_checkpoint(adapted, tmp_path / "c.npz", epoch=1)
    restore_checkpoint(fresh, tmp_path / "c.npz")
    np.testing.assert_allclose(fresh.predict(values), adapted.predict(values), rtol=1e-5)
