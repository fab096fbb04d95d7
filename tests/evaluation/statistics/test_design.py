"""Variance components from folds, and the variance and size of designs."""

import numpy as np
import pytest

from keras_rram.evaluation.statistics.design import (
    Components,
    chips_needed,
    components,
    design_variance,
)
from keras_rram.evaluation.statistics.folds import fold_of, stratified_folds
from keras_rram.evaluation.statistics.two_way import two_way
from tests.populations import TestSet


def test_all_images_are_the_two_way_analysis():
    matrix = np.random.default_rng(0).random((6, 40)) < 0.8
    found, table = components(list(matrix), 1), two_way(matrix)
    assert found.interaction == pytest.approx(table.ms_interaction)
    assert found.image == pytest.approx(table.image_variance)
    assert found.chip == pytest.approx(table.ms_chips / 40)
    assert found.mean == pytest.approx(matrix.mean())
    assert found.df == 5


def test_components_are_found_from_folds():
    world = TestSet(1024, 0.85, 0.05, rho=0.6)
    rng = np.random.default_rng(1)
    results = []
    for run in range(60):
        folds = stratified_folds(world.labels, 64, run)
        limits = world.draw(rng, 64)
        answers = [
            world.answers(rng, limit, folds[fold_of(k, len(folds))])
            for k, limit in enumerate(limits)
        ]
        results.append(components(answers, len(folds)))
    everything = two_way(world.answers(rng, world.draw(rng, 600), np.arange(1024)))
    assert np.mean([r.chip for r in results]) == pytest.approx(world.chip_sd**2, rel=0.15)
    assert np.mean([r.image for r in results]) == pytest.approx(everything.image_variance, rel=0.1)
    assert np.mean([r.interaction for r in results]) == pytest.approx(
        everything.ms_interaction, rel=0.05
    )


def test_nothing_is_planned_from_a_variance_of_zero():
    found = components([np.ones(50, bool)] * 8, 4)
    assert found.chip == found.image == 0
    assert 0 < found.interaction < 0.01


def test_design_variance_by_hand():
    found = Components(chip=0.01, image=0.05, interaction=0.04, df=8, mean=0.9)
    # All images: only chips count.
    assert design_variance(found, 10, 1, 1000) == pytest.approx(0.001)
    # 4 folds of 250 images, all used twice: (0.01 + 3/4 * 0.04 / 250) / 8.
    assert design_variance(found, 8, 4, 1000) == pytest.approx((0.01 + 0.00012) / 8)
    # 2 of 4 folds: half of the images' variance remains.
    expected = 0.5 * (0.75 * 0.05 / 250) / 2 + (0.01 + 0.00012) / 4
    assert design_variance(found, 4, 4, 1000) == pytest.approx(expected)


@pytest.mark.parametrize("folds", [1, 4, 32])
def test_chips_needed_is_the_smallest_number(folds):
    found = Components(chip=4e-4, image=0.05, interaction=0.04, df=8, mean=0.9)
    for variance in (1e-4, 1e-5, 3e-6):
        chips = chips_needed(found, folds, 4096, variance, 10_000)
        step = 1 if folds == 1 else 2
        assert chips % step == 0
        assert design_variance(found, chips, folds, 4096) <= variance
        assert design_variance(found, chips - step, folds, 4096) > variance


def test_chips_needed_says_when_the_cap_is_too_low():
    found = Components(chip=4e-4, image=0.05, interaction=0.04, df=8, mean=0.9)
    assert chips_needed(found, 4, 4096, 1e-6, 100) > 100
    assert chips_needed(found, 4, 4096, -1e-6, 100) > 100
