"""Paired comparison on the same chips, and variance components against other calculations."""

import numpy as np
import pytest
from scipy import special, stats

from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.comparison import paired_difference, variance_split
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.statistics.anova import crossed_components
from keras_rram.evaluation.statistics.folds import fold_of
from keras_rram.evaluation.statistics.two_way import two_way, two_way_interval


def population(matrix, keep=True, seed=0, model="abc", start=0, folds=1):
    chips = tuple(
        ChipResult.from_answers(start + k, 0.1, 0.1, row, int(fold_of(k, folds)), folds, keep)
        for k, row in enumerate(matrix)
    )
    return PopulationResult(model, "digits", {"rate": 0.1}, 0.1, seed, "keras", 0.98, chips)


def two_models(rng, chips=20, images=400, better=0.3):
    """Two models that share the luck of chips and images; `better` on the probit scale."""
    shared = 1.2 + 0.3 * rng.standard_normal((chips, 1)) + rng.standard_normal((1, images))
    own = 0.4 * rng.standard_normal((2, chips, images))
    return shared + better + own[0] > 0, shared + own[1] > 0


def test_the_difference_of_counts_is_the_paired_t_test():
    a, b = two_models(np.random.default_rng(0), 12)
    found = paired_difference(population(a, False), population(b, False), images="test_set")
    expected = stats.ttest_rel(a.mean(1), b.mean(1))
    assert found.interval.estimate == pytest.approx(np.mean(a) - np.mean(b))
    assert found.differences == pytest.approx(a.mean(1) - b.mean(1))
    if found.interval.df == pytest.approx(11):
        low, high = expected.confidence_interval()
        assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    assert found.wins + found.losses + found.ties == 1
    assert found.wins == np.mean(a.mean(1) > b.mean(1))


def test_kept_answers_give_the_two_way_interval_of_the_differences():
    a, b = two_models(np.random.default_rng(1))
    found = paired_difference(population(a), population(b, model="other"))
    expected = two_way_interval(a.astype(int) - b.astype(int), scale="raw")
    assert found.interval == expected
    separate = two_way_interval(a).half_width + two_way_interval(b).half_width
    assert found.interval.half_width < 0.5 * separate


def test_the_difference_covers():
    rng = np.random.default_rng(2)
    truth = np.diff(
        [special.ndtr((1.2 + shift) / np.sqrt(0.3**2 + 1 + 0.4**2)) for shift in (0, 0.3)]
    )[0]
    held = []
    for _ in range(600):
        a, b = two_models(rng, 15, 200)
        interval = paired_difference(population(a), population(b)).interval
        held.append(interval.low <= truth <= interval.high)
    assert 0.93 <= np.mean(held) <= 0.975


def test_folds_give_the_difference_on_the_test_set():
    a, b = two_models(np.random.default_rng(3), 16)
    found = paired_difference(population(a, folds=4), population(b, folds=4), images="test_set")
    assert found.interval.estimate == pytest.approx(np.mean(a) - np.mean(b))
    assert "4 of 4 image folds" in found.interval.method


def test_equal_models_tie():
    a, _ = two_models(np.random.default_rng(4))
    found = paired_difference(population(a), population(a))
    assert (found.ties, found.interval.low, found.interval.high) == (1, 0, 0)


def test_other_chips_or_images_are_refused():
    a, b = two_models(np.random.default_rng(5))
    for other in (
        population(b, seed=1),
        population(b, start=1),
        population(b[:-1]),
        population(b[:, :-1]),
        population(b, folds=2),
    ):
        with pytest.raises(ValueError, match="same chips on the same images. Received"):
            paired_difference(population(a), other)
    counts = population(a, False), population(b)
    with pytest.raises(ValueError, match="expected each answer"):
        paired_difference(*counts, images="new")
    assert paired_difference(*counts) == paired_difference(*counts, images="test_set")
    with pytest.raises(ValueError, match="at least 2 chips"):
        paired_difference(population(a[:1]), population(b[:1]))


