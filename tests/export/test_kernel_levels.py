import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.cluster import KMeans

from keras_rram import Chip, StuckAtZero, faulty_layers
from keras_rram.export.kernel_levels import METHODS, quantize_levels, quantize_values
from keras_rram.models import mini_mobilenet

kernels = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=1, max_dims=4, max_side=6),
    elements=st.floats(-3, 3, width=32, allow_subnormal=False) | st.sampled_from([0.0, -0.0]),
)
bits_of = st.integers(2, 8)
methods = st.sampled_from(METHODS)


def mean_squared(values, levels):
    return float(np.mean((np.asarray(values, np.float64) - levels) ** 2))


@given(kernels, bits_of, methods)
@settings(max_examples=100, deadline=None)
def test_few_values_zero_among_them_and_a_second_time_changes_nothing(values, bits, method):
    result = quantize_values(values, bits, method)
    assert result.shape == values.shape
    assert result.dtype == np.float32
    assert len(np.unique(np.append(result, 0.0))) <= 2**bits
    np.testing.assert_array_equal(result[values == 0], 0.0)
    assert not np.signbit(result[result == 0]).any()
    np.testing.assert_array_equal(quantize_values(result, bits, method), result)


@given(kernels, bits_of)
@settings(max_examples=100, deadline=None)
def test_uniform_moves_no_value_by_more_than_half_a_step(values, bits):
    largest = np.abs(values).max()
    result = quantize_values(values, bits)
    step = largest / (2 ** (bits - 1) - 1)
    assert np.abs(result - values).max() <= step / 2 * (1 + 1e-5) + 1e-30
    # Symmetric: the negated kernel has the negated levels.
    np.testing.assert_array_equal(quantize_values(-values, bits), -result)


@given(kernels, bits_of)
@settings(max_examples=60, deadline=None)
def test_kmeans_is_at_least_as_near_as_uniform(values, bits):
    errors = [mean_squared(values, quantize_values(values, bits, method)) for method in METHODS]
    assert errors[1] <= errors[0] * (1 + 1e-5) + 1e-14


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_kmeans_is_about_as_near_as_that_of_scikit_learn(bits):
    values = np.random.default_rng(bits).normal(size=2000).astype(np.float32)
    ours = mean_squared(values, quantize_values(values, bits, "kmeans"))
    free = KMeans(2**bits, n_init=5, random_state=0).fit(values[:, None])
    # The level at zero costs something where there is no level near it.
    assert 0.99 * free.inertia_ / 2000 <= ours <= 1.4 * free.inertia_ / 2000
    assert ours < 0.8 * mean_squared(values, quantize_values(values, bits))


def test_known_values():
    values = np.array([-1.0, -0.6, -0.1, 0.0, 0.4, 0.9], np.float32)
    np.testing.assert_array_equal(quantize_values(values, 2), [-1, -1, 0, 0, 0, 1])
    np.testing.assert_allclose(
        quantize_values(values, 3), np.array([-3, -2, 0, 0, 1, 3]) / 3, rtol=1e-6
    )
    values = np.array([0, 0.1, 1.0, 1.2, -5, -5.5, 7], np.float32)
    np.testing.assert_allclose(
        quantize_values(values, 2, "kmeans"), [0, 0, 1.1, 1.1, -5.25, -5.25, 7], rtol=1e-6
    )


@given(st.integers(0, 100), bits_of, methods)
@settings(max_examples=20, deadline=None)
def test_levels_of_each_channel_are_its_own(seed, bits, method):
    values = np.random.default_rng(seed).normal(size=(3, 3, 4, 2)).astype(np.float32)
    for axes in ((3,), (2, 3)):
        result = quantize_values(values, bits, method, axes)
        channels = np.moveaxis(values, axes, range(len(axes))).reshape(
            *(values.shape[axis] for axis in axes), -1
        )
        held = np.moveaxis(result, axes, range(len(axes))).reshape(channels.shape)
        for index in np.ndindex(channels.shape[:-1]):
            np.testing.assert_array_equal(
                held[index], quantize_values(channels[index], bits, method)
            )


def test_many_bits_are_the_weights():
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    np.testing.assert_array_equal(quantize_values(values, 9, "kmeans"), values)
    np.testing.assert_allclose(quantize_values(values, 16), values, atol=1e-4)
    assert quantize_values(np.zeros((0, 3)), 4).shape == (0, 3)
    np.testing.assert_array_equal(quantize_values(np.zeros((2, 3)), 2), np.zeros((2, 3)))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(4)
    return mini_mobilenet(1, drop_connect=0.2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_model_of_the_same_layers_with_few_values(model, method, per_channel):
    before = model.get_weights()
    coarse = quantize_levels(model, 3, method, per_channel)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert list(faulty_layers(coarse)) == list(faulty_layers(model))
    on_chip = {
        id(kernel) for layer in faulty_layers(coarse).values() for kernel in layer.kernels.values()
    }
    assert len(on_chip) == 3
    for old, new in zip(model.weights, coarse.weights, strict=True):
        if id(new) not in on_chip:
            np.testing.assert_array_equal(old, new)
            continue
        assert not np.array_equal(old, new)
        if not per_channel:
            assert len(np.unique(new)) <= 8
    for layer in faulty_layers(coarse).values():
        np.testing.assert_allclose(layer.drop_rate, 0.2, rtol=1e-6)


def test_the_programmed_chip_and_the_outputs_stay(model):
    images = np.random.default_rng(0).normal(size=(4, 28, 28, 1)).astype(np.float32)
    with Chip(StuckAtZero(0.3), seed=1).program(model):
        fine = quantize_levels(model, 16)
        expected = model.predict_on_batch(images)
    np.testing.assert_allclose(fine.predict_on_batch(images), expected, atol=1e-3)
    assert np.abs(expected - model.predict_on_batch(images)).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1,), ValueError, "2 to 16"),
        ((17,), ValueError, "2 to 16"),
        ((2.0,), TypeError, "integer"),
        ((True,), TypeError, "integer"),
        ((4, "octave"), ValueError, "uniform"),
    ],
)
def test_bad_options_are_refused(model, arguments, error, message):
    with pytest.raises(error, match=message):
        quantize_levels(model, *arguments)
    with pytest.raises(error, match=message):
        quantize_values(np.ones(3), *arguments)


def test_models_and_values_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="to_drop_connect"):
        quantize_levels(mini_mobilenet(1), 4)
    with pytest.raises(ValueError, match="finite"):
        quantize_values(np.array([1.0, np.nan]), 4)
