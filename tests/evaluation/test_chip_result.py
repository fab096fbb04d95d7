"""The record of one chip and its line of JSON."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_rram.evaluation.chip_result import ChipResult

GOLDEN = (
    '{"index": 3, "fault_rate": 0.1, "achieved_fault_rate": 0.0998, "correct": 6, "total": 10, '
    '"fold": 1, "folds": 4, "correctness": "qYA="}'
)
ANSWERS = np.array([1, 0, 1, 0, 1, 0, 0, 1, 1, 0], bool)


def test_the_line_is_that_of_the_documentation():
    answers = ANSWERS.copy()
    answers[9] = True
    chip = ChipResult.from_answers(3, 0.1, 0.0998, answers, fold=1, folds=4)
    plain = GOLDEN.replace("qYA=", "qcA=")
    digest = hashlib.sha256(
        b'{"achieved_fault_rate":0.0998,"correct":6,"correctness":"qcA=","fault_rate":0.1,'
        b'"fold":1,"folds":4,"index":3,"total":10}'
    ).hexdigest()
    assert chip.to_line() == f'{plain[:-1]}, "digest": "{digest}"}}'
    assert ChipResult.from_line(chip.to_line()) == chip
    assert np.array_equal(chip.answers, answers)
    assert chip.accuracy == 0.6


@given(hnp.arrays(bool, st.integers(1, 50)), st.booleans())
def test_lines_are_read_back(answers, keep):
    chip = ChipResult.from_answers(0, 0.0, 0.0, answers, keep=keep)
    again = ChipResult.from_line(chip.to_line())
    assert again == chip
    assert again.correct == answers.sum()
    if keep:
        assert np.array_equal(again.answers, answers)
    else:
        assert again.answers is None
        assert "correctness" not in json.loads(chip.to_line())


@pytest.mark.parametrize(
    "fields",
    [
        {"index": -1},
        {"correct": 11},
        {"total": 0, "correct": 0},
        {"fault_rate": 10},
        {"achieved_fault_rate": -0.1},
        {"fold": 4, "folds": 4},
        {"correctness": "qYA="},
        {"correctness": "qQ=="},
    ],
)
def test_fields_that_do_not_fit_are_refused(fields):
    good = {"index": 0, "fault_rate": 0.1, "achieved_fault_rate": 0.1, "correct": 6, "total": 10}
    with pytest.raises(ValueError, match="expected .*Received: "):
        ChipResult(**(good | fields))


@pytest.mark.parametrize(
    "line", [GOLDEN[:40], "[]", "3", '{"index": 1}', GOLDEN[:-1] + ', "x": 1}']
)
def test_other_lines_are_refused(line):
    with pytest.raises(ValueError, match="damaged|expected .*Received: "):
        ChipResult.from_line(line)


def test_answers_must_be_booleans():
    with pytest.raises(TypeError, match="boolean vector.*Received"):
        ChipResult.from_answers(0, 0.1, 0.1, np.array([3, 1, 4]))
