"""Means and variances of parts, put together."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def pooled(calls: Sequence[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the variance over parts of known count, mean and variance."""
    counts, means, variances = (np.stack([np.float64(call[n]) for call in calls]) for n in range(3))
    weights = (counts / counts.sum())[:, None]
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean) ** 2)).sum(0)
