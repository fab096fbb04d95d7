"""Tests of `keras_rram.training.recipes`."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from keras_rram.training.recipes import RECIPES, Recipe

SGD = Recipe("sgd", 0.1, batch_size=8, epochs=10, momentum=0.9)
ADAM = Recipe("adam", 1e-3, batch_size=8, epochs=10)


def _learning_rates(recipe, steps_per_epoch):
    """The learning rate of every step of the training, as the optimizer sees it."""
    schedule = recipe.learning_rate_schedule(steps_per_epoch)
    steps = range(recipe.epochs * steps_per_epoch)
    if isinstance(schedule, float):
        return np.full(len(steps), schedule)
    return np.array([float(schedule(step)) for step in steps])


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (SGD, {"optimizer": "rmsprop"}, "optimizer.*'rmsprop'"),
        (SGD, {"schedule": "linear"}, "schedule.*'linear'"),
        (SGD, {"learning_rate": 0}, "learning_rate"),
        (SGD, {"learning_rate": float("nan")}, "learning_rate"),
        (SGD, {"batch_size": 0}, "batch_size"),
        (SGD, {"batch_size": 8.0}, "batch_size"),
        (SGD, {"epochs": 0}, "epochs"),
        (SGD, {"momentum": 1.0}, "momentum"),
        (SGD, {"momentum": 0.0, "nesterov": True}, "nesterov"),
        (SGD, {"weight_decay": -1e-4}, "weight_decay"),
        (SGD, {"milestones": (5,)}, "milestones.*'step'"),
        (SGD, {"schedule": "step"}, "milestones.*'step'"),
        (SGD, {"schedule": "step", "milestones": (5, 5)}, "increasing"),
        (SGD, {"schedule": "step", "milestones": (5, 10)}, "increasing"),
        (SGD, {"schedule": "step", "milestones": (2.5,)}, "increasing"),
        (SGD, {"schedule": "step", "milestones": (5,), "decay_factor": 1.0}, "decay_factor"),
        (SGD, {"schedule": "one_cycle"}, "warmup_fraction.*'one_cycle'"),
        (SGD, {"warmup_fraction": 0.1}, "warmup_fraction.*'one_cycle'"),
        (SGD, {"schedule": "one_cycle", "warmup_fraction": 1.0}, "warmup_fraction"),
        (ADAM, {"momentum": 0.9}, "momentum.*'adam'"),
        (ADAM, {"nesterov": True}, "nesterov"),
    ],
)
def test_bad_values_raise(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(recipe, **changes)


def test_constant_learning_rate():
    np.testing.assert_array_equal(_learning_rates(ADAM, 4), np.full(40, 1e-3))


def test_step_changes_with_the_first_step_after_a_milestone():
    recipe = dataclasses.replace(SGD, schedule="step", milestones=(3, 7))
    epochs = np.repeat(np.arange(10), 4)
    expected = 0.1 * 0.1 ** ((epochs >= 3).astype(int) + (epochs >= 7))
    np.testing.assert_allclose(_learning_rates(recipe, 4), expected, rtol=1e-6)


def test_cosine_falls_from_the_peak_to_zero():
    recipe = dataclasses.replace(SGD, schedule="cosine")
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(40) / 40))
    np.testing.assert_allclose(_learning_rates(recipe, 4), expected, rtol=1e-5, atol=1e-8)


def test_one_cycle_rises_linearly_and_falls_by_a_cosine():
    recipe = dataclasses.replace(SGD, schedule="one_cycle", warmup_fraction=0.25)
    rise = 0.1 * (1 / 25 + (1 - 1 / 25) * np.arange(10) / 10)
    fall = 0.1 * (1e-4 + (1 - 1e-4) * 0.5 * (1 + np.cos(np.pi * np.arange(30) / 30)))
    expected = np.concatenate([rise, fall])
    np.testing.assert_allclose(_learning_rates(recipe, 4), expected, rtol=1e-5, atol=1e-8)


def _train_quadratic(optimizer, steps, target):
    """Minimizes 0.5 * ||w - target||^2 with a Keras optimizer."""
    weight = keras.Variable([0.0] * len(target))
    optimizer.build([weight])
    for _ in range(steps):
        gradient = keras.ops.convert_to_tensor(weight) - target
        optimizer.apply([gradient], [weight])
    return keras.ops.convert_to_numpy(weight)


def _pytorch_sgd(recipe, steps, target):
    """`torch.optim.SGD`, written out: the decay is part of the gradient."""
    weight, velocity = np.zeros_like(target), np.zeros_like(target)
    for _ in range(steps):
        gradient = weight - target + recipe.weight_decay * weight
        velocity = recipe.momentum * velocity + gradient
        step = gradient + recipe.momentum * velocity if recipe.nesterov else velocity
        weight = weight - recipe.learning_rate * step
    return weight


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_weight_decay_of_sgd_is_pytorchs(momentum, nesterov):
    target = np.array([1.0, -2.0, 3.0], np.float32)
    rate = 0.1 * (1 - momentum)
    recipe = Recipe("sgd", rate, 8, 10, momentum=momentum, nesterov=nesterov, weight_decay=0.1)
    received = _train_quadratic(recipe.build_optimizer(1), 120, target)
    # The fixed point of the L2 term: w - target + decay * w = 0. Keras's decay outside the
    # momentum moves it by a relative learning_rate * decay / (1 - momentum) at most, here 0.01.
    np.testing.assert_allclose(received, target / 1.1, rtol=0.011)
    np.testing.assert_allclose(received, _pytorch_sgd(recipe, 120, target), rtol=0.011)
    # What a plain `weight_decay=0.1` of Keras would have given is far from it.
    plain = keras.optimizers.SGD(rate, momentum=momentum, nesterov=nesterov, weight_decay=0.1)
    wrong = _train_quadratic(plain, 120, target)
    assert np.abs(wrong / target - 1 / 1.1).min() > 0.03


def test_without_weight_decay_sgd_is_pytorchs_step_by_step():
    target = np.array([1.0, -2.0], np.float32)
    received = _train_quadratic(SGD.build_optimizer(1), 25, target)
    np.testing.assert_allclose(received, _pytorch_sgd(SGD, 25, target), rtol=1e-4)


def test_weight_decay_of_adam_is_decoupled():
    optimizer = dataclasses.replace(ADAM, weight_decay=0.05).build_optimizer(1)
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert optimizer.weight_decay == 0.05
    assert ADAM.build_optimizer(1).weight_decay is None


def test_the_recipes_of_the_study():
    mnist, cifar10 = RECIPES["mnist"], RECIPES["cifar10"]
    assert (mnist.optimizer, mnist.learning_rate, mnist.batch_size) == ("adam", 1e-3, 256)
    rates = _learning_rates(cifar10, 1)
    np.testing.assert_allclose(
        rates[[0, 99, 100, 149, 150, 199]], [0.1, 0.1] + [0.01] * 2 + [0.001] * 2
    )


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_makes_an_optimizer_and_a_fingerprint(name):
    recipe = RECIPES[name]
    assert isinstance(recipe.build_optimizer(10), keras.optimizers.Optimizer)
    json.dumps(recipe.fingerprint())


def test_epochs_matter_to_the_fingerprint_where_they_shape_the_schedule():
    for schedule, matters in (("constant", False), ("cosine", True)):
        short = dataclasses.replace(SGD, schedule=schedule)
        long = dataclasses.replace(short, epochs=20)
        assert (short.fingerprint() != long.fingerprint()) == matters
    assert SGD.fingerprint() != dataclasses.replace(SGD, learning_rate=0.2).fingerprint()


def test_compile_sets_loss_metric_and_no_xla_on_a_cpu():
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    ADAM.compile(model, 4)
    inputs, labels = np.ones((4, 3), "float32"), np.array([0, 1, 0, 1])
    results = model.evaluate(inputs, labels, verbose=0, return_dict=True)
    logits = model.predict(inputs, verbose=0)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert results["loss"] == pytest.approx(-log_probabilities[range(4), labels].mean(), rel=1e-5)
    assert results["accuracy"] == 0.5
    if keras.config.backend() == "tensorflow" and not keras.distribution.list_devices("gpu"):
        assert model.jit_compile is False
