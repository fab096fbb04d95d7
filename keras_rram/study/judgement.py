"""The study's findings, judged by finished runs."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from keras_rram.evaluation.statistics.intervals import Interval, Scale, wilson_interval
from keras_rram.evaluation.statistics.two_way import crossed_interval
from keras_rram.study.bottlenecks import ALL_PANELS
from keras_rram.study.findings import FINDINGS, Finding
from keras_rram.study.methods import METHODS
from keras_rram.study.published import Published
from keras_rram.training.recipes import RECIPES

FACTORS = ("seed", "chip", "image")
NOT_COMPARABLE = "not comparable"
OPEN = "open"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A finding, judged by the runs of one network, protocol, scale and method.

    Attributes:
        finding: the finding.
        kind: network, protocol, scale and method of the runs.
        seeds: training seeds behind it.
        interval: the mean, or the difference of means, with its 95% interval.
        verdict: "confirmed", "refuted", "open" where the interval holds the bound or more training
            may reach it, or "not comparable" where the two panels were not trained alike.
        caveat: how training differs: "8 epochs against 40", "20 of the study's 200 epochs"; or
            empty.
    """

    finding: Finding
    kind: tuple[str, str, str, str]
    seeds: tuple[int, ...]
    interval: Interval
    verdict: str
    caveat: str = ""


def judge(
    runs: Sequence[Published], population: str = "chips", confidence: float = 0.95
) -> list[Verdict]:
    """Judges every finding by all runs that allow it, each way of training for itself.

    A finding about an accuracy as such is judged by each network's longest training alone. Where
    that is shorter than the study's, an accuracy that is not reached leaves the finding open.

    Where each chip's answers were kept, the interval is that of the mean answer, or of the mean
    difference of two panels' answers, over crossed samples (`crossed_interval`): images, chips
    (those of one index are a pair), and training seeds where there are several. Where they were
    not, it is bounded by the rows' own two-way intervals: a difference has at most the sum of
    their half-widths as its own, however the two rows depend on each other. Where nothing is
    faulty all chips are one.

    Args:
        runs: finished runs; those of one network, protocol, scale and method are compared, seed by
            seed.
        population: the chips as they are, "chips", or recalibrated, "chips_repaired". A run without
            faults has one population only, which serves for both.
        confidence: of the intervals, in (0, 1); 0.95 where answers were not kept.
    """
    found = []
    kinds = dict.fromkeys(run.kind for run in runs)
    for finding in FINDINGS:
        for kind in kinds:
            mine, others = (_by_seed(runs, kind, name) for name in (finding.panel, finding.other))
            seeds = tuple(sorted(set(mine) & set(others) if finding.other else mine))
            if not seeds or (finding.other is None and _is_longer_elsewhere(mine, runs)):
                continue
            pairs = [(mine[seed], others.get(seed)) for seed in seeds]
            interval = _interval(pairs, population, confidence)
            caveat = _caveat(pairs)
            verdict = NOT_COMPARABLE if caveat else _verdict(finding, interval)
            not_reached = "confirmed" if finding.is_below else "refuted"
            shorter = _shorter(mine[seeds[0]])
            if finding.value is not None and verdict == not_reached and shorter:
                verdict, caveat = OPEN, shorter  # more training may reach it
            found.append(Verdict(finding, kind, seeds, interval, verdict, caveat))
    return found


def has_faults(finding: Finding) -> bool:
    """Returns whether any of a finding's panels has faults; without, the tiers are one."""
    panels = (finding.panel, finding.other)
    return any(ALL_PANELS[panel].fault_rate for panel in panels if panel)


@dataclasses.dataclass(frozen=True)
class Gain:
    """What another way of training gives on a panel, at equal epochs.

    Attributes:
        run: the run of the other method.
        base: the run of the method that it is compared with: the study's, or the one that it adds
            something to.
        interval: the difference of their means, tier A, with its 95% interval.
    """

    run: Published
    base: Published
    interval: Interval


def gains(runs: Sequence[Published]) -> list[Gain]:
    """Returns what other methods give, where theirs and the other were run for as many epochs."""
    found = []
    for run in runs:
        for base in runs:
            alike = run.kind[:3] == base.kind[:3] and run.panel == base.panel
            alike = alike and run.record["seed"] == base.record["seed"]
            alike = alike and run.record["epochs"] == base.record["epochs"]
            if alike and base.record["method"] in METHODS[run.record["method"]].instead_of:
                found.append(Gain(run, base, _interval([(run, base)], "chips", 0.95)))
    return found


