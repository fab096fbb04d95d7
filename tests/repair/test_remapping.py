"""Tests of `keras_rram.repair.remapping` and `keras_rram.repair.spare_columns`."""

import itertools

import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero
from keras_rram.faults import ColumnFaults, Crossbar, StuckCells
from keras_rram.repair.hand import Response, responses
from keras_rram.repair.patches import matrices
from keras_rram.repair.remapping import Layout, Remapping
from keras_rram.repair.spare_columns import SpareColumns
from tests.helpers import to_numpy
from tests.repair.networks import images, network

PAIRS = StuckCells(stuck_off=0.05, stuck_on=0.15)


def response(mask):
    mask = np.asarray(mask, "float32")
    return Response(mask, mask, np.zeros_like(mask), np.full((1, 1), 10.0, "float32"))


def random_layout(sizes, rng, tile_rows=2):
    groups, rows, columns = sizes
    row = np.stack([rng.permutation(rows) for _ in range(groups)])
    by_tile = rng.choice([-1, 1], (groups, -(-rows // tile_rows), columns))
    signs = np.stack([by_tile[g, row[g] // tile_rows] for g in range(groups)])
    column = np.stack([rng.permutation(columns) for _ in range(groups)])
    return Layout(rng.permutation(groups), row, column, signs)


@pytest.mark.parametrize("sizes", [(1, 7, 4), (5, 3, 1), (2, 6, 3)])
def test_without_faults_a_layer_computes_the_same_in_any_layout(sizes):
    """The crossbar by NumPy: inputs on their rows, sums per tile, outputs with their signs."""
    rng = np.random.default_rng(0)
    layout, kernel = random_layout(sizes, rng), rng.normal(size=sizes)
    x = rng.normal(size=(9, *sizes[:2]))
    cells = layout.written(kernel)
    outputs = np.zeros((9, sizes[0], sizes[2]))
    for g, place in enumerate(layout.groups):
        lines = np.zeros((9, sizes[1]))
        lines[:, layout.rows[g]] = x[:, g]
        for top in range(0, sizes[1], 2):
            sums = lines[:, top : top + 2] @ cells[place, top : top + 2]
            inside = np.flatnonzero(layout.rows[g] // 2 == top // 2)[0]
            outputs[:, g] += sums[:, layout.columns[g]] * layout.signs[g, inside]
    np.testing.assert_allclose(outputs, np.einsum("ngr,grc->ngc", x, kernel), atol=1e-5)
    np.testing.assert_array_equal(layout.read(cells), kernel)


def test_the_function_is_unchanged_without_faults():
    model, data, chip = network(), images(), Chip(StuckAtZero(0.0))
    expected = to_numpy(model(data, training=False))
    for repair in (Remapping(), SpareColumns(2)):
        with chip.program(model), repair(model, chip):
            found = to_numpy(model(data, training=False))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_a_layout_sees_is_what_the_faulty_crossbar_computes():
    """Cells stuck on, moved weights and swapped pairs, against the cells of the crossbar."""
    model, chip = network(), Chip(PAIRS, seed=2)
    layer = model.get_layer("conv")
    kernel = to_numpy(layer.kernels["kernel"])
    plain = responses(model, chip)["conv/kernel"]
    crossbar = Crossbar.dense(kernel.shape)
    layout = random_layout(matrices(crossbar, kernel).shape, np.random.default_rng(1), 18)
    seen = matrices(crossbar, layout.seen(plain, crossbar).apply(kernel))
    cells = layout.written(matrices(crossbar, kernel))
    on_chip = matrices(crossbar, plain.apply(cells.reshape(kernel.shape)))
    np.testing.assert_allclose(seen, layout.read(on_chip), atol=1e-6)


def test_lost_places_get_the_least_weights():
    """By hand: two of six places are lost, in a column of its own; polarity cannot help."""
    kernel = np.array([[0.1], [-3.0], [2.0], [-0.2], [1.0], [0.5]], "float32")
    mask = [[1], [0], [0], [1], [1], [1]]
    layout = Remapping().layout(kernel, response(mask), Crossbar.dense((6, 1)))
    assert set(layout.rows[0, [0, 3]]) == {1, 2}
    kept = layout.seen(response(mask), Crossbar.dense((6, 1))).apply(kernel)
    np.testing.assert_allclose(kept.ravel(), [0, -3.0, 2.0, 0, 1.0, 0.5])


@pytest.mark.parametrize("seed", range(5))
def test_the_cost_is_never_far_from_the_best_of_all_permutations(seed):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(5, 3)).astype("float32")
    mask = (rng.random((5, 3)) > 0.4).astype("float32")
    worth = 1 / (kernel**2).sum(0)

    def cost(rows, columns):
        return ((kernel**2 * worth) * (1 - mask[np.ix_(rows, columns)])).sum()

    best = min(
        cost(list(rows), list(columns))
        for rows in itertools.permutations(range(5))
        for columns in itertools.permutations(range(3))
    )
    layout = Remapping(rounds=5).layout(kernel, response(mask), Crossbar.dense((5, 3)))
    found = cost(layout.rows[0], layout.columns[0])
    assert best - 1e-6 <= found <= cost(range(5), range(3)) + 1e-6
    assert found <= best + 0.5 * (cost(range(5), range(3)) - best) + 1e-6


def test_pairs_are_swapped_where_that_holds_more():
    """By hand: no cell for negative weights works, and all weights are negative."""
    kernel = np.array([[-1.0, 1.0], [-2.0, 2.0]], "float32")
    ones = np.ones((2, 2), "float32")
    pair = Response(ones, 0 * ones, 0 * ones, 2 * ones)
    for polarity, left in ((True, 0.0), (False, 5.0)):
        repair = Remapping(rounds=1, polarity=polarity)
        layout = repair.layout(kernel, pair, Crossbar.dense((2, 2)))
        seen = layout.seen(pair, Crossbar.dense((2, 2)))
        assert ((seen.apply(seen.write(kernel)) - kernel) ** 2).sum() == pytest.approx(left)


def errors(model, chip, *repairs):
    found = []
    trained = {
        layer.name: to_numpy(layer.kernels["kernel"])
        for layer in model.layers
        if hasattr(layer, "fault_masks")
    }
    for repair in repairs:
        with chip.program(model), repair(model, chip):
            found.append(
                sum(
                    ((to_numpy(model.get_layer(n).effective_kernel()) - k) ** 2).sum()
                    for n, k in trained.items()
                )
            )
    return found


def test_each_liberty_brings_weights_closer():
    model = network()
    for index in range(3):
        chip = Chip(PAIRS, seed=1, index=index)
        plain = sum(
            ((fault.apply(k) - k) ** 2).sum()
            for name, fault in chip.faults(model).items()
            for k in [to_numpy(model.get_layer(name.partition("/")[0]).kernels["kernel"])]
        )
        written, moved, swapped = errors(
            model, chip, Remapping(0), Remapping(polarity=False), Remapping()
        )
        assert plain > 1.5 * written > 1.5 * moved
        assert swapped < moved * 1.05


def test_spare_columns_take_over_the_worst():
    model, chip = network(), Chip(ColumnFaults(0.3), seed=3)
    none, few, many = errors(model, chip, Remapping(0), SpareColumns(1), SpareColumns(20))
    assert none > few > many
    with pytest.raises(ValueError, match="measured"):
        measured = Chip(measured=chip.faults(model))
        with measured.program(model):
            SpareColumns(1)(model, measured)


def test_options():
    with pytest.raises(ValueError, match="rounds"):
        Remapping(rounds=-1)
    with pytest.raises(ValueError, match="columns"):
        SpareColumns(0)
    model = network()
    with Chip(PAIRS).program(model), pytest.raises(ValueError, match="needs"):
        Remapping()(model)
