import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_rram import Chip
from keras_rram.faults import (
    NAMES,
    BitSlices,
    CentredPair,
    ClusteredFaults,
    Composed,
    DifferentialPair,
    Drift,
    Fault,
    FiniteOnOff,
    LognormalVariation,
    ReferenceColumn,
    RowFaults,
    SameCells,
    StuckAtValues,
    StuckAtZero,
    StuckCells,
    parse,
    spec,
)
from keras_rram.faults.cells import MAPPINGS
from keras_rram.faults.text import describe

RATES = st.floats(0.0, 0.4)
RANGES = {"g_min": st.floats(0.0, 1e-6), "g_max": st.floats(2e-6, 1e-3)}
RANGES |= {"scaling": st.sampled_from(["tensor", "channel"])}
MADE = st.one_of(
    st.sampled_from(list(MAPPINGS.values())),
    st.builds(DifferentialPair, **RANGES),
    st.builds(CentredPair, **RANGES),
    st.builds(ReferenceColumn, **RANGES),
    st.builds(
        BitSlices, st.integers(1, 4), st.sampled_from(["differential", "offset_binary"]), **RANGES
    ),
)
SINGLE = st.one_of(
    st.builds(StuckAtZero, RATES, st.booleans()),
    st.builds(RowFaults, RATES, tile=st.tuples(st.integers(1, 300), st.integers(1, 300))),
    st.builds(ClusteredFaults, RATES, st.floats(0.5, 20.0)),
    st.builds(
        StuckAtValues, RATES, st.lists(st.floats(0.0, 1e-3), min_size=1, max_size=4).map(tuple)
    ),
    st.builds(StuckCells, RATES, RATES, st.none() | st.floats(0.0, 1e-3), mapping=MADE),
    st.builds(FiniteOnOff, st.floats(1.5, 100.0), mapping=MADE),
    MADE.map(
        lambda mapping: SameCells(
            (LognormalVariation(0.25, mapping=mapping), StuckCells(0.1, mapping=mapping))
        )
    ),
)


@given(st.lists(SINGLE, min_size=1, max_size=3))
def test_what_is_written_is_read_back(models):
    model = models[0] if len(models) == 1 else Composed(tuple(models))
    assert parse(spec(model)) == model


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("stuck_at_zero:rate=0.1", StuckAtZero(0.1)),
        (" stuck_at_zero : rate = 0.1 , exact = true ", StuckAtZero(0.1, exact=True)),
        ("differential_pair:stuck_off=0.0904,stuck_on=0.0175", StuckCells(0.0904, 0.0175)),
        ("stuck_at_values:rate=0.1,values=2e-6", StuckAtValues(0.1, (2e-6,))),
        ("stuck_at_values:rate=0.1,values=0/2e-6/1", StuckAtValues(0.1, (0, 2e-6, 1))),
        (
            "drift:seconds=60,nu=0.05,mapping=bit_slices(bits=4, encoding=offset_binary)",
            Drift(60, 0.05, mapping=BitSlices(4, "offset_binary")),
        ),
        ("finite_on_off:ratio=4,mapping=centred_pair()", FiniteOnOff(4, mapping=CentredPair())),
        (
            "lognormal_variation:sigma=0.1&differential_pair:stuck_off=0.02+stuck_at_zero:rate=0.1",
            Composed(
                (SameCells((LognormalVariation(0.1), StuckCells(0.02))), StuckAtZero(0.1)),
            ),
        ),
        (
            "stuck_at_zero:rate=0.1+row_faults:rate=0.05,tile=64x64",
            Composed((StuckAtZero(0.1), RowFaults(0.05, tile=(64, 64)))),
        ),
    ],
)
def test_reads_flags(text, model):
    assert parse(text) == model


