"""What was found, in ten sentences that follow from the verdicts."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from keras_rram.study.findings import Finding
from keras_rram.study.judgement import NOT_COMPARABLE, OPEN, Verdict, has_faults
from keras_rram.study.markdown import kind_name
from keras_rram.study.methods import METHODS, STUDY
from keras_rram.study.panels import PANELS
from keras_rram.study.published import Published
from keras_rram.study.run import POPULATIONS
from keras_rram.study.sources import Split

Judged = Sequence[tuple[Verdict, Verdict]]
"""Each finding's verdict in tier A (chips as they are) and in tier B (recalibrated)."""


def summary(runs: Sequence[Published], judged: Judged, splits: Sequence[Split]) -> list[str]:
    """Returns ten sentences.

    Args:
        runs: all finished runs.
        judged: their verdicts.
        splits: what the spread of their answers is made of.
    """
    panels = {run.panel.name for run in runs} & set(PANELS)
    own = sum(run.panel.name not in PANELS for run in runs)
    seeds = {run.record["seed"] for run in runs}
    chips = max(found["chips"] for run in runs for found in run.record["populations"].values())
    unequal = sum(tier_a.verdict == NOT_COMPARABLE for tier_a, _ in judged)
    longest = longest_trained(runs, judged)
    return [
        f"{len(runs) - own} trainings of {len(panels)} of {len(PANELS)} panels"
        + (f", and {own} of networks of equal cost," if own else "")
        + " stand behind this page, "
        f"each measured on up to {chips} chips, where the study measured one.",
        f"Without faults: {_said(longest, '2A', '4A')}.",
        f"Do more bottlenecks tolerate more? {_said(longest, '2C', '3B')}.",
        f"Is there a number beyond which they harm? {_said(longest, '3C')}.",
        f"Does the accuracy collapse at 30% of faults? {_said(longest, 'S1A', 'S1E')}.",
        _why(runs, splits),
        f"What do bottlenecks cost on CIFAR-10? {_said(longest, '4B', '4C', '4D against 4C')}.",
        f"And at 30% of faults there? {_said(longest, '4E', '4F')}.",
        "Do bottlenecks tolerate more than plain convolutions, and Drop-Connect more than plain "
        f"training? {_said(longest, '4D against all', 'bottlenecks-', '1-')}.",
        f"{unequal} of {len(judged)} comparisons are of unequal training and not judged; the "
        f"intervals count chips and images, and with {len(seeds)} training "
        f"seed{'s' if len(seeds) > 1 else ''} behind a row "
        f"{'seeds too' if len(seeds) > 1 else 'not the luck of training'}{_bounded(runs)}.",
    ]


def _bounded(runs: Sequence[Published]) -> str:
    old = sum(run.answers is None for run in runs)
    if not old:
        return ""
    return (
        f", and {old} of {len(runs)} runs are from before answers were kept, so that their "
        "intervals are wider than they need be"
    )


def longest_trained(runs: Sequence[Published], judged: Judged) -> Judged:
    """Returns the verdicts that lead the page.

    Those of the study's training, unless a finding is about any; of several lengths of training
    those of the longest.
    """
    epochs = {(run.panel.name, run.kind): run.record["epochs"] for run in runs}
    found: dict[tuple[Finding, str, str, str], tuple[int, tuple[Verdict, Verdict]]] = {}
    for pair in judged:
        network, protocol, _, method = pair[0].kind
        if method != STUDY and not pair[0].finding.any_method:
            continue
        length = epochs[pair[0].finding.panel, pair[0].kind]
        key = (pair[0].finding, network, protocol, method)
        if key not in found or length > found[key][0]:
            found[key] = (length, pair)
    return [pair for _, pair in found.values()]


def _said(judged: Judged, *panels: str) -> str:
    """Returns what became of the findings about some panels; those of one claim in one breath."""
    claims: dict[str, dict[str, list[str]]] = {}
    for finding in dict.fromkeys(tier_a.finding for tier_a, _ in judged):
        if any(_is_about(finding, panel) for panel in panels):
            rows = [pair for pair in judged if pair[0].finding == finding]
            claim, _, where = finding.statement.removesuffix(")").partition(" (")
            claims.setdefault(claim, {}).setdefault(_tiers(rows), []).append(where)
    parts = [_claimed(claim, found) for claim, found in claims.items()]
    return "; ".join(parts) or "no two runs allow a judgement yet"


