"""Tests of training on fixed statistics, and of drop rates that change from step to step."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_rram import FreshChips, faulty_layers
from keras_rram.data.sources import from_arrays
from keras_rram.layers import DropConnectConv2D, DropConnectDense, statistics_layers
from keras_rram.training import DropRates, FixedStatistics, Recipe, train
from tests.helpers import to_numpy

RECIPE = Recipe(
    "sgd",
    0.05,
    batch_size=16,
    epochs=4,
    momentum=0.9,
    schedule="cosine",
    gradient_clip=1.0,
    statistics_epochs=2,
)

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (48, 8, 8, 1), dtype=np.uint8)
DATASET = from_arrays(PIXELS, np.arange(48) % 4, PIXELS[:12], np.arange(12) % 4)


def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            DropConnectConv2D(8, 3, padding="same", name="conv", drop_connect=0.2),
            keras.layers.BatchNormalization(name="normalization"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Flatten(name="flatten"),
            DropConnectDense(4, name="head", drop_connect=0.2),
        ]
    )


class Statistics(keras.callbacks.Callback):
    """Keeps the statistics at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        layer = self.model.get_layer("normalization")
        self.seen.append(np.stack([to_numpy(w) for w in layer.non_trainable_weights]))


def trained(recipe=RECIPE, callbacks=(), **options):
    network, watch = model(), Statistics()
    train(network, DATASET, recipe, callbacks=[*callbacks, watch], verbose=0, **options)
    return network, watch.seen


def test_the_last_epochs_are_on_statistics_that_stand_still():
    network, seen = trained()
    assert (seen[0] != seen[1]).all()
    assert (seen[1] != seen[2]).all()  # gathered at the switch
    np.testing.assert_array_equal(seen[2], seen[3])
    # Afterwards they move again.
    layer = network.get_layer("normalization")
    layer(np.ones((2, 8, 8, 8), "float32"), training=True)
    assert (to_numpy(layer.moving_mean) != seen[3][0]).all()


def test_weights_go_on_learning_and_a_switch_changes_them():
    ends = [
        to_numpy(trained(dataclasses.replace(RECIPE, statistics_epochs=n))[0].layers[0].kernel)
        for n in (0, 1, 2)
    ]
    assert not np.array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[1], ends[2])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exact on TensorFlow")
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumes_exactly_before_at_and_after_the_switch(stop, tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == stop:
                raise KeyboardInterrupt

    recipe = dataclasses.replace(RECIPE, drop_rates="uniform", drop_ramp_epochs=1)
    straight, _ = trained(recipe)
    path = tmp_path / "checkpoint.npz"
    trained(recipe, [Interrupt()], checkpoint=path)
    resumed, _ = trained(recipe, checkpoint=path, resume=True)
    for theirs, ours in zip(straight.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs), err_msg=ours.path)


def test_gathers_over_the_chips_of_training():
    fresh = FreshChips("column_faults:rate=0.3", seed=1)
    assert [chip.index for chip in fresh.chips(3)] == [0, 1, 2]
    network, seen = trained(callbacks=[fresh])
    np.testing.assert_array_equal(seen[2], seen[3])
    assert all(
        (to_numpy(layer.fault_masks["kernel"]) == 1).all()
        for layer in faulty_layers(network).values()
    )


def test_drop_rates_rise_and_are_drawn_by_seed_and_step():
    ramp = DropRates(ramp_epochs=2)
    shares = [ramp.share(epoch, batch, 4) for epoch in range(3) for batch in range(4)]
    np.testing.assert_allclose(shares, [*np.arange(1, 9) / 8, 1, 1, 1, 1])
    assert [ramp.share(epoch, 0, None) for epoch in range(3)] == [0.5, 1, 1]
    uniform = DropRates(uniform=True, seed=3)
    draws = np.array([uniform.share(epoch, batch, 100) for epoch in (0, 1) for batch in range(100)])
    assert len(set(draws)) == 200 and 0 <= draws.min() < 0.05 and 0.95 < draws.max() < 1
    assert uniform.share(1, 7, 100) == DropRates(uniform=True, seed=3).share(1, 7, 50)
    assert uniform.share(1, 7, 100) != DropRates(uniform=True, seed=4).share(1, 7, 100)


def test_layers_have_their_rate_in_a_step_as_a_share_and_whole_afterwards():
    network = model()
    rates = DropRates(uniform=True, seed=1)
    rates.set_model(network)
    rates.set_params({"steps": 5})
    rates.on_epoch_begin(2)
    rates.on_train_batch_begin(3)
    held = [float(to_numpy(layer.drop_rate)) for layer in faulty_layers(network).values()]
    np.testing.assert_allclose(held, 0.2 * rates.share(2, 3, 5), rtol=1e-6)
    rates.on_epoch_end(2)
    held = [float(to_numpy(layer.drop_rate)) for layer in faulty_layers(network).values()]
    np.testing.assert_allclose(held, 0.2, rtol=1e-6)


def test_what_cannot_take_effect_is_refused():
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="nothing would change"):
        DropRates()
    with pytest.raises(ValueError, match="`ramp_epochs` must be an integer >= 0"):
        DropRates(ramp_epochs=-1)
    with pytest.raises(ValueError, match="no Drop-Connect layer"):
        DropRates(uniform=True).set_model(plain)
    with pytest.raises(ValueError, match="has no statistics"):
        FixedStatistics(np.zeros((1, 2)), 1).set_model(plain)
    with pytest.raises(ValueError, match="`first_epoch` must be an integer >= 0"):
        FixedStatistics(np.zeros((1, 2)), -1)
    for name, value in (
        ("gradient_clip", -1.0),
        ("drop_rates", "random"),
        ("drop_ramp_epochs", 4),
        ("statistics_epochs", -1),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            dataclasses.replace(RECIPE, **{name: value})


def test_the_clip_shortens_the_gradient():
    optimizer = RECIPE.build_optimizer(10)
    assert optimizer.global_clipnorm == 1.0
    assert dataclasses.replace(RECIPE, gradient_clip=0.0).build_optimizer(1).global_clipnorm is None


def test_recipes_of_before_keep_their_fingerprint():
    before = Recipe("adam", 0.01, batch_size=8, epochs=3)
    assert "statistics_epochs" not in before.fingerprint()
    assert dataclasses.replace(RECIPE).fingerprint()["statistics_epochs"] == 2
    assert statistics_layers(model()).keys() == {"normalization"}
