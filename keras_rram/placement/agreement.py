"""Whether two ways of judging put configurations in the same order, within groups of alike ones."""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

_LARGEST = 8
_RESAMPLES = 10_000


@dataclass(frozen=True)
class RankAgreement:
    """How two orders agree, over the pairs of configurations of one group.

    Attributes:
        configurations: how many configurations have a partner in their group.
        pairs: pairs within groups.
        concordant: pairs that both have in the same order.
        discordant: pairs that they have in opposite orders; the others are ties of one of them.
        tau: Kendall's tau-a within groups, `(concordant - discordant) / pairs`.
        p_value: probability of a tau as large or larger where one order has nothing to do with the
            other; exact, over all permutations within the groups.
        low: lower end of the 95% interval of tau, percentile bootstrap over configurations, groups
            kept. It is rough for fewer than a dozen configurations.
        high: its upper end.
    """

    configurations: int
    pairs: int
    concordant: int
    discordant: int
    tau: float
    p_value: float
    low: float
    high: float


def rank_agreement(
    one: Sequence[float], other: Sequence[float], groups: Sequence[Hashable], seed: int = 0
) -> RankAgreement:
    """Compares two orders of the same configurations, within groups.

    Use it where configurations of different groups are no rivals: networks at different fault rates
    differ by the rate, and any judge would have them in the right order.

    Reference: Kendall, "A New Measure of Rank Correlation", Biometrika 30 (1938).

    Args:
        one: value of each configuration by the first judge, shape `(configurations,)`.
        other: by the second.
        groups: the group of each, at most 8 configurations in each.
        seed: seed of the bootstrap.

    Raises:
        ValueError: if the lengths differ, a group is too large, or no group has two configurations.

    Example:

    ```python
    rank_agreement(short, full, groups=[0.2, 0.2, 0.3, 0.3, 0.3]).tau
    ```
    """
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if not len(first) == len(second) == len(groups):
        raise ValueError(
            f"expected two values and a group of each configuration. Received: {len(first)} and "
            f"{len(second)} values, {len(groups)} groups"
        )
    places = [np.flatnonzero([one == group for one in groups]) for group in dict.fromkeys(groups)]
    places = [place for place in places if len(place) > 1]
    if not places or max(map(len, places)) > _LARGEST:
        raise ValueError(
            f"expected groups of at most {_LARGEST}, one of them of at least 2 configurations. "
            f"Received: {sorted(map(len, places)) or 'single configurations only'}"
        )
    signs = np.sign(np.subtract.outer(first, first)) * np.sign(np.subtract.outer(second, second))
    held = [signs[np.ix_(place, place)][np.triu_indices(len(place), 1)] for place in places]
    scores = np.concatenate(held)
    chance = {0: 1.0}  # score -> probability, of the groups so far
    for place in places:
        chance = _joined(chance, _permuted(first[place], second[place]))
    low, high = np.quantile(_bootstrapped(signs, places, seed), (0.025, 0.975))
    return RankAgreement(
        configurations=sum(map(len, places)),
        pairs=len(scores),
        concordant=int((scores > 0).sum()),
        discordant=int((scores < 0).sum()),
        tau=float(scores.mean()),
        p_value=min(1.0, sum(share for score, share in chance.items() if score >= scores.sum())),
        low=float(low),
        high=float(high),
    )


def _permuted(first: np.ndarray, second: np.ndarray) -> dict[int, float]:
    """Returns the distribution of concordant less discordant pairs over all permutations."""
    upper = np.triu_indices(len(first), 1)
    signs = np.sign(np.subtract.outer(first, first))[upper]
    others = np.sign(np.subtract.outer(second, second))
    orders = itertools.permutations(range(len(first)))
    found = [int((signs * others[np.ix_(order, order)][upper]).sum()) for order in orders]
    scores, counts = np.unique(found, return_counts=True)
    return dict(zip(scores.tolist(), (counts / len(found)).tolist(), strict=True))


def _joined(one: dict[int, float], other: dict[int, float]) -> dict[int, float]:
    found: dict[int, float] = {}
    for (a, p), (b, q) in itertools.product(one.items(), other.items()):
        found[a + b] = found.get(a + b, 0.0) + p * q
    return found


def _bootstrapped(signs: np.ndarray, places: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Returns tau of configurations drawn again; a pair of one with itself does not count."""
    rng = np.random.default_rng(seed)
    total, pairs = np.zeros(_RESAMPLES), np.zeros(_RESAMPLES)
    for place in places:
        weights = rng.multinomial(len(place), np.full(len(place), 1 / len(place)), _RESAMPLES)
        for a, b in itertools.combinations(range(len(place)), 2):
            together = weights[:, a] * weights[:, b]
            total += together * signs[place[a], place[b]]
            pairs += together
    return total[pairs > 0] / pairs[pairs > 0]
