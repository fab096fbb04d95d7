"""Searches placements: greedy, at random, and with Optuna, in one study that can be resumed."""

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from keras_rram.placement.bench import HEALTHY, Answers, Bench
from keras_rram.placement.front import pareto
from keras_rram.placement.walk import Placement

WAYS = ("greedy", "random", "optuna")
"""How placements are proposed."""

_HEARTBEAT = 10
_GRACE = 60
_LOOKS = (0.25, 0.5, 1.0)
_CONFIDENCE = 0.95

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One placement as a search saw it.

    Attributes:
        groups: names of the groups on faulty hardware.
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


def run_search(
    trials: Trials,
    way: str,
    plan: Sequence[Sequence[str]],
    count: int,
    path: str | os.PathLike,
    fingerprint: Mapping[str, Any],
    seed: int = 0,
) -> list[Trial]:
    """Runs one way of searching until its study has `count` trials, or goes on with it.

    The study is an Optuna study of two objectives, accuracy and share, in an SQLite file. Several
    processes may work on one file at once; a trial whose process was killed is tried again.

    Args:
        trials: what evaluates.
        way: one of `WAYS`, the study's name.
        plan: placements to try first; those of "greedy" and "random" are all there is, "optuna"
            goes on with its own proposals (TPE, https://optuna.org).
        count: trials of the study, this process's and others'.
        path: the SQLite file.
        fingerprint: what the search is of, plain values; a study of another one is refused.
        seed: seed of the proposals of a new study; processes that join draw others.

    Returns:
        The study's finished trials, in order.

    Raises:
        ValueError: if Optuna is not installed, or the study is of something else.
    """
    optuna = _optuna()
    study = _study(optuna, way, path, json.dumps(dict(fingerprint), sort_keys=True), seed)
    names, done = list(trials.groups), (optuna.trial.TrialState.COMPLETE,)
    planned = [{name: name in set(groups) for name in names} for groups in plan]
    state = optuna.trial.TrialState
    there = [
        one.params or one.system_attrs.get("fixed_params")
        for one in study.get_trials(states=(*done, state.RUNNING, state.WAITING))
    ]
    for params in planned[:count]:
        if params not in there:  # but one that was interrupted is tried again
            study.enqueue_trial(params)
            there.append(params)
    wanted = count if way == "optuna" else min(count, len({tuple(p.values()) for p in planned}))
    for one in study.get_trials(states=done):
        held = _trial(one)
        trials.known.setdefault(trials.placement(held.groups), held)

    def objective(trial: Any) -> tuple[float, float]:
        chosen = [name for name in names if trial.suggest_categorical(name, [False, True])]
        found = trials.evaluate(chosen)
        trial.set_user_attr("groups", list(found.groups))
        trial.set_user_attr("accuracies", list(found.accuracies))
        trial.set_user_attr("stopped", found.stopped)
        return found.mean, found.share

    if len(study.get_trials(states=done)) < wanted:
        enough = optuna.study.MaxTrialsCallback(wanted, states=done)
        study.optimize(objective, callbacks=[enough])
    return [_trial(one) for one in study.get_trials(states=done)]


def stored(path: str | os.PathLike, way: str, key: str, value: Any = None) -> Any:
    """Returns what a study keeps under a name, None for nothing; with a value, keeps it first."""
    optuna = _optuna()
    study = optuna.load_study(study_name=way, storage=_storage(optuna, path))
    if value is not None:
        study.set_user_attr(key, value)
    return study.user_attrs.get(key)


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


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ValueError("A search needs Optuna: pip install 'keras-rram[search]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _storage(optuna: Any, path: str | os.PathLike) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            f"sqlite:///{os.fspath(path)}",
            heartbeat_interval=_HEARTBEAT,
            grace_period=_GRACE,
            heartbeat_stale_trial_callback=lambda study, trial: study.enqueue_trial(trial.params),
            engine_kwargs={"connect_args": {"timeout": 60}},
        )


def _study(optuna: Any, way: str, path: Any, fingerprint: str, seed: int) -> Any:
    if way not in WAYS:
        raise ValueError(f"expected a way of searching out of {WAYS}. Received: {way!r}")
    study = optuna.create_study(
        study_name=way,
        storage=_storage(optuna, path),
        directions=["maximize", "maximize"],
        load_if_exists=True,
    )
    if (held := study.user_attrs.get("fingerprint")) not in (None, fingerprint):
        before, now = json.loads(held), json.loads(fingerprint)
        differing = sorted(k for k in before | now if before.get(k) != now.get(k))
        raise ValueError(
            f"expected the search that the study '{way}' in '{path}' is of. What differs is "
            f"{', '.join(differing)} (name another folder)"
        )
    study.set_user_attr("fingerprint", fingerprint)
    joined = len(study.trials)
    entropy = [seed, joined, os.getpid()] if joined else [seed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.TPESampler(
            seed=int(np.random.default_rng(entropy).integers(1 << 31)), multivariate=True
        )
    return study


def _trial(one: Any) -> Trial:
    held = one.user_attrs
    return Trial(
        tuple(held["groups"]), float(one.values[1]), tuple(held["accuracies"]), held["stopped"]
    )
