"""The stop rule: what it plans, that its interval holds when it stops, and what it saves."""

import numpy as np
import pytest
from scipy import stats

from keras_rram.evaluation.statistics.folds import stratified_folds
from keras_rram.evaluation.statistics.stopping import Done, Plan, StopRule
from tests.populations import TestSet


def evaluate(rule, world, rng, seed):
    """Carries out the rule's plans on simulated chips that keep the answers they gave."""
    plan = rule.first_plan()
    limits, kept, plans = np.zeros(0), [], [plan]
    while True:
        folds = stratified_folds(world.labels, plan.images_per_chip, seed)
        assert len(folds) == plan.folds
        limits = np.append(limits, world.draw(rng, plan.chips - len(limits)))
        answers = []
        for chip in range(plan.chips):
            images = folds[plan.fold(chip)]
            if chip == len(kept):
                kept.append((images, world.answers(rng, limits[chip], images)))
            elif len(kept[chip][0]) < len(images):
                old, right = kept[chip]
                fresh = world.answers(rng, limits[chip], images)
                fresh[np.searchsorted(images, old)] = right
                kept[chip] = (images, fresh)
            answers.append(kept[chip][1])
        step = rule.next(plan, answers)
        if isinstance(step, Done):
            return step, plans
        assert step.chips >= plan.chips and step.folds <= plan.folds
        assert (step.chips, step.folds) != (plan.chips, plan.folds)
        plan = step
        plans.append(plan)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mean", "sd", "kind", "target"),
    [
        (0.9, 0.03, "beta", 0.01),
        (0.98, 0.01, "beta", 0.004),
        (0.95, 0.7, "logit-normal", 0.012),
    ],
)
def test_the_interval_holds_when_the_rule_stops(mean, sd, kind, target):
    world = TestSet(2048, mean, sd, kind=kind)
    rule = StopRule(target).looks(max_chips=1000, test_images=2048)
    rng = np.random.default_rng(0)
    ends = [evaluate(rule, world, rng, seed)[0] for seed in range(500)]
    intervals = [end.interval for end in ends]
    covered = np.mean([i.low <= world.truth <= i.high for i in intervals])
    print(
        f"{kind} {mean} {sd}: covers {covered:.3f} of {len(ends)}, chips "
        f"{np.mean([end.chips for end in ends]):.0f}, answers "
        f"{np.mean([end.images for end in ends]):.0f}"
    )
    assert np.mean([end.reached for end in ends]) > 0.99
    assert max(i.half_width for i, end in zip(intervals, ends, strict=True) if end.reached) <= (
        target
    )
    error = np.sqrt(0.05 * 0.95 / len(ends))
    assert covered >= 0.95 - 2 * error
    estimates = [i.estimate for i in intervals]
    assert abs(np.mean(estimates) - world.truth) < 0.15 * target


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "sd"), [(0.9, 0.03), (0.98, 0.01), (0.7, 0.1)])
def test_eight_times_fewer_images_than_all_images_of_a_hundred_chips(mean, sd):
    world = TestSet(10_000, mean, sd)
    rng = np.random.default_rng(1)
    savings = []
    for seed in range(5):
        full = np.array(
            [world.answers(rng, c, np.arange(10_000)).mean() for c in world.draw(rng, 100)]
        )
        half_width = stats.t.ppf(0.975, 99) * full.std(ddof=1) / 10
        rule = StopRule(half_width).looks(max_chips=1000, test_images=10_000)
        end, _ = evaluate(rule, world, rng, seed)
        assert end.reached
        assert end.interval.half_width <= half_width
        assert abs(end.interval.estimate - full.mean()) < 2 * half_width
        savings.append(100 * 10_000 / end.images)
    print(f"{mean} {sd}: {np.mean(savings):.1f} times fewer images, least {min(savings):.1f}")
    assert np.mean(savings) >= 8


def test_the_pilot():
    plan = StopRule(0.005).looks(max_chips=400, test_images=10_000).first_plan()
    assert (plan.chips, plan.folds, plan.images_per_chip, plan.look) == (16, 64, 156, 1)
    assert plan.error + plan.remaining == pytest.approx(0.05)
    small = StopRule(0.05).looks(max_chips=7, test_images=60).first_plan()
    assert (small.chips, small.folds, small.images_per_chip) == (6, 1, 60)


