"""Yield and quantiles of chips whose accuracies carry the noise of finitely many images."""

import numpy as np
import pytest
from scipy import special, stats

from keras_rram.evaluation.statistics.intervals import quantile_bound, wilson_interval
from keras_rram.evaluation.statistics.single_chips import single_chips
from tests.populations import chip_accuracies


def answers(rng, accuracies, images, rho):
    """Right answers of chips with these true accuracies to shared images."""
    limit = special.ndtri(np.clip(accuracies, 1e-12, 1 - 1e-12))[:, None]
    hard = rho**0.5 * rng.standard_normal((1, images))
    return hard + (1 - rho) ** 0.5 * rng.standard_normal((len(accuracies), images)) <= limit


@pytest.mark.parametrize(
    ("chips", "images", "mean", "ratio", "rho"),
    [
        (20, 200, 0.9, 1.0, 0.5),
        (100, 200, 0.9, 0.5, 0.7),
        (100, 500, 0.98, 1.0, 0.5),
        (60, 1000, 0.95, 3.0, 0.3),
    ],
)
def test_coverage_of_the_yield(chips, images, mean, ratio, rho):
    """`ratio` is the spread between chips over the binomial noise of one chip."""
    sd = ratio * (mean * (1 - mean) / images) ** 0.5
    everything, _ = chip_accuracies(np.random.default_rng(9), 200_000, mean, sd, "beta")
    threshold, low_tail = np.quantile(everything, [0.2, 0.05])
    rng = np.random.default_rng(0)
    covered, measured, bounded, estimates = [], [], [], []
    for _ in range(150):
        true, _ = chip_accuracies(rng, chips, mean, sd, "beta")
        matrix = answers(rng, true, images, rho)
        counts, total = matrix.sum(1), np.full(chips, images)
        new = single_chips(counts, total, matrix)
        good = new.yield_at(threshold)
        naive = wilson_interval(good.passed, chips)
        for held, interval in ((covered, good.interval), (measured, naive)):
            held.append(interval.low <= 0.8 <= interval.high)
        estimates.append(good.interval.estimate)
        if (bound := new.quantile_bound()) is not None:
            bounded.append(bound <= low_tail)
        by_counts = single_chips(counts, total, None).yield_at(threshold).interval
        assert by_counts.low <= 0.8 <= by_counts.high or not covered[-1]
    print(
        f"{chips} chips x {images}, spread {ratio} x noise: yield covers {np.mean(covered):.3f}, "
        f"measured chips {np.mean(measured):.3f}"
    )
    assert np.mean(covered) >= 0.94
    assert np.mean(covered) > np.mean(measured)
    assert chips < 63 or np.mean(bounded) >= 0.94


def test_without_noise_it_counts_chips():
    counts, total = np.array([900, 920, 880, 900]), np.full(4, 1000)
    found = single_chips(counts, total, None, "test_set").yield_at(0.9)
    assert (found.passed, found.chips) == (3, 4)
    assert found.interval == wilson_interval(3, 4, question="new chips, this test set")


def test_the_spread_of_corrected_accuracies_is_that_between_chips():
    rng = np.random.default_rng(1)
    true, _ = chip_accuracies(rng, 400, 0.9, 0.02, "beta")
    matrix = answers(rng, true, 300, 0.5)
    found = single_chips(matrix.sum(1), np.full(400, 300), matrix)
    measured = np.quantile(matrix.mean(1), 0.05)
    assert found.quantile(0.05) == pytest.approx(np.quantile(true, 0.05), abs=0.012)
    assert found.quantile(0.05) > measured
    z = stats.norm.isf(0.01)
    bound = quantile_bound(matrix.mean(1), 0.05, 0.96) - z * found.image_sd
    assert found.quantile_bound() == pytest.approx(bound)


def test_a_bound_takes_more_chips_where_images_are_a_sample():
    counts, total = np.arange(900, 962), np.full(62, 1000)
    assert single_chips(counts, total, None).quantile_bound() is None
    assert single_chips(counts, total, None, "test_set").quantile_bound() == 0.9
    assert single_chips(np.append(counts, 950), np.full(63, 1000), None).quantile_bound() < 0.9


def test_values_out_of_range_are_refused():
    found = single_chips(np.array([3, 4]), np.array([5, 5]), None)
    for call in (lambda: found.yield_at(90), lambda: found.yield_at(0.9, 95)):
        with pytest.raises(ValueError, match="expected .*Received: "):
            call()
