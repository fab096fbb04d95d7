import hashlib

import keras
import numpy as np
import pytest

from keras_rram import Chip
from keras_rram.faults import (
    BitSlices,
    CentredPair,
    DifferentialPair,
    FaultModel,
    FiniteOnOff,
    LognormalVariation,
    ReferenceColumn,
    SameCells,
    StuckAtValues,
    StuckCells,
    at_rate,
    parse,
    spec,
)
from keras_rram.layers import DropConnectDense
from tests import cell_mappings
from tests.cell_mappings import MAPPINGS


def rng(seed=0):
    return np.random.default_rng(seed)


def states(model, shape=(40, 50), seed=0):
    """-1 where a cell is stuck off, 1 where it is stuck on, 0 where it is healthy."""
    cells = model.cells(shape, rng(seed))
    is_on = cells.offset > (model.mapping.g_min + model.mapping.g_max) / 2
    return np.where(cells.gain == 1, 0, np.where(is_on, 1, -1))


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_dense_layer_on_a_chip_agrees_with_a_simulation_of_its_currents(name):
    """Stuck cells, some at a measured value, on cells that vary, against plain NumPy."""
    mapping = MAPPINGS[name]
    layer = DropConnectDense(9, use_bias=False, drop_connect=0.0, name="dense")
    network = keras.Sequential([keras.Input((20,)), layer])
    kernel = mapping.quantize(cell_mappings.kernel())
    layer.kernels["kernel"].assign(kernel)
    stuck = StuckCells(0.1, 0.05, off_conductance=3e-6, mapping=mapping)
    model = SameCells((LognormalVariation(0.1, mapping=mapping), stuck))
    inputs = rng(1).normal(size=(8, 20)).astype(np.float32)
    with Chip(model, seed=4, index=2).program(network):
        found = keras.ops.convert_to_numpy(network(inputs))
    # The documented derivation of the chip's and of each model's generator.
    digest = hashlib.sha256(b"dense/kernel").digest()
    words = [int.from_bytes(digest[4 * i : 4 * i + 4], "little") for i in range(4)]
    chip = np.random.default_rng([4, 2, *words])
    first, second = (
        np.random.default_rng(chip.integers(1 << 32, size=4, dtype=np.uint32).tolist())
        for _ in range(2)
    )
    conductances = cell_mappings.programmed(mapping, kernel)
    theta = 0.1 * first.standard_normal(conductances.shape, dtype=np.float32)
    conductances = conductances * np.exp(theta.astype(float))
    draws = second.random(conductances.shape, dtype=np.float32)
    conductances[draws < 0.1] = 3e-6
    conductances[draws >= 0.95] = mapping.g_max
    expected = cell_mappings.layer(mapping, kernel, conductances, inputs)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_rates_of_cells():
    found = states(StuckCells(0.0904, 0.0175), (300, 400))
    cells = found.size
    for state, share in ((-1, 0.0904), (1, 0.0175)):
        error = (share * (1 - share) / cells) ** 0.5
        assert abs(np.mean(found == state) - share) < 5 * error


@pytest.mark.parametrize(
    ("mapping", "changed"),
    [
        (DifferentialPair(), 1 - (1 - 0.15) * (1 - 0.05)),
        (CentredPair(), 1 - (1 - 0.15) ** 2),
        (ReferenceColumn(), 0.15),
    ],
)
def test_shares_of_changed_weights_and_the_mean_mask(mapping, changed):
    model = StuckCells(0.1, 0.05, mapping=mapping)
    kernel = cell_mappings.kernel((300, 300))
    fault = model.sample(kernel.shape, rng(), kernel)
    assert abs(fault.rate - changed) < 5 * (changed * (1 - changed) / kernel.size) ** 0.5
    # What rescaling divides by.
    assert abs(fault.mask.mean() - (1 - model.rate)) < 5 * (0.15 * 0.85 / kernel.size) ** 0.5


def test_cells_are_nested():
    low, high = states(StuckCells(0.05, 0.02)), states(StuckCells(0.2, 0.08))
    assert (high[low != 0] == low[low != 0]).all()
    assert (high != 0).sum() > (low != 0).sum() > 0
    values = (0.0, 1e-5, 9e-5)
    low, high = (StuckAtValues(rate, values).cells((30, 30), rng()) for rate in (0.1, 0.3))
    stuck = low.gain == 0
    assert stuck.any() and (high.gain[stuck] == 0).all()
    np.testing.assert_array_equal(high.offset[stuck], low.offset[stuck])


def test_another_rate_keeps_the_proportions():
    model = StuckCells(0.0904, 0.0175)
    assert model.rate == 0.1079
    double = at_rate(model, 0.2158)
    assert double.rate == 0.2158
    assert double.stuck_off == pytest.approx(0.1808)
    assert model.with_rate(0.1079) is model
    assert model.with_rate(0.0) == StuckCells(0.0, 0.0)
    with pytest.raises(ValueError, match="proportions"):
        StuckCells().with_rate(0.1)
    both = SameCells((LognormalVariation(0.1), StuckCells(0.1)))
    assert both.rate == 0.1
    assert at_rate(both, 0.2) == SameCells((LognormalVariation(0.1), StuckCells(0.2)))
    with pytest.raises(ValueError, match="exactly one"):
        SameCells((StuckCells(0.1), StuckCells(0.1))).with_rate(0.2)


