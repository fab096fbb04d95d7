"""Trials of placements: what is planned, what is given up early, what is chosen in the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from keras_rram.placement.bench import HEALTHY, Answers, Bench
from keras_rram.placement.front import pareto
from keras_rram.placement.walk import Placement

_LOOKS = (0.25, 0.5, 1.0)
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Trial:
    """One placement as a search saw it.

    Attributes:
        groups: names of the groups on faulty hardware; of an architecture its `NAME=CHOICE`s.
        share: their share of the work, in `[0, 1]`.
        accuracies: accuracy of each chip that was evaluated.
        stopped: whether it was given up before all chips, as another one is better.
    """

    groups: tuple[str, ...]
    share: float
    accuracies: tuple[float, ...]
    stopped: bool = False

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return float(np.mean(self.accuracies))


class Trials:
    """Evaluates placements of groups on a bench, and gives up on those that are dominated.

    After a quarter and after half of the chips a placement is compared, chip by chip, with every
    one that was evaluated before and has at least its share on faulty hardware. Where the upper end
    of the paired difference's interval is below zero, it ends there: the rest of its chips would
    only say by how much it is worse. The looks share the error probability.

    Args:
        bench: the model, chips and images of the search.
        groups: name -> layers.
        work: name -> share of the model's work, in `[0, 1]`.
    """

    def __init__(
        self, bench: Bench, groups: Mapping[str, Sequence[str]], work: Mapping[str, float]
    ):
        if set(groups) != set(work):
            raise ValueError(f"expected the work of {sorted(groups)}. Received: {sorted(work)}")
        self.bench, self.groups, self.work = bench, dict(groups), dict(work)
        self.known: dict[Placement, Trial] = {}

    def placement(self, groups: Sequence[str]) -> Placement:
        """Returns the layers of some groups."""
        return HEALTHY.union(*(self.groups[name] for name in groups))

    @property
    def choices(self) -> dict[str, tuple[bool, bool]]:
        """Whether each group is on faulty hardware."""
        return dict.fromkeys(self.groups, (False, True))

    def params(self, groups: Sequence[str]) -> dict[str, bool]:
        """Returns a placement as one choice for each group."""
        return {name: name in set(groups) for name in self.groups}

    def take(self, chosen: Mapping[str, bool]) -> Trial:
        """Evaluates what is chosen for each group; see `evaluate`."""
        return self.evaluate([name for name in self.groups if chosen[name]])

    def remember(self, trial: Trial) -> None:
        """Takes note of what another process found."""
        self.known.setdefault(self.placement(trial.groups), trial)

    def evaluate(self, groups: Sequence[str]) -> Trial:
        """Evaluates a placement, or returns what is known of it."""
        chosen = tuple(name for name in self.groups if name in set(groups))
        placement = self.placement(chosen)
        if placement in self.known:
            return self.known[placement]
        share = sum(self.work[name] for name in chosen)
        every, seen = len(self.bench.chips), 0
        answers: Answers = []
        for look in _LOOKS:
            stop = every if look == 1 else max(2, round(look * every))
            if stop > seen:
                found = self.bench.answers([placement], range(seen, stop))[placement]
                answers, seen = answers + found, stop
            trial = Trial(chosen, share, tuple(float(one.mean()) for one in answers), seen < every)
            if seen < every and self._is_dominated(trial):
                break
        self.known[placement] = trial
        return trial

    def _is_dominated(self, trial: Trial) -> bool:
        level = 1 - (1 - _CONFIDENCE) / len(_LOOKS)
        mine = np.array(trial.accuracies)
        for other in self.known.values():
            if other.share < trial.share or len(other.accuracies) < mine.size:
                continue
            worse = mine - np.array(other.accuracies[: mine.size])
            reach = stats.t.ppf(level, mine.size - 1) * worse.std(ddof=1) / np.sqrt(mine.size)
            if worse.mean() + reach < 0:
                return True
        return False


class TrainedTrials:
    """Evaluates architectures, each of which is built and trained anew: the short-training proxy.

    Use it where a choice changes the network itself, so that no trained model can answer. A short
    training ranks architectures roughly; how far its ranks agree with those of full trainings is
    to be measured for a network and a recipe (`rank_correlation` of the same choices, both ways).

    Args:
        choices: name -> what there is to choose from.
        train: called with one choice for each name; builds, trains and evaluates the network, and
            returns the share of its work on faulty hardware and the accuracy of each chip.
    """

    def __init__(
        self,
        choices: Mapping[str, Sequence[Any]],
        train: Callable[[Mapping[str, Any]], tuple[float, Sequence[float]]],
    ):
        self.choices, self._train = dict(choices), train
        self.known: dict[tuple[str, ...], Trial] = {}

    def take(self, chosen: Mapping[str, Any]) -> Trial:
        """Trains and evaluates an architecture, or returns what is known of it."""
        name = tuple(f"{key}={chosen[key]}" for key in self.choices)
        if name not in self.known:
            share, accuracies = self._train({key: chosen[key] for key in self.choices})
            self.known[name] = Trial(name, share, tuple(map(float, accuracies)))
        return self.known[name]

    def remember(self, trial: Trial) -> None:
        """Takes note of what another process found."""
        self.known.setdefault(trial.groups, trial)


def greedy_plan(
    losses: Mapping[str, float], work: Mapping[str, float], trials: int
) -> list[tuple[str, ...]]:
    """Returns growing placements, cheapest loss per work first; from nothing to everything.

    Args:
        losses: group -> accuracy that is lost where it alone is faulty.
        work: group -> share of the work.
        trials: how many placements at most, evenly along the way.
    """
    order = sorted(losses, key=lambda name: losses[name] / max(work[name], 1e-12))
    counts = np.linspace(0, len(order), min(trials, len(order) + 1)).round().astype(int)
    return [tuple(order[:count]) for count in counts]


def random_plan(groups: Sequence[str], trials: int, seed: int) -> list[tuple[str, ...]]:
    """Returns placements at random, of all sizes alike: each group with a probability drawn first.

    Args:
        groups: names.
        trials: how many.
        seed: seed of the draws.
    """
    rng = np.random.default_rng(seed)
    return [
        tuple(name for name in groups if rng.random() < density) for density in rng.random(trials)
    ]


def best(trials: Sequence[Trial], most_loss: float | None, share: float | None) -> Trial | None:
    """Returns the trial of the front that is asked for, or None where none is good enough.

    Args:
        trials: the trials, one of them of nothing on faulty hardware if `most_loss` is given.
        most_loss: the largest share of work at this loss of accuracy, at most.
        share: or the best accuracy at this share of work, at least.

    Raises:
        ValueError: unless exactly one of the two is given.
    """
    if (most_loss is None) == (share is None):
        raise ValueError(
            f"expected most_loss or share. Received: most_loss={most_loss}, share={share}"
        )
    front = pareto([one for one in trials if not one.stopped])
    if share is not None:
        return next((one for one in front if one.share >= share), None)
    healthy = max((one.mean for one in trials if not one.groups), default=None)
    if healthy is None or most_loss is None:
        raise ValueError("expected a trial without faults, which a loss is measured from.")
    return next((one for one in front[::-1] if one.mean >= healthy - most_loss), None)
