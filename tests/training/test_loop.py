"""Tests of `keras_rram.training.loop`."""

import csv
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

from keras_rram import DropConnect
from keras_rram.data.augmentation import CropFlip
from keras_rram.data.sources import from_arrays
from keras_rram.faults import StuckAtZero
from keras_rram.layers import (
    DropConnectConv2D,
    DropConnectDense,
    DropConnectDepthwiseConv2D,
    faulty_layers,
)
from keras_rram.training.fresh_chips import FreshChips
from keras_rram.training.loop import train
from keras_rram.training.on_chips import ChipValidation
from keras_rram.training.recipes import Recipe
from keras_rram.training.schedule import DropRateSchedule
from tests.helpers import to_numpy
from tests.run_tools import QUICK_COMPILING, ROOT, on_backend

RECIPE = Recipe(
    "sgd", 0.05, batch_size=16, epochs=4, momentum=0.9, schedule="cosine", weight_decay=1e-3
)


def _dataset(count=56):
    """Squares in one of four corners, in noise; the last 8 images are left over in an epoch."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 4
    images = rng.integers(0, 128, (count, 8, 8, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 100
    return from_arrays(
        images, labels, images[:12], labels[:12], augmentation=CropFlip(1, flip=False)
    )


DATASET = _dataset()


def _model(rate=0.2, classes=4, masks=1):
    """All that could break exactness: Drop-Connect, depthwise gradients, statistics, dropout."""
    drop_connect = DropConnect(rate, masks=masks)
    return keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            DropConnectConv2D(8, 3, padding="same", name="conv", drop_connect=drop_connect),
            keras.layers.BatchNormalization(name="normalization"),
            keras.layers.ReLU(name="relu"),
            DropConnectDepthwiseConv2D(3, name="depthwise", drop_connect=drop_connect),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dropout(0.2, name="dropout"),
            DropConnectDense(classes, name="head", drop_connect=drop_connect),
        ]
    )


def _state(model):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]


def _assert_same(one, other):
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)


class _Interrupt(keras.callbacks.Callback):
    """Ctrl-C in the midst of an epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.place = (epoch, batch)
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            os.kill(os.getpid(), signal.SIGINT)


