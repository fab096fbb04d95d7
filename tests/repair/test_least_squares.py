"""Tests of `keras_rram.repair.least_squares`."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from keras_rram import Chip, StuckAtZero
from keras_rram.faults import StuckCells
from keras_rram.repair.batch_norm import BatchNormRecalibration
from keras_rram.repair.hand import responses
from keras_rram.repair.least_squares import LeastSquares, bounded_solutions
from keras_rram.repair.patches import matrices, patches
from keras_rram.repair.remapping import Remapping
from tests.helpers import to_numpy
from tests.repair.networks import activated, images, network, statistics

RIDGE = 0.05


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_bounded_solutions_are_those_of_scipy(share):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 12)), rng.normal(size=(40, 8))
    low = rng.uniform(-0.3, 0, (12, 8))
    high = low + rng.uniform(0, 0.3, (12, 8))
    stuck = rng.random((12, 8)) < share
    high[stuck] = low[stuck]
    found = bounded_solutions(x.T @ x, x.T @ y, low, high)
    for column, free in enumerate(~stuck.T):
        held = low[~free, column]
        bounds = low[free, column], high[free, column]
        exact = lsq_linear(x[:, free], y[:, column] - x[:, ~free] @ held, bounds, tol=1e-12)
        np.testing.assert_allclose(found[free, column], exact.x, atol=1e-6)
        np.testing.assert_array_equal(found[~free, column], held)


def test_the_first_layer_is_fitted_as_numpy_does():
    """The oracle stacks the ridge under the inputs and leaves out the columns of lost weights."""
    model, chip = network(), Chip(StuckAtZero(0.4), seed=1)
    data, layer = images(), model.get_layer("conv")
    trained = to_numpy(layer.kernels["kernel"])
    crossbar = responses_crossbar(layer)
    with chip.program(model), LeastSquares(data, ridge=RIDGE)(model, chip):
        fitted = matrices(crossbar, to_numpy(layer.effective_kernel()))[0]
    x = np.float64(patches(layer, data, np.arange(24 * 16)))[:, 0]
    x -= x.mean(0)
    w0 = np.float64(matrices(crossbar, trained)[0])
    lost = matrices(crossbar, chip.faults(model)["conv/kernel"].mask)[0] == 0
    penalty = np.sqrt(RIDGE * np.mean((x**2).sum(0)))
    limit = np.abs(trained).max()
    assert lost.any()
    for column in range(w0.shape[1]):
        kept = ~lost[:, column]
        stacked = np.concatenate([x, penalty * np.eye(len(w0))])[:, kept]
        wanted = np.concatenate([x @ w0[:, column], penalty * w0[:, column]])
        exact = lsq_linear(stacked, wanted, (-limit, limit), tol=1e-12).x
        np.testing.assert_allclose(fitted[kept, column], exact, atol=1e-4)
        np.testing.assert_array_equal(fitted[~kept, column], 0)


def responses_crossbar(layer):
    from keras_rram.chips.unrolling import kernel_shape

    return kernel_shape(layer).crossbar


def logits(model, data):
    return to_numpy(model(data, training=False))


def test_outputs_come_closer_to_the_healthy_ones_than_by_recalibration():
    model, data = network(), images()
    with BatchNormRecalibration(data)(model):
        healthy = logits(model, data)
    for fault_model in (StuckAtZero(0.3), StuckCells(stuck_off=0.1, stuck_on=0.03)):
        chip = Chip(fault_model, seed=3)
        errors = []
        with chip.program(model):
            for repair in (BatchNormRecalibration(data), LeastSquares(data)):
                with repair(model, chip):
                    errors.append(((logits(model, data) - healthy) ** 2).mean())
        assert errors[1] < 0.7 * errors[0], fault_model


def test_a_healthy_chip_stays_as_it_is_and_its_statistics_are_recalibrated():
    model, data, chip = network(), images(), Chip(StuckAtZero(0.0))
    before = [to_numpy(variable) for variable in model.variables]
    with chip.program(model), LeastSquares(data)(model, chip):
        found = statistics(model)
        for name in ("conv", "depthwise", "grouped", "head"):
            layer = model.get_layer(name)
            kernel = to_numpy(layer.kernels["kernel"])
            np.testing.assert_allclose(to_numpy(layer.effective_kernel()), kernel, atol=1e-6)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)
    with BatchNormRecalibration(data, batch_size=100)(model):
        for name, expected in statistics(model).items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("first", [None, Remapping()], ids=str)
def test_weights_stay_within_what_cells_can_hold(first):
    model, data = network(), images()
    chip = Chip(StuckCells(stuck_off=0.2, stuck_on=0.2), seed=4)
    repair = LeastSquares(data) if first is None else first.then(LeastSquares(data))
    limits = {name: one.limit for name, one in responses(model, chip).items()}
    plain = responses(model, chip)
    with chip.program(model), repair(model, chip):
        for name, limit in limits.items():
            layer = model.get_layer(name.partition("/")[0])
            assert (np.abs(to_numpy(layer.kernels["kernel"])) <= limit * (1 + 1e-6)).all()
            effective = to_numpy(layer.effective_kernel())
            if first is None:
                assert (effective >= plain[name].low - 1e-5).all()
                assert (effective <= plain[name].high + 1e-5).all()


def test_options_and_text():
    with pytest.raises(ValueError, match="ridge"):
        LeastSquares(images(), ridge=0.0)
    one, other = LeastSquares(images()), LeastSquares(images(seed=1))
    assert one.fingerprint.startswith("least_squares:images=24/")
    assert one.fingerprint != other.fingerprint
    assert LeastSquares(images(), ridge=0.5).fingerprint.startswith(
        "least_squares:images=24,ridge=0.5/"
    )
    joined = BatchNormRecalibration(images()).then(one)
    assert joined.access_tier == "C" and joined.fingerprint.count("+") == 1


@pytest.mark.parametrize("use_bias", [True, False])
def test_in_front_of_an_activation_the_sums_have_the_mean_of_the_healthy_ones(use_bias):
    """With a bias exactly; without one the fit is of the sums as they are, by NumPy."""
    model, chip = activated(use_bias=use_bias), Chip(StuckAtZero(0.3), seed=1)
    data = np.random.default_rng(5).normal(1.0, 1.0, size=(200, 4)).astype("float32")
    layer = model.get_layer("one")
    bias = to_numpy(layer.bias) if use_bias else 0.0
    kernel, mask = to_numpy(layer.kernels["kernel"]), chip.faults(model)["one/kernel"].mask
    with chip.program(model), LeastSquares(data, ridge=RIDGE)(model, chip):
        fitted = to_numpy(layer.effective_kernel())
        moved = to_numpy(layer.bias) if use_bias else 0.0
    if use_bias:
        expected = (data @ kernel + bias).mean(0)
        np.testing.assert_allclose((data @ fitted + moved).mean(0), expected, rtol=1e-4)
        return
    penalty, limit = np.sqrt(RIDGE * np.mean((data**2).sum(0))), np.abs(kernel).max()
    for column in range(kernel.shape[1]):
        kept = mask[:, column] != 0
        stacked = np.concatenate([data, penalty * np.eye(4)])[:, kept]
        wanted = np.concatenate([data @ kernel[:, column], penalty * kernel[:, column]])
        exact = lsq_linear(stacked, wanted, (-limit, limit), tol=1e-12).x
        np.testing.assert_allclose(fitted[kept, column], exact, atol=1e-4)
