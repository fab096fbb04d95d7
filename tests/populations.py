"""Simulated populations of chips with a known true mean, for tests of the statistics.

Chip k has the true accuracy p_k, image i the difficulty z_i, and chip k is right about image i
where `sqrt(rho) z_i + sqrt(1 - rho) e_ki <= probit(p_k)` with standard normal e: over images chip k
is right with probability p_k exactly, and images that are hard for one chip are hard for others.
"""

import numpy as np
from scipy import special

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


def chip_accuracies(rng, shape, mean, sd, kind):
    """True accuracies and their true mean: beta, or logit-normal with `sd` on the logit scale."""
    if kind == "beta":
        size = mean * (1 - mean) / sd**2 - 1
        return rng.beta(mean * size, (1 - mean) * size, shape), mean
    truth = WEIGHTS @ special.expit(special.logit(mean) + sd * NODES) / WEIGHTS.sum()
    return special.expit(special.logit(mean) + sd * rng.standard_normal(shape)), truth


def populations(rng, count, chips, images, mean, sd, rho, kind="beta"):
    """Returns `count` matrices, shape (count, chips, images), boolean, and the true mean."""
    accuracies, truth = chip_accuracies(rng, (count, chips), mean, sd, kind)
    limit = special.ndtri(np.clip(accuracies, 1e-12, 1 - 1e-12)).astype("float32")[:, :, None]
    difficulty = rng.standard_normal((count, 1, images), dtype="float32") * np.float32(rho**0.5)
    noise = rng.standard_normal((count, chips, images), dtype="float32")
    return difficulty + np.float32((1 - rho) ** 0.5) * noise <= limit, truth


class TestSet:
    """A fixed test set with labels, whose classes differ in difficulty, and chips to run on it."""

    __test__ = False  # not a pytest class

    def __init__(self, images, mean, sd, rho=0.5, kind="beta", seed=0):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, 10, images)
        z = rng.standard_normal(images) + 0.1 * (self.labels - 4.5)
        self.difficulty = (z - z.mean()) / z.std()
        self.rho = rho
        self.draw = lambda rng, count: special.ndtri(
            np.clip(chip_accuracies(rng, count, mean, sd, kind)[0], 1e-12, 1 - 1e-12)
        )
        # The mean over chips of the true accuracy on exactly these images, by a large sample.
        limits = self.draw(np.random.default_rng(seed + 1), 40_000)
        grid, counts = np.unique(np.round(limits, 2), return_counts=True)
        right = special.ndtr(
            (grid[:, None] - rho**0.5 * self.difficulty[None]) / (1 - rho) ** 0.5
        ).mean(1)
        self.truth = float(right @ counts / counts.sum())
        centred = right - self.truth
        self.chip_sd = float(np.sqrt(centred**2 @ counts / counts.sum()))

    def answers(self, rng, limits, images):
        """Right or wrong of one chip (or a column of chips) on some images."""
        noise = rng.standard_normal((*np.shape(limits), len(images)))
        hard = self.rho**0.5 * self.difficulty[images] + (1 - self.rho) ** 0.5 * noise
        return hard <= np.asarray(limits)[..., None]
