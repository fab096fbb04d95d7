"""Findings judged from kept answers, from rows, and not at all."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from keras_rram.evaluation.statistics.two_way import crossed_interval, two_way_interval
from keras_rram.study import judge
from keras_rram.study.judgement import gains
from keras_rram.study.sources import SOURCES, split_by_source
from keras_rram.study.summary import summary
from keras_rram.training.recipes import RECIPES
from tests.study.published import answers, published


def test_a_difference_of_four_images_is_open_though_chips_agree():
    """Seven against six: chips tell them apart, so few images do not."""
    rng = np.random.default_rng(0)
    six, seven = (rng.random((100, 10_000)) > 0.0005 for _ in range(2))
    six[:, :9], seven[:, :5] = False, False  # wrong on 9 images and on 5, whatever the chip
    runs = [published("3C", seven), published("3B", six)]
    (found,) = [v for v in judge(runs) if v.finding.panel == "3C"]
    over_chips = stats.ttest_ind(seven.mean(1), six.mean(1)).confidence_interval(0.95)
    assert over_chips.low > 0  # over chips alone it would be refuted
    assert found.verdict == "open"
    differences = seven.astype(int) - six.astype(int)
    expected = two_way_interval(differences, scale="raw")
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    assert found.interval.question == "this seed, new chips, new images"


def test_variance_is_split_into_what_a_seed_a_chip_and_their_pairs_do():
    """A chip that answers all or nothing, drawn anew for each training, is *seed:chip* alone."""
    rng = np.random.default_rng(0)
    runs = [
        published("S1A", np.broadcast_to(rng.random((400, 1)) < 0.8, (400, 60)), seed=seed)
        for seed in range(3)
    ]
    first, second = split_by_source(runs)
    assert (first.tier, second.tier) == ("A", "B")
    assert first.seeds == second.seeds == (0, 1, 2)
    seed, chip, image, seed_chip, *others = (first.sd[source] for source in SOURCES)
    assert seed_chip == pytest.approx((0.8 * 0.2) ** 0.5, rel=0.05)  # of a Bernoulli draw
    assert max(seed, chip) < 0.05 and (image, *others) == pytest.approx([0] * 4, abs=1e-3)
    assert not split_by_source(runs[:1])
    runs = [
        dataclasses.replace(run, record=run.record | {"method": str(n)})
        for n, run in enumerate(runs)
    ]
    assert not split_by_source(runs)  # of three trainings, which are no seeds of one


def test_the_difference_covers_new_chips_and_new_images():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(200):
        hard = rng.standard_normal((1, 500))
        right = []
        for mean in (0.92, 0.9):
            limit = stats.norm.ppf(mean) + 0.1 * rng.standard_normal((30, 1))
            right.append(0.6 * hard + 0.8 * rng.standard_normal((30, 500)) <= limit)
        truth = np.diff([stats.norm.cdf(stats.norm.ppf(m) / 1.01**0.5) for m in (0.9, 0.92)])[0]
        (found,) = [
            v
            for v in judge([published("2C", right[0]), published("2B", right[1])])
            if v.finding.panel == "2C"
        ]
        covered.append(found.interval.low <= truth <= found.interval.high)
    assert np.mean(covered) >= 0.93


def test_unequal_training_is_never_confirmed_or_refuted():
    rng = np.random.default_rng(2)
    better, worse = answers(rng, 0.95), answers(rng, 0.6)
    for mine, other in ((better, worse), (worse, better)):
        runs = [published("2C", mine), published("2B", other, epochs=5)]
        (found,) = [v for v in judge(runs) if v.finding.panel == "2C"]
        assert (found.verdict, found.caveat) == ("not comparable", "20 epochs against 5")
    (found,) = [
        v
        for v in judge([published("2C", better), published("2B", worse)])
        if v.finding.panel == "2C"
    ]
    assert (found.verdict, found.caveat) == ("confirmed", "")


def test_rows_without_answers_are_bounded_by_their_own_intervals():
    rng = np.random.default_rng(3)
    a, b = answers(rng, 0.95), answers(rng, 0.9)
    kept = [published("2C", a), published("2B", b)]
    old = [published("2C", a, keep=False), published("2B", b)]
    (exact,), (bound,) = (
        [v for v in judge(runs) if v.finding.panel == "2C"] for runs in (kept, old)
    )
    assert bound.interval.estimate == pytest.approx(exact.interval.estimate)
    assert bound.interval.low <= exact.interval.low <= exact.interval.high <= bound.interval.high
    rows = [two_way_interval(one) for one in (a, b)]
    assert bound.interval.low == pytest.approx(rows[0].low - rows[1].high)
    assert "answers were not kept" in bound.interval.method


def test_runs_on_a_part_of_the_images_are_compared_on_those_they_share():
    rng = np.random.default_rng(4)
    whole = answers(rng, 0.95)
    part = rng.permutation(2_000)[:500]
    part.sort()
    runs = [published("2C", whole), published("2B", answers(rng, 0.9)[:, part], images=part)]
    (found,) = [v for v in judge(runs) if v.finding.panel == "2C"]
    expected = whole[:, part].mean() - runs[1].chips["chips"].mean()
    assert found.interval.estimate == pytest.approx(expected)


def test_a_run_without_faults_is_one_chip():
    right = (np.arange(1_000) % 200 > 2)[None]
    (found,) = judge([published("2A", right)])
    assert found.interval.question == "this seed, this chip, new images"
    wilson = stats.binomtest(int(right.sum()), 1_000).proportion_ci(method="wilson")
    assert found.interval.low == pytest.approx(wilson.low, abs=0.003)
    (old,) = judge([published("2A", right, keep=False)])
    assert old.interval.low == pytest.approx(wilson.low)


@pytest.mark.parametrize(
    ("mean", "verdict"), [(0.6, "confirmed"), (0.95, "refuted"), (0.8, "open")]
)
def test_a_bound_from_above(mean, verdict):
    (found,) = judge([published("S1A", answers(np.random.default_rng(6), mean))])
    assert found.verdict == verdict


def test_training_seeds_are_a_third_sample():
    """Seeds that differ by much widen the interval beyond that of one seed."""
    rng = np.random.default_rng(7)
    runs = [published("2B", answers(rng, 0.9), seed) for seed in range(3)]
    lucky = [0.99, 0.93, 0.96]
    runs += [published("2C", answers(rng, mean), seed) for seed, mean in enumerate(lucky)]
    (found,) = [v for v in judge(runs) if v.finding.panel == "2C"]
    assert found.seeds == (0, 1, 2)
    assert found.interval.question == "new seeds, new chips, new images"
    (alone,) = [v for v in judge([runs[0], runs[3]]) if v.finding.panel == "2C"]
    assert found.interval.half_width > 2 * alone.interval.half_width
    assert (alone.verdict, found.verdict) == ("confirmed", "open")


def test_the_three_way_interval_covers():
    rng = np.random.default_rng(8)
    covered = []
    for _ in range(300):
        cube = (
            0.5
            + 0.03 * rng.standard_normal((3, 1, 1))
            + 0.05 * rng.standard_normal((1, 12, 1))
            + 0.2 * rng.standard_normal((1, 1, 40))
            + 0.1 * rng.standard_normal((3, 1, 40))
            + 0.3 * rng.standard_normal((3, 12, 40))
        )
        found = crossed_interval(cube, ("seed", "chip", "image"), scale="raw")
        covered.append(found.low <= 0.5 <= found.high)
    print(f"three-way interval covers {np.mean(covered):.3f}")
    assert 0.93 <= np.mean(covered) <= 0.99


def test_two_factors_are_the_two_way_interval():
    right = answers(np.random.default_rng(9), 0.9, 12, 200)
    one, other = crossed_interval(right, ("chip", "image")), two_way_interval(right)
    assert (one.low, one.high, one.df) == pytest.approx((other.low, other.high, other.df))
    with pytest.raises(ValueError, match="expected one axis for each"):
        crossed_interval(right, ("chip",))


def test_other_training_is_a_gain_and_has_a_verdict_of_its_own():
    rng = np.random.default_rng(1)
    study = published("S1A", answers(rng, 0.5))
    other = published("S1A", answers(rng, 1.5), method="instance")
    found = judge([study, other])
    assert [verdict.kind[3] for verdict in found] == ["study", "instance"]
    assert [verdict.verdict for verdict in found] == ["confirmed", "refuted"]
    assert [judge([run])[0].interval for run in (study, other)] == [one.interval for one in found]
    (gain,) = gains([study, other])
    assert (gain.run, gain.base) == (other, study)
    differences = other.answers.right["chips"].astype(int) - study.answers.right["chips"]
    assert gain.interval.estimate == pytest.approx(differences.mean())
    assert gain.interval.low < differences.mean() < gain.interval.high
    shorter = published("S1A", answers(rng, 1.5), epochs=8, method="instance")
    assert not gains([study, shorter])


def test_a_method_that_adds_to_another_is_a_gain_over_that_too():
    rng = np.random.default_rng(1)
    names = ("study", "masks", "masks_muon", "muon")
    runs = [published("all", answers(rng, 1), method=name) for name in names]
    compared = [(one.run.record["method"], one.base.record["method"]) for one in gains(runs)]
    assert compared == [
        ("masks", "study"),
        ("masks_muon", "study"),
        ("masks_muon", "masks"),
        ("muon", "study"),
    ]


def test_an_accuracy_as_such_is_judged_by_the_longest_training_alone():
    rng = np.random.default_rng(2)
    brief, longer = (published("4A", answers(rng, 1), epochs=epochs) for epochs in (8, 40))
    brief.record["scale"] = "brief"
    (found,) = judge([brief, longer])
    assert found.kind == longer.kind
    longer.record["method"] = "masks"  # a way of training is no longer training
    assert [found.kind for found in judge([brief, longer])] == [brief.kind, longer.kind]


@pytest.mark.parametrize(
    ("panel", "mean", "whole", "expected"),
    [
        ("4A", 0.9, 200, "open"),  # 91% may be reached later
        ("4A", 0.97, 200, "confirmed"),
        ("S1A", 0.6, 20, "open"),  # 80% too
        ("S1A", 0.9, 20, "refuted"),
    ],
)
def test_what_shorter_training_does_not_reach_is_open(panel, mean, whole, expected):
    right = answers(np.random.default_rng(3), mean)
    assert RECIPES["cifar10" if panel == "4A" else "mnist"].epochs == whole
    run = published(panel, right, epochs=15)
    (found,) = judge([run])
    caveat = f"15 of the study's {whole} epochs" if expected == "open" else ""
    assert (found.verdict, found.caveat) == (expected, caveat)
    said = " ".join(summary([run], [(found, found)], []))
    assert ("* is open after 15 of the study's" in said) == (expected == "open")
    (found,) = judge([published(panel, right, epochs=whole)])
    settled = {0.9: "refuted", 0.97: "confirmed", 0.6: "confirmed"}[mean]
    assert (found.verdict, found.caveat) == (settled, "")
