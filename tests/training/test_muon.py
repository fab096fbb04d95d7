"""Tests of `keras_rram.training.muon`."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_rram import DropConnect, data, models
from keras_rram.training.loop import train
from keras_rram.training.muon import KernelMuon, vectors_of
from keras_rram.training.recipes import RECIPES, Recipe


def _step(variable, gradient, **options):
    """What one step without decay adds to a variable."""
    optimizer = KernelMuon(0.5, weight_decay=None, adam_weight_decay=None, **options)
    optimizer.build([variable])
    before = keras.ops.convert_to_numpy(variable)
    optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    return keras.ops.convert_to_numpy(variable) - before


@pytest.mark.parametrize("shape", [(12, 5), (3, 3, 4, 6), (3, 2, 8), (1, 1, 4, 16)])
def test_a_step_is_orthogonal_over_the_inputs_and_outputs_of_a_kernel(shape):
    generator = np.random.default_rng(0)
    gradient = generator.normal(size=shape).astype("float32")
    received = _step(keras.Variable(np.zeros(shape, "float32")), gradient)
    matrix = received.reshape(-1, shape[-1])
    # By the singular value decomposition: its vectors stay, its values become alike. Five rounds
    # of the iteration bring them to 0.7 to 1.2.
    left, _, right = np.linalg.svd(gradient.reshape(matrix.shape), full_matrices=False)
    values = np.diag(left.T @ -matrix @ right.T)
    size = 0.5 * 0.2 * max(matrix.shape) ** 0.5
    assert values.min() > 0.6 * size
    assert values.max() < 1.3 * size
    np.testing.assert_allclose(-matrix, left @ np.diag(values) @ right, atol=1e-3 * size)
    assert np.sqrt((received**2).mean()) == pytest.approx(0.5 * 0.2, rel=0.3)


@pytest.mark.parametrize("shape", [(7,), (3, 3, 8, 1), (9, 1)])
def test_vectors_get_the_step_of_adam(shape):
    gradient = np.random.default_rng(1).normal(size=shape).astype("float32")
    # The first step of Adam is the sign of the gradient.
    received = _step(keras.Variable(np.zeros(shape, "float32")), gradient)
    np.testing.assert_allclose(received, -0.5 * np.sign(gradient), rtol=1e-3)


def test_vectors_of_a_model_are_what_is_no_matrix():
    layers = keras.layers
    inner = keras.Sequential([layers.Input((8, 8, 4)), layers.Conv2D(4, 3, name="inner")])
    model = keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same", name="plain+conv"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="by_channel"),
            layers.Conv2D(4, 3, padding="same", groups=2, name="grouped"),
            inner,
            layers.BatchNormalization(),
            layers.Reshape((36, 4)),
            layers.LSTM(5, name="recurrent"),
            layers.Dense(6, name="hidden"),
            layers.Dense(3, name="classifier"),
        ]
    )
    optimizer = KernelMuon(exclude_layers=vectors_of(model))
    optimizer.build(model.trainable_variables)
    by_muon = {
        variable.path.split("/")[-2]
        for variable in model.trainable_variables
        if not optimizer._should_use_adamw(variable)
    }
    assert by_muon == {"plain+conv", "inner", "hidden"}


def test_an_unbuilt_model_is_refused():
    with pytest.raises(ValueError, match="built model.*'unbuilt'"):
        vectors_of(keras.Sequential([keras.layers.Dense(3)], name="unbuilt"))


@pytest.mark.parametrize("exclude", [True, False])
def test_embeddings_are_vectors_unless_it_is_said_otherwise(exclude):
    gradient = np.random.default_rng(2).normal(size=(6, 4)).astype("float32")
    variable = keras.Variable(np.zeros((6, 4), "float32"), name="embeddings")
    received = _step(variable, gradient, exclude_embeddings=exclude)
    signs = -0.5 * np.sign(gradient)  # Adam's first step
    assert np.allclose(received, signs, rtol=1e-3) == exclude


def test_a_recipe_trains_drop_connect_layers_by_it_and_resumes(tmp_path):
    digits = data.load("digits").subset(train=256)
    recipe = dataclasses.replace(RECIPES["cifar10_muon"], epochs=2, batch_size=64)

    def trained(epochs, resume=False, **where):
        keras.utils.set_random_seed(0)
        model = models.mini_mobilenet(
            bottlenecks=1, drop_connect=DropConnect(0.2), input_shape=digits.input_shape
        )
        callbacks = [] if epochs == 2 else [_StopAfter(epochs)]
        train(model, digits, recipe, seed=0, callbacks=callbacks, resume=resume, verbose=0, **where)
        return model

    whole = trained(2)
    assert isinstance(whole.optimizer, KernelMuon)
    assert whole.optimizer.exclude_layers
    trained(1, checkpoint=tmp_path / "checkpoint.npz")
    resumed = trained(2, resume=True, checkpoint=tmp_path / "checkpoint.npz")
    for expected, received in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(expected), keras.ops.convert_to_numpy(received)
        )
    whole.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.exclude_layers == whole.optimizer.exclude_layers


class _StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            self.model.stop_training = True


def test_the_decay_of_a_recipe_is_decoupled_and_the_same_for_all_weights():
    recipe = Recipe("muon", 0.1, 8, 10, momentum=0.95, weight_decay=0.05)
    matrix = keras.Variable(np.ones((4, 3), "float32"))
    vector = keras.Variable(np.ones(3, "float32"))
    optimizer = recipe.build_optimizer(1)
    optimizer.build([matrix, vector])
    zeros = [keras.ops.zeros((4, 3)), keras.ops.zeros(3)]
    optimizer.apply(zeros, [matrix, vector])
    for variable in (matrix, vector):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), 1 - 0.1 * 0.05, rtol=1e-6)


def test_an_old_keras_is_named(monkeypatch):
    class Old(keras.optimizers.Optimizer):
        def __init__(self, learning_rate=0.001):
            super().__init__(learning_rate)

    monkeypatch.setattr(keras.optimizers, "Muon", Old)
    with pytest.raises(ImportError, match=r"keras>=3\.13"):
        KernelMuon()