def test_published_rates_in_both_polarities():
    assert StuckCells.published("on") == StuckCells(stuck_off=0.0175, stuck_on=0.0904)
    found = StuckCells.published("off", mapping="centred_pair")
    assert (found.stuck_off, found.stuck_on, found.mapping) == (0.0904, 0.0175, CentredPair())
    with pytest.raises(ValueError, match="'on' or 'off'"):
        StuckCells.published("SA0")


def test_open_cells_cost_what_the_off_current_was_worth():
    """A pair with w > 0 and G- open: (G+ - 0) is more than the weight by s g_min / span."""
    mapping = DifferentialPair(g_min=1e-5, g_max=1.1e-4)
    model = StuckCells(0.999999, off_conductance=0.0, mapping=mapping)
    kernel = np.array([0.5, -1.0], np.float32)
    np.testing.assert_allclose(model.sample((2,), rng(), kernel).apply(kernel), 0, atol=1e-6)
    cells = model.cells((2,), rng())
    cells.gain[0], cells.offset[0] = 1, 0
    np.testing.assert_allclose(cells.on(kernel, mapping).apply(kernel), [0.6, 0.1], rtol=1e-5)


@pytest.mark.parametrize("kind", [np.asarray, list, tuple])
def test_values_as_they_were_measured_are_taken(kind):
    """A file of measurements is an array: its chips can be saved, which a text must say."""
    model = StuckAtValues(0.1, kind(np.array([0.0, 1e-5, 9e-5])))
    assert model.values == (0.0, 1e-5, 9e-5)
    assert parse(spec(model)) == model and hash(model) == hash(parse(spec(model)))


def test_measured_values_are_equally_likely():
    values = (0.0, 1e-5, 1e-5, 9e-5)
    cells = StuckAtValues(0.5, values).cells((200, 200), rng())
    found = cells.offset[cells.gain == 0]
    for value, share in ((0.0, 0.25), (1e-5, 0.5), (9e-5, 0.25)):
        assert abs(np.mean(found == np.float32(value)) - share) < 0.02
    assert (cells.offset[cells.gain == 1] == 0).all()


def test_the_same_cells_after_a_change_of_sign():
    """The cells belong to the chip: the fault of other weights is that of a fresh programming."""
    model = StuckCells(0.2, 0.1)
    kernel = cell_mappings.kernel()
    cells = model.cells(kernel.shape, rng(3))
    for weights in (kernel, -kernel, 2 * kernel):
        fresh = model.sample(kernel.shape, rng(3), weights)
        np.testing.assert_array_equal(
            cells.on(weights, model.mapping).apply(weights), fresh.apply(weights)
        )
    flipped = cells.on(-kernel, model.mapping)
    assert (flipped.mask != cells.on(kernel, model.mapping).mask).any()


def test_cells_in_order():
    first = StuckCells(0.3).cells((5, 4), rng(1))
    second = LognormalVariation(0.5).cells((5, 4), rng(2))
    conductances = rng(3).random((2, 5, 4))
    for one, other in ((first, second), (second, first), (second, second), (first, first)):
        np.testing.assert_allclose(
            one.then(other).apply(conductances), other.apply(one.apply(conductances)), rtol=1e-6
        )


MODELS = [
    StuckCells(0.1, 0.02, mapping=CentredPair(g_min=0.0, scaling="channel")),
    StuckCells(0.1, off_conductance=0.0, mapping=BitSlices(3, "offset_binary")),
    StuckAtValues(0.1, (0.0, 2e-5)),
    SameCells((LognormalVariation(0.1), StuckCells(0.1))),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_serialization_round_trip(model):
    assert isinstance(model, FaultModel)
    found = parse(spec(model))
    assert found == model and hash(found) == hash(model)


def test_mappings_by_name():
    assert StuckCells(0.1, mapping="reference_column").mapping == ReferenceColumn()
    with pytest.raises(ValueError, match="differential_pair"):
        StuckCells(0.1, mapping="triple")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: StuckCells(0.6, 0.4), ValueError, r"`stuck_off` \+ `stuck_on`"),
        (lambda: StuckCells(-0.1), ValueError, "`stuck_off` must be in"),
        (lambda: StuckCells(stuck_on="few"), TypeError, "`stuck_on`"),
        (lambda: StuckCells(0.1, on_conductance=-1e-6), ValueError, "`on_conductance`"),
        (lambda: StuckAtValues(0.1, ()), ValueError, "`values`"),
        (lambda: StuckAtValues(0.1, (np.inf,)), ValueError, "`values`"),
        (lambda: StuckAtValues(1.0, (1e-6,)), ValueError, "`rate`"),
        (lambda: SameCells((StuckCells(0.1),)), ValueError, "two or more"),
        (
            lambda: SameCells((StuckCells(0.1), StuckCells(0.1, mapping="centred_pair"))),
            ValueError,
            "one mapping",
        ),
        (lambda: SameCells((StuckCells(0.1), FiniteOnOff(9.0))), TypeError, "models of cells"),
        (lambda: StuckCells(0.1).sample((3,), rng()), ValueError, "kernel=None"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
