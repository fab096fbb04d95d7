import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_rram.faults import (
    ClusteredFaults,
    Composed,
    RowFaults,
    StuckAtValues,
    StuckAtZero,
    StuckCells,
    parse,
    spec,
)
from keras_rram.faults.cells import MAPPINGS

RATES = st.floats(0.0, 0.4)
SINGLE = st.one_of(
    st.builds(StuckAtZero, RATES, st.booleans()),
    st.builds(RowFaults, RATES, tile=st.tuples(st.integers(1, 300), st.integers(1, 300))),
    st.builds(ClusteredFaults, RATES, st.floats(0.5, 20.0)),
    st.builds(
        StuckAtValues, RATES, st.lists(st.floats(0.0, 1e-3), min_size=1, max_size=4).map(tuple)
    ),
    st.builds(StuckCells, RATES, RATES, mapping=st.sampled_from(list(MAPPINGS.values()))),
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
    ],
)
def test_errors_show_the_place_and_what_was_expected(text, message):
    with pytest.raises(ValueError, match=message) as found:
        parse(text)
    assert "<HERE>" in str(found.value)
