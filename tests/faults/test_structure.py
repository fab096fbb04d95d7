import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from keras_rram.faults import (
    ClusteredFaults,
    ColumnFaults,
    Crossbar,
    DifferentialPair,
    FaultModel,
    KernelShape,
    RowFaults,
    SpreadFaults,
    StuckAtZero,
    parse,
    spec,
)

TILE = (8, 6)
# Both have partial tiles at their ends.
DENSE = KernelShape(Crossbar.dense((2, 5, 20)))
DEPTHWISE = KernelShape(Crossbar.depthwise((3, 3, 7, 2)))
SHAPES = [DENSE, DEPTHWISE]
MODELS = {
    "rows": lambda rate: RowFaults(rate, tile=TILE),
    "columns": lambda rate: ColumnFaults(rate, tile=TILE),
    "spread": lambda rate: SpreadFaults(rate, 3.0, tile=TILE),
    "clusters": lambda rate: ClusteredFaults(rate, 1.5, tile=TILE),
    "exact clusters": lambda rate: ClusteredFaults(rate, 1.5, exact=True, tile=TILE),
}
RATES = st.floats(0.0, 0.99)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15, deadline=None)
@given(
    rates=st.tuples(RATES, RATES),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    seed=st.integers(0, 99),
)
def test_masks_are_binary_replayable_and_nested(name, rates, shape, seed):
    low, high = (MODELS[name](rate).sample(shape, rng(seed)).mask for rate in sorted(rates))
    assert low.shape == shape and low.dtype == np.float32
    assert np.isin(low, (0, 1)).all()
    assert (high <= low).all()
    again = MODELS[name](min(rates)).sample(shape, rng(seed)).mask
    np.testing.assert_array_equal(low, again)


def correlations(name, shape, rate):
    """The correlation of any two weights being faulty, by hand."""
    crossbar = Crossbar.of(shape)
    row, column = (np.broadcast_to(i, crossbar.split).ravel() for i in crossbar.positions())
    tile_row, tile_column = row // TILE[0], column // TILE[1]

    def same(*values):
        return np.all([value[:, None] == value for value in values], axis=0)

    if name == "rows":
        return same(row, tile_column) * 1.0
    if name == "columns":
        return same(column, tile_row) * 1.0
    return np.where(np.eye(len(row)), 1, same(tile_row, tile_column) / (3.0 + 1))


@pytest.mark.parametrize("shape", SHAPES, ids=["dense", "depthwise"])
@pytest.mark.parametrize("name", MODELS)
def test_the_mean_rate_is_matched_in_every_weight(name, shape):
    """Partial tiles included; and the variance of the count is that of the correlations."""
    rate, chips = 0.2, 1500
    masks = np.stack([MODELS[name](rate).sample(shape, rng(seed)).mask for seed in range(chips)])
    faulty = 1 - masks.reshape(chips, -1)
    deviations = (faulty.mean(axis=0) - rate) / np.sqrt(rate * (1 - rate) / chips)
    assert np.abs(deviations).max() < 4.8 + (name == "exact clusters")
    counts = faulty.sum(axis=1)
    if name == "exact clusters":
        assert set(counts) == {round(rate * masks[0].size)}
        return
    error = np.std(counts) / np.sqrt(chips)
    assert abs(counts.mean() - rate * masks[0].size) < 4 * error
    if name == "clusters":
        assert np.var(counts) > 2 * rate * (1 - rate) * masks[0].size
        return
    expected = rate * (1 - rate) * correlations(name, shape, rate).sum()
    assert expected > rate * (1 - rate) * masks[0].size
    kurtosis = np.mean((counts - counts.mean()) ** 4) / np.var(counts) ** 2
    assert abs(np.var(counts) / expected - 1) < 4.5 * np.sqrt((kurtosis - 1) / chips)


def test_a_failed_word_line_takes_its_part_of_one_tile():
    mask = RowFaults(0.3, tile=TILE).sample((10, 20), rng(1)).mask
    for left in range(0, 20, 6):
        part = mask[:, left : left + 6]
        assert (part == part[:, :1]).all()
    assert not (mask == mask[:, :1]).all()


def test_a_failed_bit_line_takes_a_channel_of_a_depthwise_kernel():
    shape = KernelShape(Crossbar.depthwise((3, 3, 40, 1)))
    mask = ColumnFaults(0.3, tile=512).sample(shape, rng(1)).mask[..., 0]
    assert (mask == mask[:1, :1]).all()
    assert 0 < mask[0, 0].sum() < 40
    # A word line has one channel's weight of one position: they are independent.
    np.testing.assert_array_equal(np.unique(RowFaults(0.3).sample(shape, rng(1)).mask), [0, 1])
    assert not (RowFaults(0.3).sample(shape, rng(1)).mask[..., 0] == mask).all()