def test_plans_are_replayed_and_errors_add_up():
    world = TestSet(2048, 0.9, 0.03)
    rule = StopRule(0.008).looks(max_chips=500, test_images=2048)
    one = evaluate(rule, world, np.random.default_rng(2), 0)
    assert one == evaluate(rule, world, np.random.default_rng(2), 0)
    plans = one[1]
    assert sum(plan.error for plan in plans) + plans[-1].remaining == pytest.approx(0.05)
    assert [plan.look for plan in plans] == list(range(1, len(plans) + 1))


def test_a_wide_target_stops_at_the_pilot():
    end, plans = evaluate(
        StopRule(0.1).looks(max_chips=100, test_images=2048), TestSet(2048, 0.95, 0.01),
        np.random.default_rng(3), 0,
    )  # fmt: skip
    assert (end.reached, end.chips, len(plans)) == (True, 16, 1)


def test_chips_that_are_all_right_do_not_end_it_too_early():
    rule = StopRule(0.0005).looks(max_chips=100, test_images=2048)
    plan = rule.first_plan()
    step = rule.next(plan, [np.ones(plan.images_per_chip, bool)] * plan.chips)
    assert isinstance(step, Plan)


def test_the_cap_on_chips_ends_it():
    rule = StopRule(0.001).looks(max_chips=50, test_images=1024)
    end, plans = evaluate(rule, TestSet(1024, 0.8, 0.1), np.random.default_rng(4), 0)
    assert not end.reached
    assert end.chips == 50
    assert plans[-1].error > 0.03
    assert "caps on chips (50)" in end.reason
    # Chips are the bottleneck: images beyond the first few are not worth their cost.
    assert end.images < 50 * 1024


def test_the_cap_on_images_is_kept():
    rule = StopRule(0.001, max_images=10_000).looks(max_chips=1000, test_images=1024)
    end, _ = evaluate(rule, TestSet(1024, 0.8, 0.1), np.random.default_rng(5), 0)
    assert not end.reached
    assert end.images <= 10_000


def test_little_spread_between_chips_wants_more_images_of_them():
    rule = StopRule(0.001).looks(max_chips=64, test_images=4096)
    end, _ = evaluate(rule, TestSet(4096, 0.95, 0.001), np.random.default_rng(6), 0)
    assert end.folds < rule.first_plan().folds


def test_new_images_widen_the_interval_and_can_be_out_of_reach():
    world, rng = TestSet(1024, 0.9, 0.01, rho=0.8), np.random.default_rng(7)
    plan = Plan(64, 8, 128, 2, 0.05, 0.0, last=True)
    folds = stratified_folds(world.labels, 128, 0)
    answers = [
        world.answers(rng, limit, folds[plan.fold(k)])
        for k, limit in enumerate(world.draw(rng, 64))
    ]
    ends = {
        images: StopRule(0.002, images=images)
        .looks(max_chips=64, test_images=1024)
        .next(plan, answers)
        for images in ("test_set", "new")
    }
    assert ends["new"].interval.half_width > 1.3 * ends["test_set"].interval.half_width
    assert "test images alone leave" in ends["new"].reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_half_width": 0.5}, "target_half_width"),
        ({"target_half_width": 0}, "target_half_width"),
        ({"max_chips": 3}, "max_chips >= 4"),
        ({"pilot_chips": 2}, "pilot_chips >= 4"),
        ({"pilot_images": 1}, "pilot_images >= 2"),
        ({"test_images": 1}, "test_images >= 2"),
        ({"max_images": 100}, "what the pilot takes"),
        ({"confidence": 95}, "confidence"),
        ({"images": "all"}, "images"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        looks = {
            name: options.pop(name) for name in ("max_chips", "test_images") if name in options
        }
        rule = StopRule(**({"target_half_width": 0.01} | options))
        rule.looks(**({"max_chips": 100, "test_images": 1000} | looks))


def test_answers_of_another_plan_are_refused():
    rule = StopRule(0.01).looks(max_chips=100, test_images=1000)
    plan = rule.first_plan()
    right = np.ones(plan.images_per_chip, bool)
    for answers in ([right] * (plan.chips - 1), [right[:-1]] * plan.chips):
        with pytest.raises(ValueError, match="expected 16 vectors.*Received"):
            rule.next(plan, answers)
