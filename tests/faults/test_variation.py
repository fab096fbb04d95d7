import math

import numpy as np
import pytest

from keras_rram.faults import (
    BitSlices,
    CentredPair,
    DifferentialPair,
    Drift,
    FiniteOnOff,
    LognormalVariation,
    at_rate,
    parse,
    spec,
)
from tests import cell_mappings


def rng(seed=0):
    return np.random.default_rng(seed)


def test_lognormal_factors_have_median_one():
    logs = np.log(LognormalVariation(0.2).cells((300, 300), rng()).gain.astype(float))
    assert abs(logs.mean()) < 5 * 0.2 / logs.size**0.5
    assert abs(logs.std() - 0.2) < 5 * 0.2 / (2 * logs.size) ** 0.5


def test_the_off_cell_of_a_pair_varies_too():
    """w f+ + s (f+ - f-) g_min / span, written out."""
    mapping = DifferentialPair(g_min=1e-5, g_max=1.1e-4)
    kernel = cell_mappings.kernel()
    model = LognormalVariation(0.3, mapping=mapping)
    plus, minus = model.cells(kernel.shape, rng(2)).gain.astype(float)
    scale = np.abs(kernel).max()
    expected = np.where(kernel > 0, kernel * plus, kernel * minus) + scale * (plus - minus) * 0.1
    found = model.sample(kernel.shape, rng(2), kernel).apply(kernel)
    np.testing.assert_allclose(found, expected, atol=1e-6 * scale)


def test_no_variation_is_the_kernel():
    kernel = cell_mappings.kernel()
    for model in (LognormalVariation(0.0), Drift(100.0, nu=0.0), FiniteOnOff(100.0)):
        np.testing.assert_array_equal(
            model.sample(kernel.shape, rng(), kernel).apply(kernel), kernel
        )


def test_drift_is_a_power_of_time():
    kernel = cell_mappings.kernel()
    model = Drift(1e4, nu=0.05, start=10.0, mapping=CentredPair())
    found = model.sample(kernel.shape, rng(), kernel).apply(kernel)
    np.testing.assert_allclose(found, kernel * 1000**-0.05, rtol=1e-4, atol=1e-6)
    compensated = Drift(1e4, nu=0.05, start=10.0, compensated=True)
    np.testing.assert_array_equal(
        compensated.sample(kernel.shape, rng(), kernel).apply(kernel), kernel
    )


def test_exponents_differ_from_cell_to_cell():
    gains = [
        Drift(1e4, nu=0.05, nu_sd=0.01, compensated=compensated).cells((200, 300), rng()).gain
        for compensated in (False, True)
    ]
    exponents = [-np.log(gain.astype(float)) / math.log(1e4) for gain in gains]
    np.testing.assert_allclose(exponents[0] - 0.05, exponents[1], atol=1e-6)
    assert abs(exponents[0].mean() - 0.05) < 5 * 0.01 / exponents[0].size ** 0.5
    assert abs(exponents[0].std() - 0.01) < 0.0002


def test_a_finite_ratio_thresholds_weights_softly():
    kernel = cell_mappings.kernel()
    model = FiniteOnOff(5.0, mapping=DifferentialPair(g_min=0.0))
    scale = np.abs(kernel).max()
    expected = np.sign(kernel) * np.maximum(np.abs(kernel) - scale / 5, 0)
    fault = model.sample(kernel.shape, rng(), kernel)
    np.testing.assert_allclose(fault.apply(kernel), expected, atol=1e-6)
    np.testing.assert_array_equal(fault.mask, expected != 0)


@pytest.mark.parametrize(
    "mapping", [CentredPair(g_min=0.0), BitSlices(2, g_min=0.0)], ids=["centred", "slices"]
)
def test_a_finite_ratio_is_a_floor_of_conductances(mapping):
    kernel = mapping.quantize(cell_mappings.kernel())
    floored = np.maximum(cell_mappings.programmed(mapping, kernel), mapping.g_max / 4)
    expected = cell_mappings.layer(mapping, kernel, floored, np.eye(len(kernel)))
    found = FiniteOnOff(4.0, mapping=mapping).sample(kernel.shape, rng(), kernel).apply(kernel)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [LognormalVariation(0.1), Drift(60.0, 0.05, 0.01), FiniteOnOff(50.0, mapping=BitSlices(1))],
    ids=lambda model: type(model).__name__,
)
def test_serialization_and_rate(model):
    assert parse(spec(model)) == model
    assert model.rate == 0
    with pytest.raises(ValueError, match="rate to sweep"):
        at_rate(model, 0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LognormalVariation(-0.1), "`sigma` must be >= 0"),
        (lambda: Drift(0.5, 0.1), "`seconds` must be >= start"),
        (lambda: Drift(10.0, -0.1), "`nu` must be >= 0"),
        (lambda: Drift(10.0, 0.1, start=0.0), "`start` must be > 0"),
        (lambda: FiniteOnOff(1.0), "`ratio` must be > 1"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