def test_rates_of_tiles_are_beta():
    model = SpreadFaults(0.2, 4.0, tile=(40, 40))
    rates = [1 - model.sample((40, 40), rng(seed)).mask.mean() for seed in range(600)]
    expected = beta(0.8, 3.2)
    assert abs(np.mean(rates) - 0.2) < 4 * expected.std() / np.sqrt(600)
    # Quantiles, but for the binomial spread of 1,600 weights.
    for share in (0.1, 0.5, 0.9):
        assert abs(np.mean(np.array(rates) < expected.ppf(share)) - share) < 0.06


def test_alike_tiles_are_independent_faults():
    spread = SpreadFaults(0.2, 1e12).sample((40, 40), rng(5)).mask
    np.testing.assert_array_equal(spread, StuckAtZero(0.2).sample((40, 40), rng(5)).mask)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_fault_models_that_serialize(name):
    model = MODELS[name](0.25)
    assert isinstance(model, FaultModel)
    assert parse(spec(model)) == model
    assert hash(model) == hash(MODELS[name](0.25))
    assert MODELS[name](0.0).sample((9, 13), rng()).rate == 0


@pytest.mark.parametrize("name", MODELS)
def test_bad_arguments_are_errors(name):
    kind = type(MODELS[name](0.1))
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"`rate` must be"):
            kind(rate)
    with pytest.raises(TypeError, match="`rate` must be a number"):
        kind("0.1")
    with pytest.raises(ValueError, match="`tile` must be"):
        kind(0.1, tile=(0, 8))
    assert kind(0.1, tile=8).tile == (8, 8)


def test_bad_concentrations_and_lengths_are_errors():
    for make in (SpreadFaults, ClusteredFaults):
        with pytest.raises(ValueError, match="must be a number > 0"):
            make(0.1, 0.0)
        with pytest.raises(ValueError, match="must be a number > 0"):
            make(0.1, float("inf"))
        with pytest.raises(TypeError, match="must be a number > 0"):
            make(0.1, "4")


@pytest.mark.parametrize("stuck", ["off", "on", "open"])
def test_a_lost_bit_line_costs_one_cell_of_each_pair(stuck):
    pair = DifferentialPair()
    kernel = rng(0).normal(size=(10, 8)).astype("float32")
    model = ColumnFaults(0.3, tile=(5, 6), mapping=pair, stuck=stuck)
    fault = model.sample((10, 8), rng(3), kernel)
    # The bit lines of the pairs, in the order of the crossbar, and the same draws.
    lost = ColumnFaults(0.3, tile=(5, 6)).faulty((10, 16), rng(3)).reshape(10, 8, 2)
    cells = pair.conductances(kernel)
    level = {"off": pair.g_min, "on": pair.g_max, "open": 0.0}[stuck]
    cells = np.where(np.moveaxis(lost, -1, 0), level, cells)
    expected = pair.weights(cells, pair.scale(kernel))
    np.testing.assert_allclose(fault.apply(kernel), expected, atol=1e-5)
    assert (lost[..., 0] != lost[..., 1]).any()


def test_a_lost_word_line_of_off_cells_is_that_of_weights():
    kernel = rng(0).normal(size=(20, 9)).astype("float32")
    weights = RowFaults(0.3, tile=(8, 6)).sample((20, 9), rng(1), kernel)
    cells = RowFaults(0.3, tile=(8, 12), mapping="differential_pair").sample(
        (20, 9), rng(1), kernel
    )
    np.testing.assert_allclose(cells.apply(kernel), weights.apply(kernel), atol=1e-6)
    assert weights.rate > 0


@pytest.mark.parametrize("name", MODELS)
def test_cells_at_rate_zero_are_the_weights_and_models_serialize(name):
    kernel = rng(0).normal(size=DEPTHWISE).astype("float32")
    for mapping in ("differential_pair", "centred_pair", "reference_column"):
        model = dataclasses.replace(MODELS[name](0.0), mapping=mapping, stuck="on")
        assert model.needs_kernel and not MODELS[name](0.1).needs_kernel
        np.testing.assert_array_equal(model.sample(DEPTHWISE, rng(), kernel).apply(kernel), kernel)
        assert parse(spec(model)) == model


def test_bad_cells_are_errors():
    with pytest.raises(ValueError, match="`mapping` must be"):
        RowFaults(0.1, mapping="triple")
    with pytest.raises(ValueError, match="needs a `mapping`"):
        RowFaults(0.1, stuck="on")
    with pytest.raises(ValueError, match="`stuck` must be"):
        RowFaults(0.1, mapping="differential_pair", stuck="high")
    with pytest.raises(ValueError, match="expected the kernel"):
        RowFaults(0.1, mapping="differential_pair").sample((3, 3), rng())
    with pytest.raises(ValueError, match="with a `mapping`"):
        RowFaults(0.1).cells((3, 3), rng())
