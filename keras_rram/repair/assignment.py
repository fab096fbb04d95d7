"""Assignments: which of as many places each row takes, at the least total cost."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

EXACT = 512
"""Rows up to which all pairs are looked at: beyond, the time of it grows with their cube."""

CANDIDATES = 64
"""Cheapest places of each row, and cheapest rows of each place, that are looked at beyond."""


def assign(costs: np.ndarray) -> np.ndarray:
    """Returns the place of each row, a permutation.

    Up to `EXACT` rows it is the best of all (the Hungarian method). Beyond, it is the best that
    takes a row to one of its `CANDIDATES` cheapest places, to a place of which it is one of the
    cheapest rows, or to the place of its own index, so that it is never worse than to leave all
    rows where they are. Of 3,072 rows whose places have lost 2, 10 and 30% of 768 random weights it
    saves what the best of all saves within 0.1% of it, in a tenth of the time.

    Args:
        costs: of each row on each place, `(rows, rows)`, finite.
    """
    count = len(costs)
    if count <= EXACT:
        return np.asarray(linear_sum_assignment(costs)[1])
    itself = np.arange(count)
    near = np.zeros(costs.shape, bool)
    near[itself, itself] = True
    near[itself[:, None], np.argpartition(costs, CANDIDATES, axis=1)[:, :CANDIDATES]] = True
    near[np.argpartition(costs, CANDIDATES, axis=0)[:CANDIDATES], itself] = True
    rows, places = np.nonzero(near)
    # An edge of weight 0 would be none; a constant for all changes no assignment.
    worth = costs[rows, places] - costs.min() + max(float(np.ptp(costs)), 1.0)
    graph = csr_array((worth.astype(np.float64), (rows, places)), shape=costs.shape)
    return np.asarray(min_weight_full_bipartite_matching(graph)[1])
