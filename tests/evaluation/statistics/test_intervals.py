"""Intervals, quantile bounds and spread against independent calculations."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from keras_rram.evaluation.statistics.intervals import (
    Interval,
    effective_df,
    quantile_bound,
    sd_without_binomial_noise,
    smallest_population,
    t_interval,
    wilson_interval,
)
from tests.populations import chip_accuracies


def test_wilson_interval_is_the_root_of_its_quadratic():
    z = stats.norm.ppf(0.975)
    interval = wilson_interval(81, 263)
    for p in (interval.low, interval.high):
        assert abs(81 / 263 - p) == pytest.approx(z * math.sqrt(p * (1 - p) / 263))
    assert interval.estimate == 81 / 263
    # Newcombe, Statistics in Medicine 17 (1998) 857, table I: 81 of 263.
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


@given(st.integers(1, 300), st.data())
def test_wilson_interval_contains_its_estimate(total, data):
    successes = data.draw(st.integers(0, total))
    interval = wilson_interval(successes, total)
    assert 0 <= interval.low <= interval.estimate + 1e-12
    assert interval.estimate - 1e-12 <= interval.high <= 1


def test_smallest_population():
    assert smallest_population() == 59
    assert smallest_population(0.01, 0.95) == 299
    assert smallest_population(0.5, 0.95) == 5
    for q, confidence in itertools.product((0.02, 0.1, 0.3), (0.8, 0.99)):
        n = smallest_population(q, confidence)
        assert 1 - (1 - q) ** n >= confidence > 1 - (1 - q) ** (n - 1)


@pytest.mark.parametrize("count", [59, 92, 93, 124, 500])
def test_quantile_bound_is_the_order_statistic_of_the_binomial(count):
    accuracies = np.random.default_rng(0).random(count)
    rank = max(r for r in range(1, 60) if stats.binom.sf(r - 1, count, 0.05) >= 0.95)
    assert quantile_bound(accuracies) == np.sort(accuracies)[rank - 1]


def test_quantile_bound_holds_with_its_confidence():
    rng = np.random.default_rng(1)
    held = [quantile_bound(rng.random(100), 0.05, 0.95) <= 0.05 for _ in range(1000)]
    assert np.mean(held) > 0.93


def test_quantile_bound_asks_for_enough_chips():
    with pytest.raises(ValueError, match="at least 59 accuracies.*Received"):
        quantile_bound(np.linspace(0, 1, 58))


def test_sd_without_binomial_noise_finds_the_spread_between_chips():
    rng = np.random.default_rng(2)
    accuracies, _ = chip_accuracies(rng, (300, 50), 0.9, 0.03, "beta")
    total = np.full(50, 100)
    found = [sd_without_binomial_noise(rng.binomial(100, p), total) ** 2 for p in accuracies]
    raw = [np.var(rng.binomial(100, p) / 100, ddof=1) for p in accuracies]
    assert np.mean(found) == pytest.approx(0.03**2, rel=0.05)
    assert np.mean(raw) > 1.8 * 0.03**2


def test_sd_without_binomial_noise_is_zero_rather_than_negative():
    assert sd_without_binomial_noise(np.array([50, 50, 51]), np.array([100, 100, 100])) == 0


def test_effective_df_of_normal_and_heavy_tailed_data():
    rng = np.random.default_rng(3)
    values = rng.standard_normal(100_000)
    assert effective_df(values - values.mean()) == pytest.approx(99_999, rel=0.03)
    # Variance of the sample variance of a Laplace sample: sigma^4 (2 / (n - 1) + 3 / n).
    values = rng.laplace(size=100_000)
    expected = 2 / (2 / 99_999 + 3 / 100_000)
    assert effective_df(values - values.mean()) == pytest.approx(expected, rel=0.1)
    pairs = values.reshape(-1, 2)
    spread = np.var(np.var(pairs, axis=1, ddof=1)) / len(pairs)
    expected = 2 * np.mean(np.var(pairs, axis=1, ddof=1)) ** 2 / spread
    residuals = pairs - pairs.mean(1, keepdims=True)
    assert effective_df(residuals, groups=50_000) == pytest.approx(expected, rel=0.1)


def test_effective_df_never_exceeds_the_nominal():
    assert effective_df(np.array([-1.0, 1.0, -1.0, 1.0])) == 3
    assert effective_df(np.zeros(5)) == 4


def test_raw_t_interval_is_students():
    x = np.random.default_rng(4).standard_normal(12)
    interval = t_interval(x.mean(), x.var(ddof=1) / 12, 11, 12, 0.9, "raw", "chips", "t")
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


@given(st.floats(0, 1), st.floats(1e-9, 0.1), st.floats(1, 100))
def test_logit_t_interval_stays_in_range(mean, variance, df):
    interval = t_interval(mean, variance, df, 1000, 0.95, "logit", "chips", "t")
    assert 0 <= interval.low <= mean <= interval.high <= 1


def test_half_width():
    assert Interval(0.5, 0.4, 0.8, 0.95, "chips", "x").half_width == pytest.approx(0.2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson_interval(3, 2),
        lambda: wilson_interval(0, 0),
        lambda: wilson_interval(1, 2, 95),
        lambda: smallest_population(5),
        lambda: smallest_population(0.05, 1),
        lambda: sd_without_binomial_noise(np.array([1]), np.array([2])),
    ],
)
def test_values_out_of_range_are_refused(call):
    with pytest.raises(ValueError, match="expected .*Received: "):
        call()
