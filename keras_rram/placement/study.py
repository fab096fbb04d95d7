"""A search as an Optuna study in an SQLite file: it can be resumed and shared by processes."""

import json
import os
import pathlib
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import filelock
import numpy as np

from keras_rram.files import lock
from keras_rram.placement.search import Trial

WAYS = ("greedy", "random", "optuna")
"""How placements are proposed."""

_PAUSE = 0.5  # seconds between two looks at what others do


class Evaluates(Protocol):
    """What a study asks: `Trials` of placements, or `TrainedTrials` of architectures."""

    @property
    def choices(self) -> Mapping[str, Sequence[Any]]:
        """What there is to choose from, by name."""
        ...

    def take(self, chosen: Mapping[str, Any]) -> Trial:
        """Evaluates one choice for each name, or returns what is known of it."""
        ...

    def remember(self, trial: Trial) -> None:
        """Takes note of what another process found."""
        ...


class Study:
    """One way of searching, in a file with the others.

    Several processes may work on it at once. SQLite alone would let two of them take one trial, so
    proposals and results go through a lock beside the file. A process holds a lock of its own while
    it works: where that is free and a trial of it is still running, it was killed, and the trial is
    tried again, by whoever comes next.

    Args:
        path: the SQLite file; made if need be.
        way: one of `WAYS`, its name.
        fingerprint: what the search is of, plain values.
        seed: seed of the proposals of a new study; processes that join draw others.

    Raises:
        ValueError: if Optuna is not installed, or if the study is of something else.
    """

    def __init__(
        self, path: str | os.PathLike, way: str, fingerprint: Mapping[str, Any], seed: int = 0
    ):
        if way not in WAYS:
            raise ValueError(f"expected a way of searching out of {WAYS}. Received: {way!r}")
        self._optuna = _optuna()
        self.path, self.way = pathlib.Path(path), way
        self._guard = filelock.FileLock(f"{self.path}.lock")
        with self._guard:
            self._study = self._optuna.create_study(
                study_name=way,
                storage=f"sqlite:///{self.path}",
                directions=["maximize", "maximize"],
                load_if_exists=True,
            )
            text = json.dumps(dict(fingerprint), sort_keys=True)
            held = self._study.user_attrs.get("fingerprint", text)
            if held != text:
                before, now = json.loads(held), json.loads(text)
                differing = [
                    name if name in before else f"{name}, which it does not record"
                    for name in sorted(before | now)
                    if before.get(name) != now.get(name)
                ]
                raise ValueError(
                    f"expected the search that the study '{way}' in '{path}' is of. What differs "
                    f"is {', '.join(differing)} (name another folder)"
                )
            self._study.set_user_attr("fingerprint", text)
            joined = len(self._study.get_trials(deepcopy=False))
        entropy = [seed, joined, os.getpid()] if joined else [seed]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=int(np.random.default_rng(entropy).integers(1 << 31)), multivariate=True
            )

    @property
    def trials(self) -> list[Trial]:
        """The finished trials, in order."""
        return [_trial(one) for one in self._held("COMPLETE")]

    def remember(self, key: str, compute: Callable[[], Any]) -> Any:
        """Returns what the study keeps under a name, computed by the first who asks."""
        with filelock.FileLock(f"{self.path}.{key}.lock"):
            if key not in self._study.user_attrs:
                self._study.set_user_attr(key, compute())
            return self._study.user_attrs[key]

    def run(
        self,
        trials: Evaluates,
        plan: Sequence[Mapping[str, Any]],
        count: int,
        wait: bool = False,
    ) -> list[Trial]:
        """Works until the study has `count` trials, finished or in the hands of others.

        Args:
            trials: what evaluates.
            plan: choices to try first; those of "greedy" and "random" are all there is, "optuna"
                goes on with its own proposals (TPE, https://optuna.org).
            count: trials of the study.
            wait: whether to wait for the trials in the hands of others, or take them back from
                processes that are killed meanwhile: then all are returned.

        Returns:
            The finished trials, in order.
        """
        names, state = list(trials.choices), self._optuna.trial.TrialState
        planned = list(dict.fromkeys(tuple(one[name] for name in names) for one in plan))
        wanted = count if self.way == "optuna" else min(count, len(planned))
        worker = f"{self.path}.worker-{uuid.uuid4().hex}"
        own = lock(worker)
        try:
            with self._guard:
                there = [_params(one) for one in self._held("COMPLETE", "RUNNING", "WAITING")]
                for chosen in planned[:count]:
                    params = dict(zip(names, chosen, strict=True))
                    if params not in there:
                        self._study.enqueue_trial(params)
            while (trial := self._next(trials, wanted, worker)) or (
                wait and self._is_awaited(wanted)
            ):
                if trial is None:
                    time.sleep(_PAUSE)
                    continue
                try:
                    found = trials.take(trial.params)
                except BaseException:
                    with self._guard:
                        self._study.tell(trial, state=state.FAIL)
                        self._study.enqueue_trial(trial.params)
                    raise
                with self._guard:
                    for key in ("groups", "accuracies", "stopped"):
                        trial.set_user_attr(key, getattr(found, key))
                    self._study.tell(trial, [found.mean, found.share])
        finally:
            own.release()
            pathlib.Path(worker).unlink(missing_ok=True)
        return self.trials

    def _next(self, trials: Evaluates, wanted: int, worker: str) -> Any:
        """Returns the next trial with its groups suggested, or None."""
        with self._guard:
            self._recover()
            for one in self._held("COMPLETE"):
                trials.remember(_trial(one))
            if len(self._held("COMPLETE", "RUNNING")) >= wanted:
                return None
            trial = self._study.ask()
            trial.set_user_attr("worker", worker)
            for name, choices in trials.choices.items():
                trial.suggest_categorical(name, list(choices))
            return trial

    def _is_awaited(self, wanted: int) -> bool:
        """Returns whether others work on what is wanted."""
        return len(self._held("COMPLETE")) < wanted and bool(self._held("RUNNING"))

    def _recover(self) -> None:
        """Takes trials back from processes that are no more."""
        for one in self._held("RUNNING"):
            worker = one.user_attrs.get("worker")
            if worker is not None:
                try:
                    lock(worker).release()
                except BlockingIOError:
                    continue  # it is alive
                pathlib.Path(worker).unlink(missing_ok=True)
            self._study.tell(one.number, state=self._optuna.trial.TrialState.FAIL)
            if params := _params(one):
                self._study.enqueue_trial(params)

    def _held(self, *states: str) -> list[Any]:
        kinds = self._optuna.trial.TrialState
        return self._study.get_trials(states=[kinds[name] for name in states], deepcopy=False)


def _params(one: Any) -> dict[str, Any]:
    return one.system_attrs.get("fixed_params") or one.params


def _trial(one: Any) -> Trial:
    held = one.user_attrs
    return Trial(
        tuple(held["groups"]), float(one.values[1]), tuple(held["accuracies"]), held["stopped"]
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ValueError("A search needs Optuna: pip install 'keras-rram[search]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