def _without_seconds(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def test_training_sees_the_batches_of_the_dataset():
    keras.utils.set_random_seed(0)
    model, twin = _model(), _model()
    recipe = dataclasses.replace(RECIPE, epochs=2)
    recipe.compile(twin, 3)
    for one, other in zip(twin.variables, model.variables, strict=True):
        one.assign(other)
    result = train(model, DATASET, recipe, seed=5, verbose=0)
    batches = DATASET.batches(16, seed=5)
    for _ in range(6):
        twin.train_on_batch(*next(batches))
    _assert_same(_state(model), _state(twin))
    assert result.epochs == 2
    assert not result.interrupted
    assert result.seconds > 0


def test_it_learns():
    recipe = Recipe("adam", 0.01, batch_size=16, epochs=15)
    keras.utils.set_random_seed(0)
    result = train(_model(), DATASET, recipe, validation_data=DATASET.arrays("test"), verbose=0)
    assert result.curve("accuracy")[-1] > 0.9
    assert len(result.curve("val_accuracy")) == 15
    np.testing.assert_allclose(result.curve("learning_rate"), 0.01, rtol=1e-6)
    with pytest.raises(KeyError, match="no_such"):
        result.curve("no_such")


def test_an_interrupted_and_resumed_run_equals_a_straight_one_bit_for_bit(tmp_path):
    def callbacks():
        images, labels = DATASET.arrays("test")
        return [
            DropRateSchedule({0: 0.1, 3: 0.3}),
            ChipValidation(images, labels, StuckAtZero(0.2), chips=2),
        ]

    # A suite that was started in the background has Ctrl-C switched off.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    path = tmp_path / "checkpoint.npz"
    keras.utils.set_random_seed(0)
    straight = _model()
    expected = train(straight, DATASET, RECIPE, seed=1, callbacks=callbacks(), verbose=0)

    keras.utils.set_random_seed(0)
    with open(tmp_path / "history.csv", "w"):
        logger = keras.callbacks.CSVLogger(tmp_path / "history.csv")
    first = train(
        _model(),
        DATASET,
        RECIPE,
        seed=1,
        callbacks=[*callbacks(), logger, _Interrupt(2, 1)],
        checkpoint=path,
        verbose=0,
    )
    assert first.interrupted
    assert first.epochs == len(first.history) == 2
    assert logger.csv_file.closed
    with open(tmp_path / "history.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)

    keras.utils.set_random_seed(1)  # a new process would have other initial weights
    resumed = _model()
    result = train(
        resumed,
        DATASET,
        RECIPE,
        seed=1,
        callbacks=callbacks(),
        checkpoint=path,
        resume=True,
        verbose=0,
    )
    assert not result.interrupted
    assert _without_seconds(result.history) == _without_seconds(expected.history)
    _assert_same(_state(resumed), _state(straight))

    # A finished run has nothing left to do.
    again = train(
        _model(), DATASET, RECIPE, seed=1, callbacks=callbacks(), checkpoint=path, resume=True
    )
    assert again.history == result.history


def test_the_same_seeds_give_the_same_weights():
    states = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(0)
        model = _model()
        train(model, DATASET, dataclasses.replace(RECIPE, epochs=1), seed=seed, verbose=0)
        states.append(_state(model))
    _assert_same(states[0], states[1])
    assert not np.array_equal(states[0][0], states[2][0])


def test_a_constant_schedule_can_be_prolonged(tmp_path):
    recipe = Recipe("adam", 0.01, batch_size=16, epochs=1)
    path = tmp_path / "checkpoint.npz"
    train(_model(), DATASET, recipe, checkpoint=path, verbose=0)
    longer = dataclasses.replace(recipe, epochs=2)
    result = train(_model(), DATASET, longer, checkpoint=path, resume=True, verbose=0)
    assert [record["epoch"] for record in result.history] == [1, 2]
    with pytest.raises(ValueError, match="has 2 epochs.*epochs=1"):
        train(_model(), DATASET, recipe, checkpoint=path, resume=True, verbose=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2}, "seed: 0 there, 2 here"),
        ({"recipe": dataclasses.replace(RECIPE, epochs=1, learning_rate=0.1)}, "recipe"),
        ({"dataset": DATASET.subset(train=48)}, "images"),
        ({"augment": False}, "augment"),
        ({"model": 0.3}, "differently configured"),
        ({"masks": 2}, "differently configured"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path_factory, changes, message):
    # One run serves all cases.
    path = tmp_path_factory.getbasetemp() / "refused.npz"
    recipe = dataclasses.replace(RECIPE, epochs=1)
    if not path.exists():
        train(_model(), DATASET, recipe, checkpoint=path, verbose=0)
    arguments = {"dataset": DATASET, "recipe": recipe, **changes}
    model = _model(arguments.pop("model", 0.2), masks=arguments.pop("masks", 1))
    with pytest.raises(ValueError, match=message):
        train(model, checkpoint=path, resume=True, verbose=0, **arguments)


def test_what_cannot_work_is_an_error_before_the_training(tmp_path):
    with pytest.raises(ValueError, match="56 training images.*batch_size=64"):
        train(_model(), DATASET, dataclasses.replace(RECIPE, batch_size=64))
    with pytest.raises(ValueError, match=r"output shape \(None, 4\).*\(None, 5\)"):
        train(_model(classes=5), DATASET, RECIPE)
    wide = keras.Sequential([keras.layers.Input((9, 8, 1)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match=r"input shape \(None, 8, 8, 1\).*\(None, 9, 8, 1\)"):
        train(wide, DATASET, RECIPE)
    with pytest.raises(ValueError, match="not built"):
        train(keras.Sequential([keras.layers.Dense(4)]), DATASET, RECIPE)
    with pytest.raises(ValueError, match="needs the `checkpoint`"):
        train(_model(), DATASET, RECIPE, resume=True)
    with pytest.raises(FileNotFoundError):
        train(_model(), DATASET, RECIPE, checkpoint=tmp_path / "no.npz", resume=True)


# One device against two, in a process of its own: devices are fixed when a process begins.
_SETUP = """
    import dataclasses, sys
    import numpy as np
    import keras
    from keras_rram import DropConnect
    from keras_rram.training.recipes import Recipe
    from keras_rram.layers import DropConnectConv2D, DropConnectDense
    from keras_rram.training.loop import train
    from tests.training.test_loop import DATASET

    def build(normalize):
        keras.utils.set_random_seed(0)
        layers = [
            keras.layers.Input((8, 8, 1)),
            DropConnectConv2D(4, 3, name="conv", drop_connect=DropConnect(0.3, seed=1)),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            DropConnectDense(4, name="head", drop_connect=DropConnect(0.3, seed=2)),
        ]
        if normalize:
            layers.insert(2, keras.layers.BatchNormalization())
        return keras.Sequential(layers)

    def run(model):
        recipe = Recipe("sgd", 0.05, batch_size=16, epochs=2, momentum=0.9)
        history = train(
            model, DATASET, recipe, validation_data=DATASET.arrays("test"), verbose=0
        ).history
        return history, [keras.ops.convert_to_numpy(v) for v in model.variables]

    def compare(one, other):
        for first, second in zip(one[0], other[0], strict=True):
            for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
                np.testing.assert_allclose(first[name], second[name], rtol=1e-4)
        for first, second in zip(one[1], other[1], strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5)
"""

_MIRRORED = """
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
"""

_COMPARE_MIRRORED = """
    # Statistics of each replica's half batch are not those of the batch: no normalization here.
    single = run(build(normalize=False))
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = build(normalize=False)
    compare(single, run(model))
    for variable in model.variables:
        replicas = [replica.numpy() for replica in variable.value.values]
        assert len(replicas) == 2
        np.testing.assert_array_equal(*replicas)
"""

_COMPARE_DATA_PARALLEL = """
    import jax
    single = run(build(normalize=True))
    devices = keras.distribution.list_devices()
    assert len(devices) == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    model = build(normalize=True)
    compare(single, run(model))
    assert len(model.variables[0].value.sharding.device_set) == 2
"""


def _run_process(backend, *parts, **environment):
    code = "\n".join(textwrap.dedent(part) for part in parts)
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=on_backend(backend, **environment),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stderr[-3000:]


@pytest.mark.slow
def test_two_tensorflow_replicas_train_as_one_device():
    _run_process("tensorflow", _MIRRORED, _SETUP, _COMPARE_MIRRORED)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_two_jax_devices_train_as_one():
    _run_process(
        "jax",
        _SETUP,
        _COMPARE_DATA_PARALLEL,
        JAX_PLATFORMS="cpu",
        XLA_FLAGS=f"{QUICK_COMPILING} --xla_force_host_platform_device_count=2",
    )


class Fails(keras.callbacks.Callback):
    """Raises in the midst of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.last = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.last:
            raise RuntimeError("a disk that is full")


def test_an_error_leaves_nothing_of_training_in_the_model():
    model = _model()
    recipe = dataclasses.replace(RECIPE, statistics_epochs=2, drop_rates="uniform")
    with pytest.raises(RuntimeError, match="a disk that is full"):
        train(
            model, DATASET, recipe, 0, [FreshChips("stuck_at_zero:rate=0.5"), Fails(3)], verbose=0
        )
    assert "call" not in vars(model.get_layer("normalization"))  # nothing holds its statistics
    for layer in faulty_layers(model).values():
        assert float(to_numpy(layer.drop_rate)) == pytest.approx(0.2)
        assert all((to_numpy(mask) == 1).all() for mask in layer.fault_masks.values())
