"""What the page says and draws of verdicts."""

import dataclasses

import numpy as np
import pytest

from keras_rram.study import figures, judge
from keras_rram.study.answers import Answers
from keras_rram.study.figures import overview_figure
from keras_rram.study.judgement import gains
from keras_rram.study.page import _trained_otherwise
from keras_rram.study.run import POPULATIONS
from keras_rram.study.sources import split_by_source
from keras_rram.study.summary import gains as given_back
from keras_rram.study.summary import longest_trained, summary
from tests.study.published import answers, published


def test_the_sentences_say_what_was_judged():
    rng = np.random.default_rng(10)
    runs = [published("3C", answers(rng, 0.9)), published("3B", answers(rng, 0.97))]
    runs += [published("2C", answers(rng, 0.9)), published("2B", answers(rng, 0.9), epochs=5)]
    judged = list(zip(judge(runs), judge(runs, "chips_repaired"), strict=True))
    said = summary(runs, judged, [])
    assert len(said) == 10
    assert "*Seven do worse than six (3C against 3B)* is confirmed in both tiers" in said[3]
    assert "(2C against 2B)* is not comparable in both tiers" in said[2]
    assert said[9].startswith("1 of 2 comparisons are of unequal training")


def test_the_sentences_speak_of_the_longest_training():
    rng = np.random.default_rng(12)
    runs = []
    for scale, epochs, mean in (("short", 20, 0.9), ("brief", 8, 0.97)):  # seven is not worse
        runs += [published("3C", answers(rng, mean), epochs=epochs)]
        runs += [published("3B", answers(rng, 0.95), epochs=epochs)]
        for run in runs[-2:]:
            run.record["scale"] = scale
    judged = judge(runs)
    assert [one.verdict for one in judged] == ["confirmed", "refuted"]
    for order in (judged, judged[::-1]):
        said = summary(runs, list(zip(order, order, strict=True)), [])
        assert said[3].endswith("(3C against 3B)* is confirmed in both tiers.")


@pytest.mark.parametrize("keep", [True, False])
def test_what_recalibration_gives_is_measured_on_common_chips_and_images(keep):
    """Of fewer images, which are harder, where they are the whole difference."""
    right = np.zeros((6, 40), bool)
    right[:, 10:] = True  # the first ten images are hard for every chip
    part = right[:3, :20]
    found = {name: part if "repaired" in name else right for name in POPULATIONS}
    kept = Answers({name: np.arange(one.shape[1]) for name, one in found.items()}, found)
    run = published("4F", right, keep=False)
    run = dataclasses.replace(
        run,
        chips={name: one.mean(1) for name, one in found.items()},
        answers=kept if keep else None,
    )
    # In the order of `POPULATIONS`: recalibrated, on the other scale, both.
    expected = [0.0, 0.0, 0.0] if keep else [0.5 - 0.75, 0.0, 0.5 - 0.75]
    np.testing.assert_allclose(given_back([run]), expected)


def test_without_faults_no_sentence_speaks_of_tiers():
    run = published("2A", answers(np.random.default_rng(13), 0.99))
    judged = judge([run])
    said = summary([run], list(zip(judged, judged, strict=True)), [])
    assert said[1].endswith("(2A)* is confirmed.")


def test_networks_of_equal_cost_are_compared_in_each_method_by_itself(tmp_path):
    """The page opens with the study's findings by its training alone, with this one by any."""
    rng = np.random.default_rng(11)
    means = {"all": 0.9, "4D": 0.95}
    runs = []
    for method, bottlenecks in (("study", 0.95), ("masks", 0.85)):
        for panel, mean in (means | {"bottlenecks-20": bottlenecks}).items():
            runs.append(published(panel, answers(rng, mean), method=method))
    judged = judge(runs)
    both = longest_trained(runs, list(zip(judged, judged, strict=True)))
    found = [(one.finding.panel, one.kind[3], one.verdict) for one, _ in both]
    assert found == [
        ("4D", "study", "confirmed"),
        ("bottlenecks-20", "study", "confirmed"),
        ("bottlenecks-20", "masks", "refuted"),
    ]
    said = summary(runs, both, [])
    assert said[0].startswith("4 trainings of 2 of 24 panels, and 2 of networks of equal cost, st")
    assert "at equal cost (bottlenecks-20 against all)* is confirmed in both tiers" in said[8]
    overview_figure(both, tmp_path / "overview")
    assert (tmp_path / "overview.svg").read_text().count(">eight masks a batch<") == 1