def test_two_factors_are_the_two_way_analysis():
    data = np.random.default_rng(6).random((6, 9))
    found = {c.source: c for c in crossed_components(data, ("chip", "image"))}
    table = two_way(data)
    assert found["chip:image"].variance == pytest.approx(table.ms_interaction)
    assert found["chip"].estimate == pytest.approx((table.ms_chips - table.ms_interaction) / 9)
    assert found["image"].estimate == pytest.approx((table.ms_images - table.ms_interaction) / 6)
    assert (found["chip"].df, found["image"].df, found["chip:image"].df) == (5, 8, 40)


def test_three_factors_are_found():
    rng = np.random.default_rng(7)
    sizes, names = (5, 8, 10), ("seed", "chip", "image")
    truth = {
        "seed": 1.0, "chip": 2.0, "image": 3.0, "seed:chip": 0.5, "seed:image": 0.8,
        "chip:image": 1.5, "seed:chip:image": 0.6,
    }  # fmt: skip
    found = {name: [] for name in truth}
    for _ in range(500):
        data = np.zeros(sizes)
        for source, variance in truth.items():
            shape = [
                n if name in source.split(":") else 1 for n, name in zip(sizes, names, strict=True)
            ]
            data = data + variance**0.5 * rng.standard_normal(shape)
        for component in crossed_components(data, names):
            found[component.source].append(component.estimate)
    for source, variance in truth.items():
        assert np.mean(found[source]) == pytest.approx(variance, rel=0.15), source


def training_seeds(rng, seeds=6, chips=30, images=400):
    difficulty = rng.standard_normal((1, images))
    chip = 0.4 * rng.standard_normal((chips, 1))
    return [
        1.5 + 0.2 * rng.standard_normal() + chip + difficulty
        + 0.5 * rng.standard_normal((chips, images)) > 0
        for _ in range(seeds)
    ]  # fmt: skip


def test_the_split_of_kept_answers_and_of_counts():
    matrices = training_seeds(np.random.default_rng(8))
    kept = variance_split({s: population(m) for s, m in enumerate(matrices)})
    counts = variance_split({s: population(m, False) for s, m in enumerate(matrices)})
    assert kept.crossed and counts.crossed
    assert kept.mean == pytest.approx(np.mean(matrices))
    assert [c.source for c in kept.components][:3] == ["seed", "chip", "image"]
    assert [c.source for c in counts.components] == ["seed", "chip", "seed:chip"]
    # The images' share of the interactions is all that counts cannot see.
    for source in ("seed", "chip"):
        assert kept[source].variance == pytest.approx(counts[source].variance, rel=0.1)
    assert kept["image"].variance > kept["chip"].variance > kept["seed"].variance > 0


def test_other_chips_for_each_seed_are_nested():
    matrices = training_seeds(np.random.default_rng(9))
    split = variance_split({s: population(m, seed=s) for s, m in enumerate(matrices)})
    assert not split.crossed
    accuracies = np.array([m.mean(1) for m in matrices])
    # One-way analysis of variance, as scipy's F has it: F = 1 + n s_seed^2 / s_chip^2.
    f = stats.f_oneway(*accuracies).statistic
    assert 1 + 30 * split["seed"].estimate / split["chip"].variance == pytest.approx(f)
    with pytest.raises(KeyError, match="expected one of"):
        split["image"]


def test_negative_estimates_are_clipped_and_reported():
    matrix = training_seeds(np.random.default_rng(10), 1)[0]
    accuracies = [matrix, matrix[::-1], np.roll(matrix, 7, axis=0)]
    split = variance_split({s: population(m, seed=s) for s, m in enumerate(accuracies)})
    assert split["seed"].clipped
    assert split["seed"].variance == 0 > split["seed"].estimate


def test_unequal_designs_are_refused():
    a, b, c = training_seeds(np.random.default_rng(11), 3)
    for results in (
        {0: population(a)},
        {0: population(a), 1: population(b[:-1])},
        {0: population(a[:1]), 1: population(b[:1])},
        {0: population(a, folds=2), 1: population(b, folds=2)},
        {0: population(a), 1: population(b[:, :-1])},
    ):
        with pytest.raises(ValueError, match="expected .*Received: "):
            variance_split(results)
    with pytest.raises(ValueError, match="one axis of at least 2 levels"):
        crossed_components(c[:1], ("chip", "image"))
