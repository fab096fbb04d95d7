"""What the spread of answers is made of, where a panel has several training seeds."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_rram.evaluation.statistics.anova import crossed_components
from keras_rram.study.judgement import FACTORS, answers_cube
from keras_rram.study.published import Published
from keras_rram.study.run import TIERS

SOURCES = (*FACTORS, "seed:chip", "seed:image", "chip:image", "seed:chip:image")
"""Training seeds, chips and images, pairs of them beyond that, and the rest."""


@dataclasses.dataclass(frozen=True)
class Split:
    """The spread of the answers of one panel's runs.

    Attributes:
        run: the first of the runs, which differ in nothing but the training seed.
        seeds: the training seeds of those whose answers are kept.
        tier: "A" or "B".
        sd: one of `SOURCES` -> standard deviation of single answers (right is 1, wrong 0).
    """

    run: Published
    seeds: tuple[int, ...]
    tier: str
    sd: dict[str, float]


def split_by_source(runs: Sequence[Published]) -> list[Split]:
    """Splits the variance of answers by `crossed_components`.

    Args:
        runs: finished runs; panels with faults, and two or more runs with kept answers that differ
            in nothing but the training seed, count.

    Returns:
        A `Split` for each such panel and tier.
    """
    groups: dict[tuple[str, ...], list[Published]] = {}
    for run in runs:
        if run.answers is not None and run.panel.fault_rate:
            groups.setdefault((run.panel.name, *run.kind), []).append(run)
    found = []
    for same in groups.values():
        if len(same) > 1:
            seeds = tuple(sorted(run.record["seed"] for run in same))
            for tier, name in TIERS.items():
                cube = answers_cube([(run, None) for run in same], name).astype(np.float32)
                parts = crossed_components(cube, FACTORS)
                sd = {part.source: part.variance**0.5 for part in parts}
                found.append(Split(same[0], seeds, tier, sd))
    return found