def test_a_rate_of_the_sweep_replaces_or_supplies_the_models_own():
    assert parse("stuck_at_zero", rate=0.2) == StuckAtZero(0.2)
    with pytest.raises(ValueError, match="needs rate"):  # which says nothing of the proportions
        parse("stuck_at_zero+row_faults", rate=0.2)
    assert parse("stuck_at_zero:rate=0.1,exact=true", rate=0.2) == StuckAtZero(0.2, exact=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the name of a fault model"),
        ("stuck_at_zro:rate=0.1", "did you mean 'stuck_at_zero'"),
        ("stuck_at_zero", "needs rate"),
        ("stuck_at_zero:rat=0.1", "has no key 'rat'.*did you mean 'rate'"),
        ("stuck_at_zero:rate=0.1,rate=0.2", "has 'rate' twice"),
        ("stuck_at_zero:rate=1.5", "`rate` must be in"),
        ("stuck_at_zero:rate", "expected '=' and a value"),
        ("stuck_at_zero:rate=0.1 row_faults", "expected '.' and another fault model"),
        ("stuck_at_zero+row_faults", "needs rate"),
        ("stuck_at_zero:rate=0.1+", "expected the name of a fault model"),
        ("stuck_at_zero:rate=0.1&stuck_at_zero:rate=0.1", "`models` must be models of cells"),
        ("drift:seconds=6,nu=0,mapping=pair(g_min=0)", "'pair' has no keys. Known: differential"),
        ("drift:seconds=6,nu=0,mapping=bit_slices(bit=1)", "bit_slices has no key.*mean 'bits'"),
        ("drift:seconds=6,nu=0,mapping=bit_slices(bits=9)", "`bits` must be 1 to 4"),
        ("drift:seconds=6,nu=0,mapping=bit_slices(bits=1", r"expected ',' and another key of bit"),
        ("stuck_at_zero:rate=" + "9" * 30, "at most 18 digits"),
        ("row_faults:rate=0.1,tile=" + "9" * 30 + "x3", "at most 18 digits"),
        ("stuck_at_zero:rate=nan", "`rate` must be a number"),
        ("stuck_at_zero:rate=inf", "`rate` must be in"),
    ],
)
def test_errors_show_the_place_and_what_was_expected(text, message):
    with pytest.raises(ValueError, match=message) as found:
        parse(text)
    assert "<HERE>" in str(found.value)


def test_a_text_has_a_length():
    with pytest.raises(ValueError, match="at most 1048576 characters. Received: 1"):
        parse("stuck_at_zero:rate=" + "9" * (1 << 20))


def test_a_text_has_a_depth():
    with pytest.raises(ValueError, match="at most 16 parentheses") as found:
        parse("drift:mapping=" + "bit_slices(g_min=" * 3000)
    assert len(str(found.value)) < 800


def test_many_measured_values_are_a_text():
    """As many as a measurement gives; what `spec` writes, `parse` reads."""
    values = np.random.default_rng(0).uniform(0, 1e-4, 10_000)
    model = StuckAtValues(0.1, values)
    assert parse(spec(model)) == model
    with pytest.raises(ValueError, match="1 to 10000 conductances.*Received: 10001"):
        StuckAtValues(0.1, [0.0] * 10_001)


@pytest.mark.parametrize("name", NAMES)
def test_the_description_has_every_key_with_its_default(name):
    described = describe(name)
    for field in dataclasses.fields(NAMES[name]):
        assert field.name in re.split("[, =]+", described)
    assert describe("stuck_at_zero") == "rate, exact=false"
    assert describe("drift").startswith("mapping=differential_pair, seconds, nu, nu_sd=0.0, start")


@dataclasses.dataclass(frozen=True)
class Own:
    """A fault model of a user's."""

    rate: float = 0.5
    needs_kernel = False

    def sample(self, shape, rng, kernel=None):
        return Fault((rng.random(shape) >= self.rate).astype("float32"))


def test_a_model_of_ones_own_has_a_text_once_it_has_a_name(monkeypatch, tmp_path):
    with pytest.raises(TypeError, match="NAMES"):
        spec(Own())
    monkeypatch.setitem(NAMES, "own", Own)
    assert parse(spec(Own(0.25))) == Own(0.25)
    chip = Chip(Own(0.25), seed=3)
    chip.save(tmp_path / "chip.npz")
    assert Chip.load(tmp_path / "chip.npz") == chip
