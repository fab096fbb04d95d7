"""What the study concludes, as statements that a population of chips can confirm or refute."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from keras_rram.evaluation.statistics.intervals import Interval, wilson_interval
from keras_rram.study.published import Published


@dataclasses.dataclass(frozen=True)
class Finding:
    """One statement: the mean accuracy of a panel's chips against another's, or against a value.

    Attributes:
        statement: in words.
        panel: the panel that it is about.
        other: the panel that it is compared with; None where `value` is given.
        margin: the statement says `mean(panel) - mean(other) > margin`, or, with `is_below`, `<`.
        value: accuracy in [0, 1] that the mean is compared with.
        is_below: whether the statement is that it is less.
    """

    statement: str
    panel: str
    other: str | None = None
    margin: float = 0.0
    value: float | None = None
    is_below: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A finding, judged by one pair of runs.

    Attributes:
        finding: the finding.
        network: of the runs, likewise the next two.
        protocol: see `network`.
        scale: see `network`.
        interval: the mean, or the difference of means, with its 95% interval.
        verdict: "confirmed", "refuted", or "open" where the interval holds the margin.
        caveat: how the two runs differ beside what is compared: "8 epochs against 40"; or empty.
    """

    finding: Finding
    network: str
    protocol: str
    scale: str
    interval: Interval
    verdict: str
    caveat: str = ""


FINDINGS = (
    Finding("Two bottlenecks without drops reach 98% (2A)", "2A", value=0.98),
    Finding("Four bottlenecks do better than two at 10% (2C against 2B)", "2C", "2B"),
    Finding("Six bottlenecks do better than two at 20% (3B against 3A)", "3B", "3A"),
    Finding("Seven do worse than six (3C against 3B)", "3C", "3B", is_below=True),
    *(
        Finding(
            f"{count} bottlenecks stay below 80% at 30% ({name})", name, value=0.8, is_below=True
        )
        for name, count in (("S1A", 2), ("S1B", 3), ("S1C", 4), ("S1D", 5), ("S1E", 6))
    ),
    Finding("ResNet20 reaches 91% (4A)", "4A", value=0.91),
    Finding("One bottleneck costs less than a point (4B against 4A)", "4B", "4A", margin=-0.01),
    Finding("Six at 20% cost less than 5 points (4C against 4A)", "4C", "4A", margin=-0.05),
    Finding("All but three cost more than six (4D against 4C)", "4D", "4C", is_below=True),
    Finding("Three do better than six at 30% (4E against 4F)", "4E", "4F"),
    Finding(
        "Six at 30% fall as low as 4D, within 5 points (4F against 4D)",
        "4F",
        "4D",
        margin=0.05,
        is_below=True,
    ),
    Finding(
        "Bottlenecks tolerate more than plain convolutions (4D against all)", "4D", "all", 0.02
    ),
    *(
        Finding(
            f"Drop-Connect beats plain training by 10 points ({title}, 30% faults)",
            f"1-{network}-dropconnect",
            f"1-{network}-plain",
            margin=0.1,
        )
        for network, title in (("resnet20", "ResNet20"), ("mobilenet_v2", "MobileNetV2"))
    ),
)


def judge(
    runs: Sequence[Published], population: str = "chips", confidence: float = 0.95
) -> list[Verdict]:
    """Judges every finding by all runs that allow it.

    The interval of a difference is Welch's over chips, given the test images; that of a mean the t
    interval over chips, or Wilson's over images where nothing is faulty and all chips are one.
    One training seed stands behind each mean, which no interval here accounts for.

    Args:
        runs: finished runs; those of one network, protocol, scale and seed are compared.
        population: the chips as they are, "chips", or recalibrated, "chips_repaired". A run without
            faults has one population only, which serves for both.
        confidence: of the intervals, in (0, 1).
    """
    found = []
    for finding in FINDINGS:
        for run in runs:
            if run.panel.name != finding.panel:
                continue
            other = _partner(run, runs, finding.other)
            if finding.other is not None and other is None:
                continue
            interval = _interval(run, other, population, confidence)
            bound = finding.margin if finding.value is None else finding.value
            above, below = interval.low > bound, interval.high < bound
            if finding.is_below:
                above, below = below, above
            verdict = "confirmed" if above else "refuted" if below else "open"
            found.append(Verdict(finding, *run.kind, interval, verdict, _caveat(run, other)))
    return found


def _caveat(run: Published, other: Published | None) -> str:
    epochs = [each.record["epochs"] for each in (run, other) if each is not None]
    return "" if len(set(epochs)) == 1 else f"{epochs[0]} epochs against {epochs[1]}"


def _partner(run: Published, runs: Sequence[Published], name: str | None) -> Published | None:
    for other in runs:
        same = other.record["seed"] == run.record["seed"] and other.kind == run.kind
        if same and other.panel.name == name:
            return other
    return None


def _interval(
    run: Published, other: Published | None, population: str, confidence: float
) -> Interval:
    mine = _accuracies(run, population)
    if other is None:
        if len(mine) == 1:
            images = run.record["test_images"]
            return wilson_interval(round(float(mine[0]) * images), images, confidence)
        found = stats.ttest_1samp(mine, 0.0).confidence_interval(confidence)
        return _as_interval(float(mine.mean()), found, confidence, "t over chips")
    theirs = _accuracies(other, population)
    difference = float(mine.mean() - theirs.mean())
    if len(mine) == len(theirs) == 1:
        return _two_shares(run, other, float(mine[0]), float(theirs[0]), confidence)
    if len(theirs) == 1:
        found = stats.ttest_1samp(mine - theirs[0], 0.0).confidence_interval(confidence)
    else:
        found = stats.ttest_ind(mine, theirs, equal_var=False).confidence_interval(confidence)
    return _as_interval(difference, found, confidence, "Welch over chips")


def _accuracies(run: Published, population: str) -> np.ndarray:
    return run.chips[population if population in run.chips else "chips"]


def _two_shares(
    run: Published, other: Published, mine: float, theirs: float, confidence: float
) -> Interval:
    """Returns Wald's interval of the difference of two shares of correct answers."""
    variance = (
        mine * (1 - mine) / run.record["test_images"]
        + theirs * (1 - theirs) / other.record["test_images"]
    )
    reach = float(stats.norm.ppf(0.5 + confidence / 2)) * variance**0.5
    difference = mine - theirs
    return Interval(difference, difference - reach, difference + reach, confidence, "Wald")


def _as_interval(estimate: float, found: Any, confidence: float, method: str) -> Interval:
    return Interval(estimate, float(found.low), float(found.high), confidence, method)