def _is_longer_elsewhere(mine: dict[int, Published], runs: Sequence[Published]) -> bool:
    """Returns whether runs of the same panel, network, protocol and method had more epochs."""
    one = next(iter(mine.values()))
    return any(
        run.panel == one.panel
        and run.kind[:2] == one.kind[:2]
        and run.kind[3] == one.kind[3]
        and run.record["epochs"] > one.record["epochs"]
        for run in runs
    )


def _by_seed(
    runs: Sequence[Published], kind: tuple[str, ...], panel: str | None
) -> dict[int, Published]:
    return {run.record["seed"]: run for run in runs if run.kind == kind and run.panel.name == panel}


def _verdict(finding: Finding, interval: Interval) -> str:
    bound = finding.margin if finding.value is None else finding.value
    above, below = interval.low > bound, interval.high < bound
    if finding.is_below:
        above, below = below, above
    return "confirmed" if above else "refuted" if below else OPEN


def _shorter(run: Published) -> str:
    """Returns by how much a run is shorter than the study's, "20 of the study's 200 epochs"."""
    epochs, whole = run.record["epochs"], RECIPES[run.panel.dataset].epochs
    return f"{epochs} of the study's {whole} epochs" if epochs < whole else ""


def _caveat(pairs: Sequence[tuple[Published, Published | None]]) -> str:
    for mine, other in pairs:
        if other is not None and mine.training != other.training:
            epochs = [run.record["epochs"] for run in (mine, other)]
            alike = epochs[0] == epochs[1]
            return "other recipes" if alike else f"{epochs[0]} epochs against {epochs[1]}"
    return ""


def _interval(
    pairs: Sequence[tuple[Published, Published | None]], population: str, confidence: float
) -> Interval:
    if all(run.answers is not None for pair in pairs for run in pair if run is not None):
        cube = answers_cube(pairs, population)
        scale: Scale = "logit" if pairs[0][1] is None else "raw"
        return crossed_interval(cube, FACTORS, confidence, scale)
    low, estimate, high = np.mean([_row_bounds(*pair, population) for pair in pairs], axis=0)
    question = "this seed, new chips, new images"
    method = "bound from the rows' intervals, as answers were not kept"
    return Interval(float(estimate), float(low), float(high), 0.95, question, method)


def answers_cube(
    pairs: Sequence[tuple[Published, Published | None]], population: str
) -> np.ndarray:
    """Returns answers, or their differences, shape (seeds, chips, images), on common images.

    Args:
        pairs: for each training seed a run that kept its answers, and one to take away, or None.
        population: see `judge`.
    """

    def answers(run: Published) -> tuple[np.ndarray, np.ndarray]:
        if run.answers is None:
            raise ValueError(f"expected kept answers. Received: none in {run.record['name']}")
        name = run.population(population)
        return run.answers.images[name], run.answers.right[name]

    numbers = [answers(run)[0] for pair in pairs for run in pair if run is not None]
    images = functools.reduce(np.intersect1d, numbers)

    def on_common(run: Published) -> np.ndarray:
        own, right = answers(run)
        return right[:, np.searchsorted(own, images)].astype(np.int8)

    layers = []
    for mine, other in pairs:
        right = on_common(mine)
        if other is not None:
            left = on_common(other)
            # A run without faults has one chip, which stands against each chip of the other.
            count = min((len(one) for one in (right, left) if len(one) > 1), default=1)
            right = right[:count] - left[:count]
        layers.append(right)
    count = min(map(len, layers))
    return np.stack([layer[:count] for layer in layers])


def _row_bounds(
    mine: Published, other: Published | None, population: str
) -> tuple[float, float, float]:
    """Returns lower bound, mean and upper bound of a row, or of the difference of two."""
    low, mean, high = row(mine, population)
    if other is None:
        return low, mean, high
    other_low, other_mean, other_high = row(other, population)
    return low - other_high, mean - other_mean, high - other_low


def row(run: Published, population: str) -> tuple[float, float, float]:
    """Returns lower bound, mean and upper bound of a row: over images alone, if chips are one."""
    found = run.record["populations"][run.population(population)]
    if found["low"] is not None:
        return found["low"], found["mean"], found["high"]
    images = run.record["test_images"]
    interval = wilson_interval(round(found["mean"] * images), images)
    return interval.low, interval.estimate, interval.high
