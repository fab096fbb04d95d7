import re

import numpy as np
import pytest

from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.comparison import paired_difference, variance_split
from keras_rram.evaluation.results import PopulationResult
from keras_rram.study import markdown
from tools import report, tables

IMAGES = 200


BATCH_NORM = {"repair": "batch_norm/256/0123", "access_tier": "B", "fault_free_repaired": 0.97}


def population(mean, chips=8, rate=0.1, **repair):
    """Chips whose answers are known: chip k errs on its own images, more and more."""
    rows = np.ones((chips, IMAGES), bool)
    for index, row in enumerate(rows):
        row[: round(IMAGES * (1 - mean)) + index] = False
    found = [ChipResult.from_answers(k, rate, rate, row) for k, row in enumerate(rows)]
    faults = f"stuck_at_zero:rate={rate}"
    return PopulationResult("m", "d", faults, rate, 0, "keras", 0.98, tuple(found), **repair)


def population_table(*arguments):
    return report.text(*tables.population(*arguments))


def comparison_table(rows):
    return report.text(*tables.comparison(rows))


def test_a_terminal_gets_a_table_of_the_same_cells(capsys, monkeypatch):
    cells, notes = tables.population([population(0.9).summary()])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "90")
    report.show(cells, notes)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines[:-3])) <= 90 and "\u2500" in "".join(lines)
    assert "88.25" in " ".join(lines) and lines[-1] == notes[-1]


def test_rows_keep_their_types_and_columns_are_aligned_to_the_right():
    cells = report.table([{"a": "ef", "bcd": "g"}])
    assert report.text(cells, ["end"]) == " a bcd\nef   g\nend"
    assert report.markdown(cells) == "| a | bcd |\n| --- | --- |\n| ef | g |"
    numbers = report.table([{"bits": 4, "mean": 0.5}, {"bits": None, "mean": 1.0}])
    assert numbers.to_csv(index=False) == "bits,mean\n4,0.5\n,1.0\n"
    cells = report.in_percent(numbers, ["mean"])
    assert cells.to_numpy().tolist() == [[4, "50.00"], ["-", "100.00"]]


@pytest.mark.parametrize("percent", [report.percent, markdown.percent])
def test_a_difference_that_rounds_to_nothing_has_no_sign(percent):
    found = [percent(share) for share in (-2e-6, 0.0, -0.0001, None)]
    assert found == ["0.00", "0.00", "-0.01", "-"]


def test_a_population_is_in_percent_and_names_its_access_tier():
    result = population(0.9)
    text = population_table([result.summary(yield_at=(0.89,))], (0.89,))
    titles, line, *notes = text.splitlines()
    assert titles.split()[-3:] == ["yield", ">=", "89"]
    # 20 to 27 of 200 images wrong: 88.25% on average, the worst 86.5%, 3 chips of 8 reach 89%,
    # the third of them by luck of the images.
    assert line.split()[:4] == ["10", "8", "98.00", "88.25"]
    assert line.split()[-3:] == ["-", "86.50", "25.0"]
    assert "Interval: two-way random effects (new chips, new images)." in notes[0]
    assert notes[1].startswith("5th pct and yield are without the noise of finitely many images")
    assert notes[2] == "Access tier A: one model for all chips, no repair."
    assert notes[3] == "A bound of the 5th percentile takes 63 chips."


def test_enough_chips_have_a_bound_of_the_percentile():
    assert population(0.9, chips=62).summary()["q05_bound"] is None
    result = population(0.9, chips=63)
    summary = result.summary()
    assert summary["q05_bound"] <= result.worst.accuracy < summary["q05"]
    assert "takes 63 chips" not in population_table([summary])


def test_repairs_have_their_access_tier():
    summary = population(0.9, **BATCH_NORM).summary()
    assert (summary["access_tier"], summary["repair"]) == ("B", "batch_norm/256/0123")
    titles, line, *notes = population_table([summary]).splitlines()
    assert titles.split()[3:5] == ["fault-free", "repaired"]
    assert line.split()[2:5] == ["98.00", "97.00", "88.25"]
    known = "unlabelled images of each chip, repair batch_norm/256/0123."
    assert notes[2] == f"Access tier B: {known}"
    mine = population(0.9, repair="mine", access_tier="C", fault_free_repaired=0.9)
    assert "Access tier C" in population_table([mine.summary()])
    assert "repaired" not in population_table([population(0.9).summary()])


def test_a_comparison_has_the_sign_of_the_first_and_warns_of_other_tiers():
    good, bad = population(0.95), population(0.9, **BATCH_NORM)
    rows = [(good.summary(), bad.summary(), paired_difference(good, bad))]
    titles, line, *notes = comparison_table(rows).splitlines()
    assert "difference" in titles
    assert line.split()[:5] == ["10", "8", "93.25", "88.25", "+5.00"]
    assert line.endswith("100% of chips")
    assert "Not of one access tier" in notes[1]
    assert "tier" not in comparison_table([(good.summary(), good.summary(), rows[0][2])])


def test_a_variance_split_names_its_sources():
    split = variance_split({0: population(0.95), 1: population(0.9)})
    text = report.text(*tables.variance({0.1: split}))
    lines = text.splitlines()
    assert [line.split()[1] for line in lines[1:4]] == ["seed", "chip", "image"]
    assert "of one answer" in lines[-1] and "clipped" in text
    shares = [float(line.split()[3]) for line in lines[1:-1]]
    assert abs(sum(shares) - 100) < 0.5
