"""Two-way intervals: known values, unbiased variances, coverage on populations with known truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from keras_rram.evaluation.statistics.two_way import (
    bootstrap_interval,
    chip_interval,
    two_way,
    two_way_interval,
)
from tests.populations import populations


def mean_squares(matrix):
    """The textbook sums, cell by cell."""
    chips, images = matrix.shape
    grand = matrix.mean()
    a = sum(images * (row.mean() - grand) ** 2 for row in matrix)
    b = sum(chips * (column.mean() - grand) ** 2 for column in matrix.T)
    e = sum(
        (matrix[k, i] - matrix[k].mean() - matrix[:, i].mean() + grand) ** 2
        for k in range(chips)
        for i in range(images)
    )
    return a / (chips - 1), b / (images - 1), e / ((chips - 1) * (images - 1))


@given(hnp.arrays(bool, st.tuples(st.integers(2, 6), st.integers(2, 7))))
def test_mean_squares_against_cell_by_cell_sums(matrix):
    table = two_way(matrix)
    expected = mean_squares(matrix.astype(float))
    found = (table.ms_chips, table.ms_images, table.ms_interaction)
    assert found == pytest.approx(expected, abs=1e-12)


@given(hnp.arrays(bool, st.tuples(st.integers(2, 6), st.integers(2, 7))))
def test_interval_contains_the_mean_and_stays_in_range(matrix):
    for images in ("new", "test_set"):
        interval = two_way_interval(matrix, images=images)
        assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
        assert interval.estimate == pytest.approx(matrix.mean())


def test_hand_computed_case():
    # Rows 3/4 and 1/4; a = 4 * 2 * (1/4)^2 = 1/2, columns 1, 1/2, 1/2, 0: b = 2 * 2 * 1/4 / 3.
    matrix = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    table = two_way(matrix)
    assert (table.mean, table.ms_chips) == (0.5, 0.5)
    assert table.ms_images == pytest.approx(1 / 3)
    assert table.ms_interaction == pytest.approx((2 - 1 / 2 - 1) / 3)


def test_variances_are_unbiased():
    rng = np.random.default_rng(0)
    size = (400, 12, 30)
    data = (
        0.5 * rng.standard_normal((400, 12, 1))
        + 2.0 * rng.standard_normal((400, 1, 30))
        + rng.standard_normal(size)
    )
    tables = [two_way(matrix) for matrix in data]
    assert np.mean([t.chip_variance for t in tables]) == pytest.approx(0.25, rel=0.06)
    assert np.mean([t.image_variance for t in tables]) == pytest.approx(4.0, rel=0.06)
    assert np.mean([t.ms_interaction for t in tables]) == pytest.approx(1.0, rel=0.02)
    estimated = np.mean([(t.ms_chips + t.ms_images - t.ms_interaction) / (12 * 30) for t in tables])
    assert estimated == pytest.approx(0.25 / 12 + 4 / 30 + 1 / 360, rel=0.06)


def test_all_images_of_a_test_set_leave_students_interval_over_chips():
    matrix = populations(np.random.default_rng(1), 1, 9, 300, 0.8, 0.1, 0.5)[0][0]
    interval = two_way_interval(matrix, images="test_set", scale="raw")
    sample = matrix.mean(1)
    expected = stats.t.ppf(0.975, interval.df) * sample.std(ddof=1) / 3
    assert interval.half_width == pytest.approx(expected)
    assert interval.df <= 8
    counts = chip_interval(matrix.sum(1), np.full(9, 300), images="test_set")
    logit = two_way_interval(matrix, images="test_set")
    assert (counts.low, counts.high) == pytest.approx((logit.low, logit.high))


def test_a_larger_test_set_lies_between_the_two_questions():
    matrix = populations(np.random.default_rng(2), 1, 20, 200, 0.8, 0.02, 0.7)[0][0]
    widths = [
        two_way_interval(matrix, images="test_set", total_images=total).half_width
        for total in (200, 400, 2000, 10**9)
    ]
    new = two_way_interval(matrix).half_width
    assert widths == sorted(widths)
    assert widths[-1] == pytest.approx(new, rel=1e-3)


def test_all_right_is_bounded_by_the_scarcer_of_chips_and_images():
    for shape in ((50, 100), (100, 50)):
        interval = two_way_interval(np.ones(shape, bool))
        assert interval.high == 1
        expected = stats.binomtest(50, 50).proportion_ci(0.95, "wilson")[0]
        assert interval.low == pytest.approx(expected)


# Few chips and accuracies near 1 are where a plain t interval fails (85 to 93 percent here).
SETTINGS = [
    (8, 1000, 0.9, 0.03, 0.5, "beta"),
    (20, 500, 0.98, 0.01, 0.3, "beta"),
    (50, 300, 0.98, 0.003, 0.7, "beta"),
    (20, 500, 0.995, 0.003, 0.5, "beta"),
    (20, 500, 0.98, 0.5, 0.5, "logit-normal"),
    (20, 500, 0.5, 0.15, 0.5, "beta"),
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_coverage_of_the_formula(setting):
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(4):
        matrices, truth = populations(rng, 500, *setting)
        intervals = [two_way_interval(matrix) for matrix in matrices]
        covered += [interval.low <= truth <= interval.high for interval in intervals]
    print(f"{setting}: 95% interval covers {np.mean(covered):.3f} of {len(covered)}")
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("setting", [SETTINGS[0], SETTINGS[2]])
def test_raw_scale_loses_what_the_logit_scale_keeps_near_one(setting):
    matrices, truth = populations(np.random.default_rng(4), 500, *setting)
    misses = {"raw": 0, "logit": 0}
    for matrix in matrices:
        for scale in misses:
            misses[scale] += truth < two_way_interval(matrix, scale=scale).low
    assert misses["logit"] < misses["raw"]


def test_counts_alone_are_never_too_narrow():
    matrices, truth = populations(np.random.default_rng(5), 1000, 20, 500, 0.95, 0.02, 0.5)
    total = np.full(20, 500)
    covered, wider = [], []
    for matrix in matrices:
        interval = chip_interval(matrix.sum(1), total)
        covered.append(interval.low <= truth <= interval.high)
        wider.append(interval.half_width > two_way_interval(matrix).half_width)
    assert np.mean(covered) > 0.95
    assert np.mean(wider) > 0.95
    assert "upper bound of the image term" in interval.method


@pytest.mark.parametrize("rho", [0.3, 0.8])
def test_bootstrap_agrees_with_the_formula(rho):
    rng = np.random.default_rng(6)
    matrix = populations(rng, 1, 60, 2000, 0.9, 0.04, rho)[0][0]
    formula = two_way_interval(matrix)
    bootstrap = bootstrap_interval(matrix, rng, resamples=3000)
    assert bootstrap.half_width == pytest.approx(formula.half_width, rel=0.1)
    assert bootstrap.low == pytest.approx(formula.low, abs=0.2 * formula.half_width)
    fixed = bootstrap_interval(matrix, rng, images="test_set", resamples=3000)
    expected = two_way_interval(matrix, images="test_set").half_width
    assert fixed.half_width == pytest.approx(expected, rel=0.1)


def test_coverage_of_the_bootstrap():
    rng = np.random.default_rng(7)
    matrices, truth = populations(rng, 200, 20, 200, 0.9, 0.03, 0.6)
    intervals = [bootstrap_interval(matrix, rng, resamples=300) for matrix in matrices]
    assert np.mean([i.low <= truth <= i.high for i in intervals]) > 0.93


def test_bootstrap_of_answers_that_are_all_alike_is_the_formula():
    matrix = np.ones((5, 40), bool)
    interval = bootstrap_interval(matrix, np.random.default_rng(0))
    assert interval == two_way_interval(matrix)


@pytest.mark.parametrize(
    "call",
    [
        lambda: two_way(np.ones(5, bool)),
        lambda: two_way_interval(np.ones((1, 5), bool)),
        lambda: two_way_interval(np.eye(3), images="all"),
        lambda: two_way_interval(np.eye(3), total_images=10),
        lambda: two_way_interval(np.eye(3), images="test_set", total_images=2),
        lambda: two_way_interval(np.eye(3), confidence=95),
        lambda: chip_interval(np.array([3]), np.array([4])),
        lambda: bootstrap_interval(np.eye(3), np.random.default_rng(0), resamples=10),
    ],
)
def test_values_out_of_range_are_refused(call):
    with pytest.raises(ValueError, match="expected .*Received: "):
        call()
