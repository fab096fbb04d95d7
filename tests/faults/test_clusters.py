import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import multivariate_normal, norm

from keras_rram.faults import ClusteredFaults, Crossbar, KernelShape
from keras_rram.faults.clusters import _filter


def rng(seed=0):
    return np.random.default_rng(seed)


def fields(length, size, count):
    model = ClusteredFaults(0.1, length)
    return np.stack([model._field(*size, rng(seed)) for seed in range(count)])


@pytest.mark.parametrize("length", [0.01, 0.7, 3.0, 500.0])
def test_the_field_has_unit_variance_in_every_cell(length):
    drawn = fields(length, (9, 6), 4000)
    assert np.abs(drawn.mean(axis=0)).max() < 4.5 / np.sqrt(4000)
    assert np.abs(drawn.var(axis=0) - 1).max() < 4.5 * np.sqrt(2 / 4000)


def test_the_filter_is_that_of_scipy():
    """Columns of the smoothing matrix against impulses through `gaussian_filter`."""
    size, length = 24, 4.0
    factors, scale = _filter(size, length)
    modes = np.sqrt(2 / size) * np.cos(
        np.pi / size * np.arange(size) * (np.arange(size)[:, None] + 0.5)
    )
    modes[:, 0] /= np.sqrt(2)
    modes = modes[:, : len(factors)]
    smoothing = modes @ np.diag(factors) @ modes.T
    impulses = np.stack(
        [gaussian_filter(row, length / np.sqrt(2), truncate=9) for row in np.eye(size)]
    )
    np.testing.assert_allclose(smoothing, impulses, atol=1e-4)
    np.testing.assert_allclose(scale, 1 / np.linalg.norm(smoothing, axis=1), rtol=1e-6)


def test_correlations_are_gaussian_and_mirrored_at_the_edges():
    size, length = 60, 3.0
    factors, scale = _filter(size, length)
    modes = np.sqrt(2 / size) * np.cos(
        np.pi / size * np.arange(size) * (np.arange(size)[:, None] + 0.5)
    )
    modes[:, 0] /= np.sqrt(2)
    modes = modes[:, : len(factors)]
    found = scale[:, None] * (modes @ np.diag(factors**2) @ modes.T) * scale

    def g(distance):
        return np.exp(-(distance**2) / (2 * length**2))

    i, j = np.indices((size, size))
    images = g(i - j) + g(i + j + 1) + g(2 * size - 1 - i - j)
    expected = images / np.sqrt(np.outer(np.diag(images), np.diag(images)))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found[30, 27], g(3), atol=1e-6)


def test_two_weights_fail_together_with_the_bivariate_normal_probability():
    rate, length, chips = 0.2, 3.0, 400
    model = ClusteredFaults(rate, length, tile=64)
    faulty = np.stack([model.faulty((64, 64), rng(seed)) for seed in range(chips)])
    inner = faulty[:, 20:44, 20:44]
    for distance in (1, 3, 9):
        both = (inner & faulty[:, 20 + distance : 44 + distance, 20:44]).mean(axis=(1, 2))
        correlation = np.exp(-(distance**2) / (2 * length**2))
        covariance = [[1, correlation], [correlation, 1]]
        expected = multivariate_normal(cov=covariance).cdf([norm.ppf(rate)] * 2)
        assert abs(both.mean() - expected) < 4 * both.std() / np.sqrt(chips)
        assert expected >= rate**2


def test_tiles_have_clusters_of_their_own():
    model = ClusteredFaults(0.3, 50.0, tile=4)
    drawn = np.stack([model.faulty((8, 8), rng(seed)) for seed in range(800)])
    first, second = drawn[:, 3, 3], drawn[:, 4, 3]
    assert (drawn[:, 0, 0] == first).mean() > 0.99
    assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / np.sqrt(800)


@pytest.mark.parametrize("length", [2.0, 1000.0])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.95])
def test_exact_has_the_exact_count_also_where_all_cells_are_alike(length, rate):
    shape = KernelShape(Crossbar.depthwise((3, 3, 11, 2)))
    model = ClusteredFaults(rate, length, exact=True, tile=(16, 8))
    assert model.faulty(shape, rng(3)).sum() == round(rate * 198)
    assert model.faulty((30, 30), rng(3)).sum() == round(rate * 900)


def test_a_cluster_is_one_of_cells_that_are_neighbours_on_the_crossbar():
    """In a kernel's own axes: faults next to faults along the rows and the columns."""
    shape = (3, 3, 16, 40)
    faulty = ClusteredFaults(0.2, 4.0).faulty(shape, rng(1)).reshape(144, 40)
    again = faulty[:, 1:][faulty[:, :-1]].mean()
    assert again > 0.6
