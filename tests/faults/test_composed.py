"""Compositions, against the arithmetic of single weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rram.faults import (
    Composed,
    Fault,
    LognormalVariation,
    RowFaults,
    StuckAtZero,
    StuckCells,
)
from keras_rram.faults.composed import in_turn

KERNEL = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)


def by_hand(weight, faults):
    """What becomes of one weight: (mask, offset) pairs in turn, until one sticks it."""
    held, is_stuck = weight, False
    for mask, offset in faults:
        if mask == 0:
            held, is_stuck = offset, True
        elif not is_stuck:
            held = held * mask + offset
    return held


def parts_of(composed, kernel, key):
    rng = np.random.default_rng(key)
    for model in composed.models:
        words = rng.integers(1 << 32, size=4, dtype=np.uint32).tolist()
        yield model.sample(kernel.shape, np.random.default_rng(words), kernel)


@pytest.mark.parametrize(
    "composed",
    [
        Composed((StuckAtZero(0.3), LognormalVariation(0.3))),
        Composed((LognormalVariation(0.3), StuckAtZero(0.3))),
        Composed((StuckCells(0.2, 0.2), LognormalVariation(0.3), RowFaults(0.2, tile=8))),
        Composed((StuckCells(0.2, 0.2), StuckCells(0.1, 0.3, mapping="centred_pair"))),
        Composed((StuckAtZero(0.3), RowFaults(0.2, tile=8))),
    ],
    ids=["lost, varied", "varied, lost", "stuck, varied, rows", "stuck twice", "lost twice"],
)
def test_a_composition_is_its_parts_weight_by_weight(composed):
    fault = composed.sample(KERNEL.shape, np.random.default_rng(5), KERNEL)
    parts = list(parts_of(composed, KERNEL, 5))
    expected = np.zeros(KERNEL.shape)
    for place in np.ndindex(KERNEL.shape):
        pairs = [
            (part.mask[place], 0.0 if part.offset is None else part.offset[place]) for part in parts
        ]
        expected[place] = by_hand(float(KERNEL[place]), pairs)
    np.testing.assert_allclose(fault.apply(KERNEL), expected, atol=1e-5)


def test_a_lost_weight_does_not_vary():
    """Neither cells that vary nor their floor gives back what reads as zero."""
    composed = Composed((StuckAtZero(0.5), LognormalVariation(0.5)))
    fault = composed.sample(KERNEL.shape, np.random.default_rng(1), KERNEL)
    lost = next(parts_of(composed, KERNEL, 1)).mask == 0
    assert 0.4 < lost.mean() < 0.6
    np.testing.assert_array_equal(fault.apply(KERNEL)[lost], 0)
    assert (fault.apply(KERNEL)[~lost] != KERNEL[~lost]).all()


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.5, 1.0, 1.25]), st.none() | st.sampled_from([0.0, -0.5, 2.0])
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([-1.0, 0.0, 0.75]),
)
def test_any_faults_in_turn(pairs, weight):
    def full(value):
        return None if value is None else np.full((2, 3), value, np.float32)

    joined = in_turn([Fault(full(mask), full(offset)) for mask, offset in pairs])
    found = joined.apply(full(weight))
    assert found.dtype == np.float32
    expected = by_hand(weight, [(mask, offset or 0.0) for mask, offset in pairs])
    np.testing.assert_array_equal(found, np.float32(expected))
