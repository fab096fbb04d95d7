"""Several steps in one call are the same steps."""

import importlib.util
import math
import subprocess
import sys
import textwrap

import keras
import pytest

from keras_rram.training import DropRates, FixedStatistics
from keras_rram.training.many_steps import steps_at_once
from tests.run_tools import ROOT, on_backend

needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)


@pytest.fixture
def on_gpu(monkeypatch):
    import jax

    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def _model(**options):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse", jit_compile=True)
    for name, value in options.items():
        setattr(model, name, value)
    return model


@needs_jax
def test_it_is_one_on_tensorflow(monkeypatch):
    import jax

    monkeypatch.setattr(keras.config, "backend", lambda: "tensorflow")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert steps_at_once(_model(), [], 390, 1) == 1


@needs_jax
@pytest.mark.parametrize(
    ("steps", "expected"), [(390, 39), (234, 39), (60, 30), (17 * 23, 23), (397, 1), (3, 3)]
)
def test_it_divides_the_steps_of_an_epoch(on_gpu, steps, expected):
    assert steps_at_once(_model(), [FixedStatistics([], 1)], steps, 1) == expected


@needs_jax
@pytest.mark.parametrize(
    "callback",
    [
        DropRates(uniform=True),
        keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
    ],
)
def test_it_is_one_where_a_callback_acts_between_steps(on_gpu, callback):
    assert steps_at_once(_model(), [callback], 390, 1) == 1


@needs_jax
@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"jit_compile": False}])
def test_it_is_one_where_steps_are_not_compiled(on_gpu, options):
    assert steps_at_once(_model(**options), [], 390, 1) == 1


@needs_jax
@pytest.mark.parametrize(
    ("shape", "expected"), [((128, 32, 32, 3), 39), ((32, 96, 96, 3), 30), ((128, 224, 224, 3), 1)]
)
def test_large_batches_are_not_gathered(on_gpu, shape, expected):
    assert steps_at_once(_model(), [], 390, 4 * math.prod(shape)) == expected


_COMPARE = """
    import tempfile
    import numpy as np
    import keras
    from keras_rram import DropConnect, models
    from keras_rram.data import from_arrays
    from keras_rram.training import Recipe, loop, train

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (256, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(256) % 10
    dataset = from_arrays(images, labels, images[:100], labels[:100], normalize="cifar10")
    recipe = Recipe(
        "sgd", 1e-3, 32, 3, momentum=0.9, weight_decay=5e-4, statistics_epochs=1, gradient_clip=1.0
    )

    def run(count):
        loop.steps_at_once = lambda *arguments: count
        keras.utils.set_random_seed(0)
        model = models.resnet20(
            width=2, input_shape=(8, 8, 3), drop_connect=DropConnect(0.2, seed=0), scope="all",
            centered_inputs=True,
        )
        path = tempfile.mkdtemp() + "/checkpoint.npz"
        history = train(
            model, dataset, recipe, validation_data=dataset.arrays("test"), checkpoint=path,
            verbose=0,
        ).history
        # What fits one step at a time fits again, after it.
        assert model.steps_per_execution == 1 and model.train_function is None
        assert "make_train_function" not in vars(model)
        curves = [(e["loss"], e["accuracy"], e["val_loss"], e["val_accuracy"]) for e in history]
        return curves, [keras.ops.convert_to_numpy(v) for v in model.variables]

    curves, variables = run(1)
    for count in (4, 8):
        other_curves, other_variables = run(count)
        np.testing.assert_allclose(other_curves, curves, rtol=1e-5)
        for ours, expected in zip(other_variables, variables, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
@needs_jax
def test_steps_in_one_call_are_those_one_by_one():
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_COMPARE)],
        cwd=ROOT,
        env=on_backend("jax"),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert process.returncode == 0, process.stderr[-3000:]
