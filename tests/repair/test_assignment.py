"""Oracle: SciPy's dense solver, which is exact, and a permutation that is known to be the best."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from keras_rram.repair import assignment


def lost(count, columns, rate, seed=0):
    """Costs as of weights whose places have lost some."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, columns)) ** 2 @ (rng.random((count, columns)) < rate).T


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
def test_of_many_rows_it_saves_what_the_best_of_all_saves(rate):
    costs = lost(assignment.EXACT + 88, 150, rate)
    rows = np.arange(len(costs))
    places = assignment.assign(costs)
    assert sorted(places) == list(rows)
    best, here = costs[linear_sum_assignment(costs)].sum(), np.trace(costs)
    assert best <= costs[rows, places].sum() <= best + 0.001 * (here - best)


def test_few_rows_are_assigned_exactly():
    costs = lost(60, 20, 0.2)
    np.testing.assert_array_equal(assignment.assign(costs), linear_sum_assignment(costs)[1])


@pytest.mark.parametrize("offset", [0.0, -7.0])
def test_a_known_permutation_is_found_among_many(offset):
    rng = np.random.default_rng(0)
    count = assignment.EXACT + 1
    hidden = rng.permutation(count)
    costs = rng.random((count, count)) + 1
    costs[np.arange(count), hidden] = 0
    np.testing.assert_array_equal(assignment.assign(costs + offset), hidden)


def test_equal_costs_have_an_assignment():
    """All rows have the same cheapest places: each could not get one of them."""
    count = assignment.EXACT + 1
    costs = np.tile(np.arange(count, dtype=float), (count, 1))
    assert sorted(assignment.assign(costs)) == list(range(count))
    assert sorted(assignment.assign(np.zeros((count, count)))) == list(range(count))
