import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keras_rram.faults import (
    BitSlices,
    CellFault,
    CentredPair,
    Crossbar,
    DifferentialPair,
    KernelShape,
    ReferenceColumn,
)
from tests import cell_mappings
from tests.cell_mappings import MAPPINGS

ANALOG = {name: one for name, one in MAPPINGS.items() if not isinstance(one, BitSlices)}


def healthy(mapping, shape):
    ones = np.ones((mapping.cells_per_weight, *shape), np.float32)
    return CellFault(ones, np.zeros_like(ones))


@pytest.mark.parametrize("name", MAPPINGS)
def test_conductances_are_those_of_the_definition(name):
    mapping, kernel = MAPPINGS[name], cell_mappings.kernel()
    found = mapping.conductances(kernel)
    np.testing.assert_allclose(found, cell_mappings.programmed(mapping, kernel), rtol=1e-6)
    assert found.min() >= mapping.g_min * (1 - 1e-12)
    assert found.max() <= mapping.g_max * (1 + 1e-12)
    assert len(found) == mapping.cells_per_weight


@pytest.mark.parametrize("name", MAPPINGS)
def test_weights_invert_conductances(name):
    mapping, kernel = MAPPINGS[name], cell_mappings.kernel()
    found = mapping.weights(mapping.conductances(kernel), mapping.scale(kernel))
    np.testing.assert_array_equal(found, mapping.quantize(kernel))


@settings(max_examples=60, deadline=None)
@given(
    kernel=arrays.arrays(
        np.float32,
        st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple),
        elements=st.floats(-(2.0**60), 2.0**60, width=32),
    ),
    name=st.sampled_from(sorted(MAPPINGS)),
)
def test_healthy_cells_give_the_kernel_bit_for_bit(kernel, name):
    mapping = MAPPINGS[name]
    if mapping.scaling == "channel" and kernel.ndim == 4:
        mapping = type(mapping)()
    quantized = mapping.quantize(kernel)
    np.testing.assert_array_equal(mapping.quantize(quantized), quantized)
    fault = healthy(mapping, kernel.shape).on(quantized, mapping)
    assert (fault.mask == 1).all()
    assert (fault.offset == 0).all()
    assert fault.apply(quantized).dtype == np.float32
    np.testing.assert_array_equal(fault.apply(quantized), quantized)
    if name in ANALOG:
        np.testing.assert_array_equal(quantized, kernel)


def test_a_kernel_off_the_grid_is_held_as_quantized():
    mapping, kernel = BitSlices(2), cell_mappings.kernel()
    held = mapping.quantize(kernel)
    assert (held != kernel).any()
    assert np.abs(held - kernel).max() <= np.abs(kernel).max() / 127 / 2 * 1.0001
    fault = healthy(mapping, kernel.shape).on(kernel, mapping)
    np.testing.assert_allclose(fault.apply(kernel), held, rtol=1e-6, atol=1e-7)
    assert (fault.mask == 1).all()


STUCK = {"healthy": None, "off": 0.0, "on": 1.0}


def pair(mapping, kernel, plus, minus):
    """The fault of a kernel whose pairs all have these two cells."""
    gain = np.ones((2, *kernel.shape), np.float32)
    offset = np.zeros_like(gain)
    for cell, state in enumerate((plus, minus)):
        if STUCK[state] is not None:
            gain[cell] = 0
            offset[cell] = mapping.g_min + STUCK[state] * (mapping.g_max - mapping.g_min)
    return CellFault(gain, offset).on(kernel, mapping)


# Effective weight of w = +0.3 and w = -0.3 in a kernel whose largest weight is 1.
CLOSED_FORM = {
    ("healthy", "healthy"): (0.3, -0.3),
    ("off", "healthy"): (0.0, -0.3),
    ("healthy", "off"): (0.3, 0.0),
    ("on", "healthy"): (1.0, 0.7),
    ("healthy", "on"): (-0.7, -1.0),
    ("off", "off"): (0.0, 0.0),
    ("on", "on"): (0.0, 0.0),
    ("on", "off"): (1.0, 1.0),
    ("off", "on"): (-1.0, -1.0),
}
CLOSED_FORM_CENTRED = {
    ("healthy", "healthy"): (0.3, -0.3),
    ("off", "healthy"): (-0.35, -0.65),
    ("healthy", "off"): (0.65, 0.35),
    ("on", "healthy"): (0.65, 0.35),
    ("healthy", "on"): (-0.35, -0.65),
    ("off", "off"): (0.0, 0.0),
    ("on", "on"): (0.0, 0.0),
    ("on", "off"): (1.0, 1.0),
    ("off", "on"): (-1.0, -1.0),
}


@pytest.mark.parametrize(
    ("mapping", "table"),
    [
        (DifferentialPair(), CLOSED_FORM),
        (DifferentialPair(g_min=0.0), CLOSED_FORM),
        (CentredPair(g_min=1e-5), CLOSED_FORM_CENTRED),
    ],
    ids=str,
)
def test_the_table_of_one_pair(mapping, table):
    kernel = np.array([0.3, -0.3, 1.0, -1.0, 0.0], np.float32)
    for (plus, minus), expected in table.items():
        found = pair(mapping, kernel, plus, minus).apply(kernel)
        np.testing.assert_allclose(found[:2], expected, atol=1e-6, err_msg=f"{plus}, {minus}")


