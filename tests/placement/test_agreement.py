import itertools

import numpy as np
import pytest
from scipy import stats

from keras_rram.placement import rank_agreement


def test_one_group_is_kendalls_tau():
    rng = np.random.default_rng(0)
    for count in (2, 4, 7):
        one, other = rng.normal(size=(2, count))
        found = rank_agreement(one, other, ["a"] * count)
        known = stats.kendalltau(one, other, method="exact", alternative="greater")
        assert found.tau == pytest.approx(known.statistic)
        assert found.p_value == pytest.approx(known.pvalue)
        assert found.pairs == count * (count - 1) // 2 and found.configurations == count
        assert found.low <= found.tau <= found.high


def test_groups_are_compared_within_themselves():
    # By hand: group a in the same order (3 pairs), b in the opposite (1), c alone.
    one = [0.1, 0.2, 0.3, 0.9, 0.8, 0.5]
    other = [10, 20, 30, 5, 7, 0]
    found = rank_agreement(one, other, ["a", "a", "a", "b", "b", "c"])
    assert (found.pairs, found.concordant, found.discordant) == (4, 3, 1)
    assert found.tau == 0.5 and found.configurations == 5
    # All 12 permutations within the groups, counted.
    scores = []
    for a, b in itertools.product(itertools.permutations(range(3)), itertools.permutations((0, 1))):
        pairs = [(a[i] < a[j]) - (a[i] > a[j]) for i, j in itertools.combinations(range(3), 2)]
        scores.append(sum(pairs) + (1 if b[0] < b[1] else -1))
    assert found.p_value == pytest.approx(np.mean(np.array(scores) >= 2))


def test_ties_count_neither_way():
    found = rank_agreement([1, 1, 2], [1, 2, 3], [0, 0, 0])
    assert (found.pairs, found.concordant, found.discordant) == (3, 2, 0)
    assert rank_agreement([1, 1], [1, 2], [0, 0]).p_value == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([1, 2], [1], [0, 0]), "two values and a group"),
        (([1, 2], [1, 2], [0, 1]), "single configurations only"),
        ((range(9), range(9), [0] * 9), "at most 8"),
    ],
)
def test_bad_input(given, message):
    with pytest.raises(ValueError, match=message):
        rank_agreement(*given)
