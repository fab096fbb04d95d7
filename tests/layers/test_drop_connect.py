import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rram.layers.drop_connect import DropConnect, drop_connect
from tests.helpers import to_numpy


@settings(max_examples=20, deadline=None)
@given(rate=st.floats(0.0, 0.95), seed=st.integers(0, 1000))
def test_keeps_or_zeroes_each_weight(rate, seed):
    kernel = np.random.default_rng(seed).normal(size=(40, 50)).astype("float32")
    dropped = to_numpy(drop_connect(kernel, rate, seed))
    assert np.all((dropped == kernel) | (dropped == 0))
    # Binomial: 5 standard deviations of the share of 2,000 weights.
    share = np.mean(dropped == 0)
    assert abs(share - rate) <= 5 * np.sqrt(rate * (1 - rate) / kernel.size) + 1e-12


def test_rate_zero_is_the_identity():
    kernel = np.random.default_rng(0).normal(size=(8, 9)).astype("float32")
    for rescale in (False, True):
        np.testing.assert_array_equal(to_numpy(drop_connect(kernel, 0.0, 1, rescale)), kernel)


def test_rescale_keeps_the_expectation():
    kernel = np.ones((300, 300), "float32")
    dropped = to_numpy(drop_connect(kernel, 0.25, seed=3, rescale=True))
    np.testing.assert_allclose(dropped[dropped != 0], 1 / 0.75, rtol=1e-6)
    assert abs(dropped.mean() - 1) < 0.01


def test_half_precision_keeps_its_dtype_and_drops_at_the_rate():
    kernel = keras.ops.ones((200, 200), dtype="float16")
    dropped = drop_connect(kernel, 0.01, seed=1)
    assert keras.backend.standardize_dtype(dropped.dtype) == "float16"
    assert abs(np.mean(to_numpy(dropped) == 0) - 0.01) < 0.003


def test_a_seed_generator_gives_fresh_masks_and_a_seed_the_same():
    kernel = np.ones((50, 50), "float32")
    generator = keras.random.SeedGenerator(1)
    first, second = (to_numpy(drop_connect(kernel, 0.5, generator)) for _ in range(2))
    assert (first != second).any()
    constraint = DropConnect(0.5, seed=4)
    np.testing.assert_array_equal(to_numpy(constraint(kernel)), to_numpy(constraint(kernel)))


def test_config_round_trip():
    constraint = DropConnect(0.3, rescale=True, seed=5)
    revived = keras.constraints.deserialize(keras.constraints.serialize(constraint))
    assert isinstance(revived, DropConnect)
    assert revived.get_config() == {"rate": 0.3, "rescale": True, "seed": 5}


@pytest.mark.parametrize("rate", [-0.1, 1.0, 20, float("nan")])
def test_refuses_rates_out_of_range(rate):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        DropConnect(rate)


@pytest.mark.parametrize("arguments", [{"rate": "0.2"}, {"rate": True}, {"rate": None}])
def test_refuses_what_is_no_rate(arguments):
    with pytest.raises(TypeError, match="must be a number"):
        DropConnect(**arguments)


def test_refuses_to_constrain_the_variable_of_a_plain_layer():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, kernel_constraint=DropConnect(0.2))]
    )
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="cannot constrain a variable"):
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
