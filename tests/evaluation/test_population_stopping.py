"""Populations that end once their interval is narrow enough."""

import json

import numpy as np
import pytest

from keras_rram.evaluation.population import evaluate_population
from keras_rram.evaluation.statistics.folds import fold_of, stratified_folds
from keras_rram.evaluation.statistics.intervals import wilson_interval
from keras_rram.evaluation.statistics.stopping import StopRule
from tests.classifiers import digits, right_answers
from tests.evaluation.runs import content, evaluate, interrupt

RULE = {"pilot_chips": 8, "pilot_images": 32, "chip_overhead_images": 5.0}


def rule(target):
    return StopRule(target, **RULE)


def check_folds(result, model, loop):
    """Each chip's answers must be those that the oracle gives on the chip's fold."""
    strata = 2 * digits()[1] + right_answers(model, None, *digits())
    folds = stratified_folds(strata, 300 // result.folds, seed=5)
    for chip in result.chips:
        assert chip.fold == fold_of(chip.index, result.folds)
        np.testing.assert_array_equal(chip.answers, loop[chip.index][folds[chip.fold]])


def test_a_stop_rule_spends_fewer_answers_and_says_why(model, loop):
    result = evaluate(model, 40, stop=rule(0.03))
    assert "reached" in result.reason
    interval = result.mean_interval()
    assert interval.half_width <= 0.03 and interval == result.stop_interval
    assert sum(chip.total for chip in result.chips) <= loop.size / 2
    assert abs(result.mean - loop.mean()) < 0.03
    check_folds(result, model, loop)


def test_a_stop_rule_that_cannot_be_met_spends_what_it_may(model, loop, tmp_path):
    result = evaluate(model, 40, stop=rule(0.0005), out=tmp_path / "run")
    assert "caps" in result.reason
    assert len(result.chips) == 40
    check_folds(result, model, loop)
    # Chips that had answered a part of the images before were shown the others only.
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "chips.jsonl").read_text().splitlines()
    ]
    assert len(lines) > 40 and max(line["folds"] for line in lines) > result.folds


@pytest.mark.parametrize("images", ["test_set", "new"])
def test_without_faults_one_chip_is_all_that_a_stop_rule_needs(model, loop, tmp_path, images):
    options = {"stop": StopRule(0.001, images=images, **RULE), "out": tmp_path / "run"}
    result = evaluate(model, 40, rate=0.0, **options)
    right = right_answers(model, None, *digits())
    assert len(result.chips) == 1 and result.chips[0].total == 300
    np.testing.assert_array_equal(result.chips[0].answers, right)
    interval = result.mean_interval()
    assert interval.estimate == right.mean() == result.fault_free
    if images == "test_set":
        assert interval.low == interval.high == right.mean()
    else:
        wilson = wilson_interval(int(right.sum()), 300, question="this chip, new images")
        assert interval == wilson
    assert "no chip has a fault" in result.reason and len(str(result).splitlines()) == 5
    assert result.summary()["half_width"] == interval.half_width
    assert evaluate(model, 40, rate=0.0, resume=True, **options) == result
    # A rate of 0 is not enough: cells that vary make other chips.
    varied = evaluate_population(
        model, "lognormal_variation:sigma=0.3", digits(), 12, progress=False, stop=rule(0.2)
    )
    assert len(varied.chips) > 1


def test_a_stopped_run_resumes_from_anywhere(model, tmp_path):
    options = {"stop": rule(0.004), "engine": "keras"}
    whole = evaluate(model, 40, out=tmp_path / "whole", **options)
    lines = (tmp_path / "whole" / "chips.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (3, 20, len(lines) - 2, len(lines)):
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / "run.json").write_bytes((tmp_path / "whole" / "run.json").read_bytes())
        (folder / "chips.jsonl").write_bytes(b"".join(lines[:kept]))
        assert evaluate(model, 40, out=folder, resume=True, **options) == whole
        assert content(folder) == content(tmp_path / "whole")


def test_ctrl_c_between_two_looks_keeps_the_images_that_chips_share(model, loop):
    # The second look shows the chips of the first more images.
    result = evaluate(model, 8, stop=rule(0.0005), repair=interrupt(11))
    assert result.interrupted and len(result.chips) == 8 and result.folds > 1
    assert result.stop_interval is None and result.mean_interval().half_width > 0
