"""The figures of a population and its file."""

import json

import numpy as np
import pytest

from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.results import SCHEMA, PopulationResult
from keras_rram.evaluation.statistics.folds import fold_interval, fold_of
from keras_rram.evaluation.statistics.intervals import Interval, wilson_interval
from keras_rram.evaluation.statistics.two_way import chip_interval, two_way, two_way_interval
from tests.populations import populations

FAULTS = "stuck_at_zero:rate=0.1"


def population(chips, **options):
    fields = {
        "model": "abc", "data": "digits 123", "fault_model": FAULTS, "rate": 0.1, "seed": 0,
        "engine": "keras", "fault_free": 0.98, "name": "mini",
    }  # fmt: skip
    return PopulationResult(**(fields | {"chips": tuple(chips)} | options))


def counted(*correct, total=1000, start=0):
    return [ChipResult(start + k, 0.1, 0.099, c, total) for k, c in enumerate(correct)]


def answered(matrix, start=0, keep=True):
    return [
        ChipResult.from_answers(start + k, 0.1, 0.1, row, keep=keep) for k, row in enumerate(matrix)
    ]


MATRIX = populations(np.random.default_rng(0), 1, 20, 300, 0.9, 0.03, 0.5)[0][0]


def test_figures_by_hand():
    result = population(counted(900, 920, 880, 900))
    assert result.mean == pytest.approx(0.9)
    assert result.drop == pytest.approx(0.08)
    assert result.raw_sd == pytest.approx((0.0008 / 3) ** 0.5)
    noise = (2 * 0.09 + 0.92 * 0.08 + 0.88 * 0.12) / 4 / 999
    assert result.sd == pytest.approx((0.0008 / 3 - noise) ** 0.5)
    assert (result.worst.index, result.worst.accuracy) == (2, 0.88)
    assert result.quantile(0.5) == pytest.approx(0.9)
    assert result.quantile(0, images="test_set") == 0.88
    assert result.quantile(0) == pytest.approx(0.9 - 0.02 * result.sd / result.raw_sd)
    good = result.yield_at(0.9, images="test_set")
    assert (good.passed, good.chips) == (3, 4)
    wilson = wilson_interval(3, 4, question="new chips, this test set")
    assert good.interval == wilson


def test_chips_are_sorted():
    chips = counted(900, 920, 880)
    result = population(chips[::-1])
    assert result.indices == (0, 1, 2)
    assert result.accuracies.tolist() == [0.9, 0.92, 0.88]


def test_the_interval_is_the_best_that_the_records_allow():
    kept, counts = population(answered(MATRIX)), population(answered(MATRIX, keep=False))
    assert np.array_equal(kept.matrix, MATRIX)
    assert counts.matrix is None
    assert kept.mean_interval() == two_way_interval(MATRIX)
    assert kept.mean_interval(0.9, images="test_set") == two_way_interval(MATRIX, 0.9, "test_set")
    assert kept.sd == two_way(MATRIX).chip_variance ** 0.5
    totals = np.full(20, 300)
    assert counts.mean_interval() == chip_interval(MATRIX.sum(1), totals)
    bootstrap = kept.mean_interval(method="bootstrap", rng=np.random.default_rng(0))
    assert bootstrap.half_width == pytest.approx(kept.mean_interval().half_width, rel=0.2)
    with pytest.raises(ValueError, match="answers of each chip"):
        counts.mean_interval(method="bootstrap", rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="answers of each chip"):
        kept.mean_interval(method="bootstrap")
    with pytest.raises(ValueError, match="method="):
        kept.mean_interval(method="jackknife")


