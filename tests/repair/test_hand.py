"""Tests of `keras_rram.repair.hand`."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rram import Chip, StuckAtZero, layers
from keras_rram.faults import (
    BitSlices,
    CentredPair,
    Composed,
    DifferentialPair,
    Fault,
    LognormalVariation,
    ReferenceColumn,
    RowFaults,
    SameCells,
    StuckCells,
)
from keras_rram.repair.hand import Hand, Repaired, responses
from tests.helpers import to_numpy
from tests.repair.test_batch_norm import dense_model

STUCK = StuckCells(stuck_off=0.2, stuck_on=0.2)
MODEL = dense_model()
MODELS = [
    StuckAtZero(0.3),
    RowFaults(0.3),
    STUCK,
    StuckCells(stuck_off=0.1, stuck_on=0.3, mapping=CentredPair()),
    StuckCells(stuck_off=0.1, stuck_on=0.3, mapping=ReferenceColumn()),
    StuckCells(stuck_off=0.2, stuck_on=0.2, mapping=DifferentialPair(scaling="channel")),
    LognormalVariation(0.3),
    SameCells((LognormalVariation(0.2), STUCK)),
    Composed((STUCK, StuckAtZero(0.2))),
]


@pytest.mark.parametrize("fault_model", MODELS, ids=str)
def test_a_response_is_what_the_chip_makes_of_any_weights(fault_model):
    """The oracle is the chip itself, asked with other weights of the same scale."""
    model, chip = dense_model(), Chip(fault_model, seed=2)
    found = responses(model, chip)
    rng = np.random.default_rng(0)
    kernels = {name: to_numpy(model.get_layer(name[:-7]).kernels["kernel"]) for name in found}
    for _ in range(3):
        written = {
            name: kernel * rng.choice([-1, 1], kernel.shape).astype("float32")
            for name, kernel in kernels.items()
        }
        for name, fault in chip.faults(model, written).items():
            expected = fault.apply(written[name])
            np.testing.assert_allclose(found[name].apply(written[name]), expected, atol=1e-5)
            np.testing.assert_allclose(
                found[name].fault(written[name]).apply(written[name]), expected, atol=1e-5
            )


@pytest.mark.parametrize("fault_model", MODELS, ids=str)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_is_written_comes_as_close_as_any_weight_does(fault_model, seed):
    found = responses(MODEL, Chip(fault_model, seed=seed))["one/kernel"]
    rng = np.random.default_rng(seed)
    wanted = rng.normal(size=found.positive.shape) * found.limit
    reached = found.apply(found.write(wanted))
    assert (reached >= found.low - 1e-5).all() and (reached <= found.high + 1e-5).all()
    tries = np.linspace(-1, 1, 201).reshape(-1, 1, 1) * found.limit
    best = np.abs(np.stack([found.apply(np.broadcast_to(t, wanted.shape)) for t in tries]) - wanted)
    step = found.limit / 50 * np.maximum(found.positive, found.negative)
    assert (np.abs(reached - wanted) <= best.min(0) + step + 1e-5).all()


def test_a_pair_with_a_cell_stuck_on_still_holds_weights_of_one_sign():
    """By hand: G+ stuck on, so that the weight is `s - G-`, from 0 to `s`."""
    model = dense_model()
    chip = Chip(StuckCells(stuck_on=0.3), seed=1)
    found = responses(model, chip)["one/kernel"]
    limit = float(found.limit.max())
    one_on = (found.low == 0) & np.isclose(found.high, limit)
    assert one_on.any()
    np.testing.assert_allclose(
        found.apply(found.write(np.full(found.low.shape, 0.25 * limit)))[one_on], 0.25 * limit,
        rtol=1e-5,
    )  # fmt: skip


def test_without_faults_nothing_changes():
    model = dense_model()
    for response in responses(model, Chip(StuckAtZero(0.0))).values():
        kernel = np.random.default_rng(0).uniform(-1, 1, response.low.shape) * response.limit
        np.testing.assert_allclose(response.write(kernel), kernel, rtol=1e-6)
        np.testing.assert_array_equal(response.fault(kernel).mask, 1)


def test_measured_chips_and_scales_of_healthy_weights():
    model = dense_model()
    mask = np.zeros((5, 6), "float32")
    mask[:2] = 0.5
    chip = Chip(measured={"one/kernel": Fault(mask, 0.1 * (1 - mask))})
    found = responses(model, chip)
    kernel = to_numpy(model.get_layer("one").kernels["kernel"])
    np.testing.assert_allclose(
        found["one/kernel"].apply(kernel), kernel * mask + 0.1 * (1 - mask), rtol=1e-6
    )
    np.testing.assert_array_equal(found["head/kernel"].positive, 1)
    scaled = keras.Sequential(
        [
            keras.Input((5,)),
            layers.DropConnectDense(
                6, drop_connect=layers.DropConnect(0.5, rescale=True), name="one"
            ),
        ]
    )
    gains = responses(scaled, Chip(StuckAtZero(0.5)))["one/kernel"].positive
    assert set(np.unique(gains)) == {0.0, 2.0}


def test_slices_are_refused():
    with pytest.raises(ValueError, match="more than the signs"):
        responses(dense_model(), Chip(StuckCells(stuck_off=0.3, mapping=BitSlices())))


def test_a_hand_writes_what_the_chip_makes_of_it_and_gives_the_healthy_model():
    model, chip = dense_model(), Chip(STUCK, seed=3)
    trained = to_numpy(model.get_layer("one").kernels["kernel"])
    with chip.program(model):
        before = Repaired(model)
        hand = Hand(model, chip, before)
        hand.write("one/kernel", -trained)
        effective = to_numpy(model.get_layer("one").effective_kernel())
        expected = chip.faults(model)["one/kernel"].apply(-trained)
        np.testing.assert_allclose(effective, expected, atol=1e-5)
        with hand.healthy():
            np.testing.assert_array_equal(
                to_numpy(model.get_layer("one").effective_kernel()), trained
            )
        np.testing.assert_array_equal(
            to_numpy(model.get_layer("one").effective_kernel()), effective
        )
        before.restore()
        np.testing.assert_array_equal(to_numpy(model.get_layer("one").kernels["kernel"]), trained)
    assert set(Hand(model, None, Repaired(model)).responses) == set(chip.faults(model))
    with chip.program(model), pytest.raises(ValueError, match="needs"):
        _ = Hand(model, None, Repaired(model)).responses
