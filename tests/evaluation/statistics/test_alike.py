"""Chips that are all alike: what may be said of chips that were not met."""

import numpy as np
import pytest
from scipy import stats

from keras_rram.evaluation.statistics.folds import fold_interval, fold_of
from keras_rram.evaluation.statistics.intervals import alike_interval
from keras_rram.evaluation.statistics.stopping import Plan, StopRule
from keras_rram.evaluation.statistics.two_way import (
    bootstrap_interval,
    chip_interval,
    two_way_interval,
)

IMAGES = 200


def broken_chips(rng, chips, share, accuracy):
    """Right answers of chips that are perfect, but for a share that is broken; the true mean."""
    is_broken = rng.random((chips, 1)) < share
    right = np.where(is_broken, rng.random((chips, IMAGES)) < accuracy, True)
    return right, 1 - share + share * accuracy


def intervals(right):
    """Each of the ways from answers, counts or folds to an interval of the mean."""
    chips = len(right)
    counts, total = right.sum(1), np.full(chips, IMAGES)
    size = IMAGES // 4
    fold_ids = fold_of(np.arange(chips), 4)
    return {
        "answers, new images": two_way_interval(right),
        "answers, test set": two_way_interval(right, images="test_set"),
        "counts, new images": chip_interval(counts, total),
        "counts, test set": chip_interval(counts, total, images="test_set"),
        "folds": fold_interval(right[:, :size].mean(1), fold_ids, 4, size),
    }


@pytest.mark.parametrize(
    ("chips", "share", "accuracy"), [(8, 0.05, 0.1), (8, 0.1, 0.1), (8, 0.1, 0.9), (50, 0.05, 0.1)]
)
def test_coverage_where_few_chips_are_broken_and_none_may_have_been_met(chips, share, accuracy):
    rng = np.random.default_rng(0)
    covered = {}
    for _ in range(400):
        right, truth = broken_chips(rng, chips, share, accuracy)
        for name, interval in intervals(right).items():
            covered.setdefault(name, []).append(interval.low <= truth <= interval.high)
    for name, held in covered.items():
        print(f"{chips} chips, {share:.0%} broken, {name}: covers {np.mean(held):.3f}")
        assert np.mean(held) >= 0.94, name


@pytest.mark.parametrize(("chips", "images"), [(8, 10_000), (50, 20)])
def test_perfect_chips_are_bounded_by_the_scarcer_of_chips_and_images(chips, images):
    right = np.ones((chips, images), bool)
    fewest = min(chips, images)
    expected = stats.binomtest(fewest, fewest).proportion_ci(0.95, "wilson").low
    for interval in (
        two_way_interval(right),
        chip_interval(right.sum(1), np.full(chips, images)),
    ):
        assert (interval.low, interval.high) == (pytest.approx(expected), 1)
        assert interval.question == "new chips, new images"
    wrong = two_way_interval(~right)
    assert (wrong.low, wrong.high) == (0, pytest.approx(1 - expected))


def test_equal_chips_have_no_interval_of_width_zero():
    """An unseen share of f chips may have any accuracy: the ends by hand."""
    row = np.arange(IMAGES) % 10 > 0
    right = np.stack([np.roll(row, chip) for chip in range(8)])
    part = stats.binomtest(8, 8).proportion_ci(0.95, "wilson").low
    for interval in (
        two_way_interval(right, images="test_set"),
        chip_interval(right.sum(1), np.full(8, IMAGES), images="test_set"),
        fold_interval(np.full(8, 0.9), fold_of(np.arange(8), 4), 4, 50),
    ):
        assert interval.estimate == pytest.approx(0.9)
        assert (interval.low, interval.high) == pytest.approx((0.9 * part, 0.9 * part + 1 - part))
        assert interval.question == "new chips, this test set"


def test_chips_that_answer_the_same_add_the_error_of_the_images():
    right = np.tile(np.arange(IMAGES) % 10 > 0, (30, 1))
    found = two_way_interval(right)
    given = two_way_interval(right, images="test_set")
    assert found.low < given.low < 0.9 < given.high < found.high
    part = stats.binomtest(30, 30).proportion_ci(0.975, "wilson").low
    reach = stats.norm.ppf(0.9875) * 0.3 / IMAGES**0.5
    assert found.low == pytest.approx(part * (0.9 - reach), abs=0.02)
    assert bootstrap_interval(right, np.random.default_rng(0)) == found


def test_equal_differences_may_be_of_either_sign():
    found = two_way_interval(np.zeros((8, 100), int), scale="raw")
    assert found.low == -found.high < -0.2
    assert alike_interval(0.0, 10**6, 0.95, "raw", "x").half_width < 1e-5


def test_equal_chips_do_not_end_a_stop_rule():
    rule = StopRule(0.01).looks(max_chips=400, test_images=2048)
    plan = rule.first_plan()
    right = np.arange(plan.images_per_chip) % 4 > 0
    sizes = [plan.chips]
    while isinstance(plan, Plan):
        plan = rule.next(plan, [np.resize(right, plan.images_per_chip)] * plan.chips)
        sizes.append(plan.chips)
    assert len(sizes) > 2 and sizes[-1] > 100
    assert plan.interval.half_width > 0