def test_chips_on_folds_have_a_mean_but_no_quantiles():
    chips = [
        ChipResult.from_answers(k, 0.1, 0.1, MATRIX[k, :75], fold_of(k, 4), 4) for k in range(16)
    ]
    result = population(chips)
    assert result.matrix is None
    interval = result.mean_interval(images="test_set")
    assert interval == fold_interval(result.accuracies, fold_of(np.arange(16), 4), 4, 75)
    assert result.mean == pytest.approx(interval.estimate)
    assert result.mean_interval().half_width > interval.half_width
    assert 0 <= result.sd < result.raw_sd
    for call in (lambda: result.worst, lambda: result.quantile(0.1), lambda: result.yield_at(0.9)):
        with pytest.raises(ValueError, match="answered all images.*one of 4 folds"):
            call()
    figures = result.summary(yield_at=(0.9,))
    assert figures["worst"] is figures["q05"] is figures["yield_0.9"] is None


def test_the_stop_rules_interval_is_kept():
    interval = Interval(0.9, 0.89, 0.91, 0.95, "new chips, this test set", "look 2", 12.0)
    result = population(counted(900, 910), stop_interval=interval)
    assert result.mean_interval() == interval
    assert result.summary()["half_width"] == pytest.approx(0.01)
    with pytest.raises(ValueError, match="confidence of the stop rule"):
        result.mean_interval(0.9)


def test_after_a_stop_rule_another_question_is_refused_not_answered():
    interval = Interval(0.9, 0.89, 0.91, 0.95, "new chips, this test set", "look 2", 12.0)
    result = population(answered(MATRIX), stop_interval=interval)
    assert result.mean_interval(images="test_set") == interval
    for call in (result.mean_interval, result.summary):
        with pytest.raises(ValueError, match="question of the stop rule.*images='new'"):
            call(images="new")
    assert result.summary()["question"] == "new chips, this test set"


def test_every_interval_says_its_question():
    result = population(answered(MATRIX))
    asked = {"new": "new chips, new images", "test_set": "new chips, this test set"}
    for images, question in asked.items():
        assert result.mean_interval(images=images).question == question
        assert result.yield_at(0.9, images=images).interval.question == question
        assert result.summary(images=images)["question"] == question
    assert result.mean_interval().question == asked["new"]


def test_chips_without_faults_are_one_chip():
    chips = [ChipResult(k, 0.0, 0.0, 900, 1000) for k in range(8)]
    result = population(chips, rate=0.0)
    wilson = wilson_interval(900, 1000, question="this chip, new images")
    assert result.mean_interval() == wilson
    assert result.mean_interval(images="test_set").half_width == 0
    # With faults, eight equal chips may be luck.
    equal = population(counted(*[900] * 8)).mean_interval(images="test_set")
    assert equal.half_width > 0.1


def test_the_file_is_that_of_the_documentation():
    text = population(counted(900), reason="all 1 chips").to_json()
    assert SCHEMA == "keras_rram.population/2"
    assert json.loads(text) == {
        "schema": SCHEMA, "model": "abc", "data": "digits 123",
        "fault_model": FAULTS, "rate": 0.1, "seed": 0, "engine": "keras", "fault_free": 0.98,
        "chips": [
            {"index": 0, "fault_rate": 0.1, "achieved_fault_rate": 0.099, "correct": 900,
             "total": 1000, "fold": 0, "folds": 1}
        ],
        "repair": "none", "access_tier": "A", "fault_free_repaired": None, "name": "mini",
        "stop_interval": None, "reason": "all 1 chips", "interrupted": False,
        "measure": "accuracy", "higher_is_better": True,
    }  # fmt: skip


def test_the_table():
    assert population(counted(900, 910)).to_csv() == (
        "index,fault_rate,achieved_fault_rate,correct,total,fold,folds,accuracy\n"
        "0,0.1,0.099,900,1000,0,1,0.9\n"
        "1,0.1,0.099,910,1000,0,1,0.91\n"
    )


