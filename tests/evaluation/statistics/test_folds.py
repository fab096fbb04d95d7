"""Stratified folds of the test images, and the interval of the mean from one fold per chip."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from keras_rram.evaluation.statistics.folds import fold_interval, fold_of, stratified_folds
from tests.populations import TestSet


@given(st.integers(2, 400), st.integers(1, 12), st.integers(0, 5), st.data())
def test_folds_are_a_stratified_partition(images, classes, seed, data):
    labels = np.random.default_rng(seed).integers(0, classes, images)
    wanted = data.draw(st.integers(1, images))
    folds = stratified_folds(labels, wanted, seed)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(images))
    assert len(folds) & (len(folds) - 1) == 0
    sizes = [len(fold) for fold in folds]
    assert wanted <= min(sizes) < 2 * wanted
    assert max(sizes) - min(sizes) <= 1
    for label in range(classes):
        counts = [np.sum(labels[fold] == label) for fold in folds]
        assert max(counts) - min(counts) <= 1


@given(st.integers(20, 300), st.integers(0, 5))
def test_folds_of_one_seed_are_nested(images, seed):
    labels = np.random.default_rng(seed).integers(0, 10, images)
    few = stratified_folds(labels, images // 16, seed)
    more = stratified_folds(labels, images // 4, seed)
    for chip in range(40):
        part = few[fold_of(chip, len(few))]
        assert set(part) <= set(more[fold_of(chip, len(more))])


@given(st.integers(2, 3000), st.integers(0, 11))
def test_the_size_of_a_fold_gives_back_the_number_of_folds(images, power):
    folds = min(2**power, 1 << (images.bit_length() - 1))
    assert len(stratified_folds(np.zeros(images, int), images // folds, 0)) == folds


def test_seeds_differ_and_are_replayed():
    labels = np.arange(200) % 10
    one, again, other = (stratified_folds(labels, 50, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_pairs_of_chips_share_a_fold_in_rotation():
    assert [fold_of(chip, 4) for chip in range(10)] == [0, 0, 1, 1, 2, 2, 3, 3, 0, 0]
    assert fold_of(np.arange(4), 1).tolist() == [0, 0, 0, 0]


def test_one_fold_is_students_interval_over_chips():
    x = np.random.default_rng(0).uniform(0.4, 0.6, 10)
    interval = fold_interval(x, np.zeros(10, int), 1, 500, scale="raw")
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_all_folds_leave_the_spread_within_folds():
    # Two folds that differ by 0.4, chips within a fold by 0.02: s_2^2 = 0.0002, Var = s_2^2 / 4.
    interval = fold_interval(
        np.array([0.50, 0.52, 0.90, 0.92]), np.array([0, 0, 1, 1]), 2, 100, scale="raw"
    )
    assert interval.estimate == pytest.approx(0.71)
    assert interval.half_width == pytest.approx(
        stats.t.ppf(0.975, interval.df) * (0.0002 / 4) ** 0.5
    )
    assert interval.df == pytest.approx(2)


def test_the_mean_is_that_of_the_folds():
    interval = fold_interval(np.array([0.5, 0.5, 0.5, 0.8]), np.array([0, 0, 0, 1]), 2, 100)
    assert interval.estimate == pytest.approx(0.65)


@pytest.mark.parametrize("chips", [16, 40, 64, 96])
def test_the_variance_is_unbiased_and_smaller_than_that_of_random_images(chips):
    images = 1024
    world = TestSet(images, 0.85, 0.02, rho=0.7)
    rng = np.random.default_rng(1)
    means, variances, naive = [], [], []
    for run in range(300):
        folds = np.array(stratified_folds(world.labels, 32, run))
        fold_ids = fold_of(np.arange(chips), len(folds))
        limits = world.draw(rng, chips)
        hard = world.rho**0.5 * world.difficulty[folds[fold_ids]]
        noise = (1 - world.rho) ** 0.5 * rng.standard_normal((chips, 32))
        x = (hard + noise <= limits[:, None]).mean(1)
        interval = fold_interval(x, fold_ids, len(folds), 32, scale="raw")
        means.append(interval.estimate)
        variances.append((interval.half_width / stats.t.ppf(0.975, interval.df)) ** 2)
        naive.append(x.var(ddof=1) / chips)
    assert np.mean(means) == pytest.approx(world.truth, abs=4 * np.std(means) / 300**0.5)
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.25)
    if chips >= 64:
        assert np.mean(variances) < 0.75 * np.mean(naive)


def test_all_right_is_bounded_by_the_chips_not_by_dependent_answers():
    interval = fold_interval(np.ones(8), fold_of(np.arange(8), 16), 16, 50)
    expected = stats.binomtest(8, 8).proportion_ci(0.95, "wilson")[0]
    assert (interval.low, interval.high) == (pytest.approx(expected), 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: stratified_folds(np.zeros((2, 2)), 1, 0),
        lambda: stratified_folds(np.zeros(5), 6, 0),
        lambda: stratified_folds(np.zeros(5), 0, 0),
        lambda: fold_interval(np.ones(1), np.zeros(1, int), 1, 10),
        lambda: fold_interval(np.ones(3), np.zeros(2, int), 1, 10),
        lambda: fold_interval(np.ones(3), np.array([0, 1, 2]), 2, 10),
        lambda: fold_interval(np.ones(3), np.zeros(3, int), 2, 10),
    ],
)
def test_values_out_of_range_are_refused(call):
    with pytest.raises(ValueError, match="expected .*Received: "):
        call()