def _claimed(claim: str, found: Mapping[str, Sequence[str]]) -> str:
    """Returns a claim and its verdicts, each with the panels or networks that it holds for."""
    places = [place for places in found.values() for place in places]
    if len(places) == 1:
        return f"*{claim} ({places[0]})* is {next(iter(found))}"
    said = [f"{verdict} ({'; '.join(where)})" for verdict, where in found.items()]
    return f"*{claim}* is {', '.join(said)}"


def _is_about(finding: Finding, panel: str) -> bool:
    if " against " in panel:
        return panel == f"{finding.panel} against {finding.other}"
    return finding.panel == panel or (panel.endswith("-") and finding.panel.startswith(panel))


def _tiers(rows: Judged) -> str:
    """Returns "confirmed in tier A and refuted in tier B", by network where they differ."""
    said = [_in_tiers(*pair) for pair in rows]
    if len(set(said)) == 1:
        return said[0]
    kinds = [verdict.kind for verdict, _ in rows]
    parts = []
    for kind, tiers in zip(kinds, said, strict=True):
        of_network = [other for other in kinds if other[0] == kind[0]]
        if len({other[:3] for other in of_network}) > 1:
            name = f"for {kind_name(kind)}"
        elif len(of_network) > 1:
            name = f"trained {_trained(kind[3])}"
            if len(of_network) < len(kinds):
                name += f" for the {kind[0]} network"
        else:
            name = f"for the {kind[0]} network"
        parts.append(f"{tiers} {name}")
    return ", ".join(parts)


def _trained(method: str) -> str:
    title = METHODS[method].title
    return title if method == STUDY else f"with {title}"


def _in_tiers(tier_a: Verdict, tier_b: Verdict) -> str:
    first, second = _why_open(tier_a), _why_open(tier_b)
    if first != second:
        return f"{first} in tier A and {second} in tier B"
    return f"{first} in both tiers" if has_faults(tier_a.finding) else first


def _why_open(verdict: Verdict) -> str:
    if verdict.verdict == OPEN and verdict.caveat:
        return f"{OPEN} after {verdict.caveat}"
    return verdict.verdict


def gains(runs: Sequence[Published]) -> np.ndarray | None:
    """Returns what recalibration, one scale, and both give, in accuracy; None without runs.

    Where a run has kept its answers, on the chips and images that all populations have.

    Args:
        runs: finished runs; those with all four `POPULATIONS` count.
    """
    whole = [run for run in runs if set(POPULATIONS) <= set(run.chips)]
    if not whole:
        return None
    means = np.array([_means(run) for run in whole])
    return (means[:, 1:] - means[:, :1]).mean(0)


def _means(run: Published) -> list[float]:
    """Returns the mean of each population, on common chips and images where answers were kept."""
    if run.answers is None:
        return [float(run.chips[name].mean()) for name in POPULATIONS]
    images, right = run.answers.images, run.answers.right
    common = functools.reduce(np.intersect1d, (images[name] for name in POPULATIONS))
    chips = min(len(right[name]) for name in POPULATIONS)
    return [
        float(right[name][:chips, np.isin(images[name], common)].mean()) for name in POPULATIONS
    ]


def _why(runs: Sequence[Published], splits: Sequence[Split]) -> str:
    found = gains(runs)
    if found is None:
        return "Why the accuracy collapses at 30% was not taken apart yet."
    return (
        f"Most of that collapse is no lost capacity: recalibrating batch normalization on each "
        f"chip gives back {100 * found[0]:.0f} points on average, the scale of training "
        f"{100 * found[1]:.0f}, both together {100 * found[2]:.0f}{_whose(splits)}."
    )


def _whose(splits: Sequence[Split]) -> str:
    """Returns whether a bad chip is bad for all trainings, of panels with several seeds."""
    as_they_are = [split for split in splits if split.tier == "A"]
    if not as_they_are:
        return ""
    chip, pair = (
        100 * np.sqrt(np.mean([split.sd[source] ** 2 for split in as_they_are]))
        for source in ("chip", "seed:chip")
    )
    said = "for one training rather than for all" if pair > chip else "for all trainings alike"
    return (
        f"; and a chip is bad {said}: chips have a standard deviation of {chip:.1f} points in what "
        f"several trainings share, and of {pair:.1f} in what one has alone"
    )