def test_the_page_says_what_is_left_of_a_finding_with_other_training():
    """Six are worth much with the study's training, and less than they cost with another."""
    rng = np.random.default_rng(14)
    runs = []
    for method, means in (("study", (0.5, 0.9)), ("instance", (0.97, 0.96))):
        for panel, mean in zip(("3A", "3B"), means, strict=True):
            runs.append(published(panel, answers(rng, mean, sd=0.02), method=method))
    judged = [(one, one) for one in judge(runs)]
    said = summary(runs, judged, [])[2]
    assert said.endswith("(3B against 3A)* is confirmed in both tiers.")
    assert "instance" not in said
    (line,) = [one for one in _trained_otherwise(judged, gains(runs)) if one.startswith("| Six")]
    cells = line.strip("| ").split(" | ")
    assert cells[:2] == [
        "Six bottlenecks do better than two at 20% (3B against 3A)",
        "strided, text, short, instance normalization",
    ]
    for cell, (few, many), verdict in zip(
        cells[2:], (runs[:2], runs[2:]), ("confirmed", "refuted"), strict=True
    ):
        points = 100 * (many.chips["chips"].mean() - few.chips["chips"].mean())
        assert cell.startswith(f"{points:.2f} (")
        assert cell.endswith(f"), {verdict}; seed 0")
    # Of one panel alone there is no difference, and none to training of another length.
    assert not _trained_otherwise([(one, one) for one in judge(runs[:3])], gains(runs[:3]))
    for run in runs[2:]:
        run.record["epochs"] = 5
    assert len(judge(runs)) == 2
    assert not _trained_otherwise([(one, one) for one in judge(runs)], gains(runs))


def known(accuracies):
    """Runs of panels and methods whose chips all have the same accuracy, and their verdicts."""
    runs = []
    for (panel, method), mean in accuracies.items():
        right = np.arange(2_000) < np.full((50, 1), 2_000 * mean)
        runs.append(published(panel, right, method=method))
    judged = judge(runs)
    return runs, list(zip(judged, judged, strict=True))


def test_networks_of_equal_cost_are_drawn_at_their_rates(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    runs, judged = known(
        {
            ("basic-10", "study"): 0.75,
            ("bottlenecks-10", "study"): 0.7,
            ("basic-30", "study"): 0.6,
            ("bottlenecks-30", "study"): 0.4,
            ("basic-10", "masks"): 0.8,
            ("bottlenecks-10", "masks"): 0.81,
        }
    )
    _, recalibrated = known({("basic-10", "study"): 0.8, ("bottlenecks-10", "study"): 0.82})
    judged = [(judged[0][0], recalibrated[0][1]), *judged[1:]]
    figures.equal_cost_figure(runs, judged, tmp_path / "figure")
    (figure,) = drawn
    means, _, differences, in_tier_b = figure.axes
    assert in_tier_b.containers[0].lines[0].get_ydata() == pytest.approx((2, -20))
    curves = [tuple(bar.lines[0].get_ydata()) for bar in means.containers]
    assert curves == [(0.7, 0.4), (0.75, 0.6), (0.81,), (0.8,)]
    points = [bar.lines[0] for bar in differences.containers]
    assert [tuple(one.get_ydata()) for one in points] == [
        pytest.approx((-5, -20)),
        pytest.approx((1,)),
    ]
    assert np.rint(points[0].get_xdata() / 10).tolist() == [1, 3]
    assert len({one.get_color() for one in points}) == 2


def test_one_claim_is_said_once_with_the_places_of_each_verdict():
    runs, judged = known(
        {
            ("basic-10", "study"): 0.5,
            ("bottlenecks-10", "study"): 0.1,
            ("basic-10", "masks"): 0.5,
            ("bottlenecks-10", "masks"): 0.9,
            ("basic-30", "study"): 0.5,
            ("bottlenecks-30", "study"): 0.1,
            ("basic-30", "masks"): 0.5,
            ("bottlenecks-30", "masks"): 0.1,
        }
    )
    said = summary(runs, judged, [])[8]
    assert said.endswith(
        "*Bottlenecks tolerate more at equal cost* is refuted in both tiers trained as the study "
        "trains, confirmed in both tiers trained with eight masks a batch (bottlenecks-10 against "
        "basic-10), refuted in both tiers (bottlenecks-30 against basic-30)."
    )


@pytest.mark.parametrize("is_shared", [True, False])
def test_the_summary_says_whether_a_chip_is_bad_for_all_trainings(is_shared):
    whole = {name: np.array([0.7]) for name in POPULATIONS}
    runs = []
    for seed in range(2):
        rng = np.random.default_rng(0 if is_shared else seed)
        run = published("S1A", np.broadcast_to(rng.random((50, 1)) < 0.8, (50, 40)), seed)
        images, right = run.answers.images["chips"], run.answers.right["chips"]
        both = Answers(dict.fromkeys(whole, images), dict.fromkeys(whole, right))
        runs.append(dataclasses.replace(run, chips=whole, answers=both))
    said = summary(runs, [], split_by_source(runs))[5]
    assert ("bad for all trainings" if is_shared else "bad for one training") in said