def test_a_cell_stuck_off_that_should_be_off_is_no_fault():
    kernel = np.array([0.3, -0.3], np.float32)
    assert pair(DifferentialPair(), kernel, "healthy", "off").faulty.tolist() == [False, True]
    assert pair(DifferentialPair(), kernel, "off", "healthy").faulty.tolist() == [True, False]


@pytest.mark.parametrize("name", ANALOG)
def test_the_mask_is_the_derivative_of_the_effective_weight(name):
    """At constant scale, whatever the cells do."""
    mapping, kernel = ANALOG[name], cell_mappings.kernel()
    rng = np.random.default_rng(1)
    cells = CellFault(
        rng.choice([0.0, 0.8, 1.0], (mapping.cells_per_weight, *kernel.shape)).astype(np.float32),
        rng.choice([0.0, 5e-5], (mapping.cells_per_weight, *kernel.shape)).astype(np.float32),
    )
    scale = mapping.scale(kernel)
    step = 1e-3 * np.sign(kernel)
    small = (np.abs(kernel) < 0.9 * scale) & (np.abs(kernel) > 0.01)

    def effective(weights):
        conductances = cells.apply(mapping.conductances(weights, scale).astype(np.float64))
        return mapping.weights(conductances, scale).astype(np.float64)

    slope = (effective(kernel + step) - effective(kernel - step)) / (2 * step)
    mask = cells.on(kernel, mapping).mask
    np.testing.assert_allclose(slope[small], mask[small], atol=2e-3)


def test_slices_of_a_weight_by_hand():
    """127 * 0.5 rounds to 64 = 1000000 in binary: 0, 0, 0, 1 in digits to the base 4."""
    mapping = BitSlices(2, g_min=0.0, g_max=3e-6)
    kernel = np.array([1.0, 0.5, -0.5, 3 / 127], np.float32)
    cells = np.rint(mapping.conductances(kernel) * 1e6).astype(int).T.tolist()
    assert cells == [
        [3, 3, 3, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [3, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert mapping.significances == (1, 4, 16, 64, -1, -4, -16, -64)
    binary = BitSlices(4, "offset_binary", g_min=0.0, g_max=15e-6)
    cells = np.rint(binary.conductances(kernel) * 1e6).astype(int).T.tolist()
    assert cells == [[15, 15], [0, 12], [0, 4], [3, 8]]
    # The digit 1 of significance 64 stuck on is a 3: 128 more, which is more than int8 holds.
    gain = np.ones((8, 4), np.float32)
    offset = np.zeros_like(gain)
    gain[3], offset[3] = 0, 3e-6
    kernel = mapping.quantize(kernel)
    found = CellFault(gain, offset).on(kernel, mapping)
    np.testing.assert_allclose(found.apply(kernel) * 127, [255, 192, 128, 195], rtol=1e-5)
    # Of the 85 * 3 units of the positive cells this one holds 64 * 3.
    np.testing.assert_allclose(found.mask, [21 / 85, 21 / 85, 1, 21 / 85], rtol=1e-6)


def test_scales_of_channels():
    kernel = cell_mappings.kernel((3, 3, 4, 2))
    mapping = DifferentialPair(scaling="channel")
    np.testing.assert_array_equal(
        mapping.scale(kernel), np.abs(kernel).max((0, 1, 2), keepdims=True)
    )
    shape = KernelShape(Crossbar.depthwise(kernel.shape))
    np.testing.assert_array_equal(
        mapping.scale(kernel, shape), np.abs(kernel).max((0, 1), keepdims=True)
    )
    shape = KernelShape(Crossbar.grouped(kernel.shape, 2))
    np.testing.assert_array_equal(mapping.scale(kernel, shape), mapping.scale(kernel))
    assert DifferentialPair().scale(kernel).shape == (1, 1, 1, 1)


def test_weights_beyond_the_scale_saturate():
    for mapping in (DifferentialPair(), CentredPair(), ReferenceColumn(), BitSlices(3)):
        scale = np.float32(0.5)
        held = mapping.weights(mapping.conductances(np.array([2.0, -3.0]), scale), scale)
        np.testing.assert_allclose(held, [0.5, -0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DifferentialPair(g_min=1e-4, g_max=1e-5), ValueError, "g_min < g_max"),
        (lambda: DifferentialPair(g_min=-1e-6), ValueError, "g_min < g_max"),
        (lambda: DifferentialPair(g_max=float("inf")), ValueError, "g_min < g_max"),
        (lambda: DifferentialPair(g_max="high"), TypeError, "siemens"),
        (lambda: CentredPair(scaling="layer"), ValueError, "'tensor', 'channel'"),
        (lambda: BitSlices(5), ValueError, "1 to 4"),
        (lambda: BitSlices(2.0), TypeError, "integer"),
        (lambda: BitSlices(2, "gray"), ValueError, "encoding"),
        (lambda: DifferentialPair().scale(np.array([1, np.nan])), ValueError, "finite"),
        (
            lambda: DifferentialPair().fault(np.ones(3), np.ones((1, 3))),
            ValueError,
            "cells_per_weight",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
