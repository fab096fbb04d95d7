import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rram.faults import Fault, FaultModel, StuckAtZero, parse, spec

RATES = st.floats(0.0, 0.99)
SHAPES = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple)


def rng(seed=0):
    return np.random.default_rng(seed)


@settings(max_examples=50, deadline=None)
@given(rate=RATES, shape=SHAPES, exact=st.booleans(), seed=st.integers(0, 99))
def test_masks_are_binary_and_replayable(rate, shape, exact, seed):
    model = StuckAtZero(rate, exact=exact)
    fault = model.sample(shape, rng(seed))
    assert fault.mask.shape == shape
    assert fault.mask.dtype == np.float32
    assert np.isin(fault.mask, (0, 1)).all()
    np.testing.assert_array_equal(fault.mask, model.sample(shape, rng(seed)).mask)


@settings(max_examples=50, deadline=None)
@given(rate=RATES, shape=SHAPES, seed=st.integers(0, 99))
def test_exact_has_the_exact_count(rate, shape, seed):
    mask = StuckAtZero(rate, exact=True).sample(shape, rng(seed)).mask
    assert (mask == 0).sum() == round(rate * mask.size)


@settings(max_examples=50, deadline=None)
@given(rates=st.tuples(RATES, RATES), exact=st.booleans(), seed=st.integers(0, 99))
def test_faults_at_a_higher_rate_contain_those_at_a_lower_one(rates, exact, seed):
    low, high = (
        StuckAtZero(rate, exact=exact).sample((9, 11), rng(seed)).mask for rate in sorted(rates)
    )
    assert (high <= low).all()


def test_independent_faults_are_binomial():
    counts = [(StuckAtZero(0.2).sample((100,), rng(seed)).mask == 0).sum() for seed in range(2000)]
    # Mean 20 and variance 16, each within 5 standard errors.
    assert abs(np.mean(counts) - 20) < 5 * 4 / np.sqrt(2000)
    assert abs(np.var(counts) - 16) < 5 * 16 * np.sqrt(2 / 2000)


def test_exact_faults_are_uniform_over_positions():
    hits = sum(StuckAtZero(0.3, exact=True).sample((10,), rng(s)).mask == 0 for s in range(3000))
    assert np.abs(hits / 3000 - 0.3).max() < 5 * np.sqrt(0.21 / 3000)


def test_rate_zero_is_healthy():
    for exact in (False, True):
        assert StuckAtZero(0.0, exact).sample((50, 50), rng()).rate == 0


@pytest.mark.parametrize("rate", [-0.01, 1.0, 30, float("nan")])
def test_refuses_rates_out_of_range(rate):
    with pytest.raises(ValueError, match=r"`rate` must be in \[0, 1\)"):
        StuckAtZero(rate)


def test_refuses_what_is_no_number():
    with pytest.raises(TypeError, match="must be a number"):
        StuckAtZero("0.2")


def test_fault_applies_mask_and_offset():
    fault = Fault(np.array([1, 0, 0], "float32"), np.array([0, 0, 0.5], "float32"))
    np.testing.assert_array_equal(fault.apply(np.array([2.0, 3.0, 4.0])), [2.0, 0.0, 0.5])
    assert fault.rate == pytest.approx(2 / 3)
    scaled = Fault(fault.mask, fault.offset, scale=3.0)
    np.testing.assert_array_equal(scaled.apply(np.array([2.0, 3.0, 4.0])), [6.0, 0.0, 0.5])
    np.testing.assert_array_equal(scaled.factors, [3, 0, 0])
    assert scaled == Fault(fault.mask, fault.offset, scale=3.0) != fault
    assert scaled.rate == fault.rate
    with pytest.raises(ValueError, match="shape of `mask`"):
        Fault(np.ones(3), np.ones(2))


def test_serialization_round_trip():
    model = StuckAtZero(0.25, exact=True)
    assert isinstance(model, FaultModel)
    assert parse(spec(model)) == model


@pytest.mark.parametrize("text", ["", "os.system", "deserialize:model=x", "stuck_at_zero:speed=1"])
def test_a_text_that_names_no_fault_model_is_refused(text):
    with pytest.raises(ValueError, match="Fault model"):
        parse(text)