def test_the_summary_is_plain_and_agrees():
    result = population(answered(MATRIX))
    figures = result.summary(yield_at=(0.9, 0.95))
    assert json.loads(json.dumps(figures)) == figures
    interval = result.mean_interval()
    assert (figures["low"], figures["high"]) == (interval.low, interval.high)
    assert figures["yield_0.9"] == result.yield_at(0.9).interval.estimate
    assert figures["worst_chip"] == result.worst.index
    alone = population(counted(900)).summary()
    assert alone["mean"] == 0.9
    assert alone["low"] is alone["sd"] is None


def test_a_drop_compares_like_with_like():
    repair = {"repair": "recalibration", "access_tier": "B", "fault_free_repaired": 0.91}
    repaired = population(counted(900, 880), **repair)
    assert repaired.fault_free == 0.98
    assert repaired.drop == pytest.approx(0.91 - 0.89)
    assert population(counted(900, 880)).drop == pytest.approx(0.98 - 0.89)
    figures = repaired.summary()
    assert {name: figures[name] for name in repair} == repair
    fields = json.loads(repaired.to_json())
    assert {name: fields[name] for name in repair} == repair


@pytest.mark.parametrize(
    "call",
    [
        lambda: population([]),
        lambda: population(counted(900) + counted(910)),
        lambda: population([*counted(900), ChipResult(1, 0.1, 0.1, 3, 9, 0, 2)]),
        lambda: population(counted(900), rate=10),
        lambda: population(counted(900), fault_free=98),
        lambda: population(counted(900), repair="mine"),
        lambda: population(counted(900), fault_free_repaired=0.9),
        lambda: population(counted(900), repair="mine", fault_free_repaired=90),
        lambda: population(counted(900)).mean_interval(),
        lambda: population(counted(900)).raw_sd,
        lambda: population(counted(900)).yield_at(90),
    ],
)
def test_values_out_of_range_are_refused(call):
    with pytest.raises(ValueError, match="expected .*Received: "):
        call()


def test_a_result_is_printed_as_five_lines_and_never_with_its_answers():
    result = population(answered(MATRIX), reason="all 20 chips on all images")
    lines = str(result).splitlines()
    assert len(lines) == 5
    interval = result.mean_interval()
    assert f"mini on 20 chips: {FAULTS}, 300 images" == lines[0]
    assert f"mean {100 * result.mean:.2f}%" in lines[1]
    assert f"{100 * interval.low:.2f}% to {100 * interval.high:.2f}%" in lines[1]
    assert "(new chips, new images)" in lines[1]
    assert f"cost {100 * result.drop:.2f} points" in lines[2]
    assert f"worst {100 * result.worst.accuracy:.2f}% (chip {result.worst.index})" in lines[3]
    assert "access tier A" in lines[4] and lines[4].endswith("all 20 chips on all images")
    for shown in (repr(result), repr(result.chips[0]), repr(population(counted(900)))):
        assert len(shown) < 250 and "correctness" not in shown
    alone = str(population(counted(900))).splitlines()
    assert len(alone) == 5 and "interval" not in alone[1]
    folds = [
        ChipResult.from_answers(k, 0.1, 0.1, MATRIX[k, :75], fold_of(k, 4), 4) for k in range(8)
    ]
    assert len(str(population(folds)).splitlines()) == 5


def test_a_result_is_a_table():
    result = population(answered(MATRIX))
    table = result.to_frame()
    assert table["accuracy"].tolist() == result.accuracies.tolist()
    assert list(table) == result.to_csv().splitlines()[0].split(",")
    assert len(table) == 20 and table["correct"].dtype.kind == "i"


def test_a_chips_name_is_kept_and_only_then_a_column():
    chips = [ChipResult(k, 0.1, 0.1, 900 + k, 1000, name=f"die{k}") for k in range(3)]
    result = population(chips)
    assert ChipResult.from_line(chips[1].to_line()) == chips[1]
    assert result.to_frame()["name"].tolist() == ["die0", "die1", "die2"]
    assert "(chip die0)" in str(result)
    assert "name" not in population(counted(900)).to_frame()
