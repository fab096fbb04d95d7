import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from keras_rram import StuckAtZero, population
from keras_rram.evaluation import Interval
from keras_rram.files import lock
from keras_rram.placement import (
    Bench,
    FrontPoint,
    StagedNetwork,
    Study,
    TrainedTrials,
    Trial,
    Trials,
    best,
    greedy_plan,
    hypervolume,
    pareto,
    random_plan,
)
from tests.classifiers import classifier, digits

optuna = pytest.importorskip("optuna")

LOSS = {"a": 0.01, "b": 0.1, "c": 0.02, "d": 0.3}
WORK = {"a": 0.1, "b": 0.4, "c": 0.3, "d": 0.2}


def run_search(trials, way, plan, count, path, fingerprint, seed=0):
    plan = [{name: name in groups for name in LOSS} for groups in plan]
    return Study(path, way, fingerprint, seed).run(trials, plan, count)


class Known:
    """Trials of a network whose groups lose what they lose alone."""

    def __init__(self, wait=0.0, stop_after=None):
        self.choices = dict.fromkeys(LOSS, (False, True))
        self.known, self.seen = {}, []
        self.wait, self.stop_after = wait, stop_after

    def take(self, chosen):
        return self.evaluate([name for name in LOSS if chosen[name]])

    def remember(self, trial):
        self.known[trial.groups] = trial

    def evaluate(self, groups):
        if self.stop_after == len(self.seen):
            raise KeyboardInterrupt
        time.sleep(self.wait)
        self.seen.append(tuple(groups))
        mean = 0.9 - sum(LOSS[name] for name in groups)
        share = sum(WORK[name] for name in groups)
        return Trial(tuple(groups), share, (mean - 0.01, mean + 0.01))


def test_pareto_and_hypervolume():
    trials = [
        Trial((), *values)
        for values in ((0.0, (0.9,)), (0.5, (0.8,)), (0.4, (0.7,)), (1.0, (0.2,)))
    ]
    assert [one.share for one in pareto(trials)] == [0.0, 0.5, 1.0]
    assert hypervolume(trials) == pytest.approx(0.5 * 0.8 + 0.5 * 0.2)
    assert hypervolume(trials, least=0.5) == pytest.approx(0.5 * 0.3)
    # Against a count of dominated places of a fine grid.
    rng = np.random.default_rng(0)
    points = [Trial((), float(s), (float(a),)) for s, a in rng.random((20, 2))]
    grid = (np.arange(200) + 0.5) / 200
    under = np.zeros((200, 200), bool)
    for one in points:
        under |= (grid[:, None] <= one.share) & (grid[None] <= one.mean)
    assert hypervolume(points) == pytest.approx(under.mean(), abs=0.01)


def test_plans():
    plan = greedy_plan(LOSS, WORK, 10)
    # Loss per work: a 0.1, c 0.07, b 0.25, d 1.5.
    assert plan == [(), ("c",), ("c", "a"), ("c", "a", "b"), ("c", "a", "b", "d")]
    assert greedy_plan(LOSS, WORK, 3) == [plan[0], plan[2], plan[4]]
    drawn = random_plan(list(LOSS), 400, seed=1)
    assert drawn == random_plan(list(LOSS), 400, seed=1) != random_plan(list(LOSS), 400, seed=2)
    sizes = np.bincount([len(one) for one in drawn], minlength=5) / 400
    assert abs(sizes - 0.2).max() < 0.07  # all sizes alike


def test_best():
    trials = [Known().evaluate(groups) for groups in greedy_plan(LOSS, WORK, 9)]
    assert best(trials, 0.031, None).groups == ("c", "a")
    assert best(trials, 0.0, None).groups == ()
    assert best(trials, None, 0.35).groups == ("c", "a")
    assert best(trials[:2], None, 0.9) is None
    with pytest.raises(ValueError, match="most_loss or share"):
        best(trials, None, None)
    with pytest.raises(ValueError, match="a trial without faults"):
        best(trials[1:], 0.1, None)


def test_optuna_finds_the_front_of_a_known_network(tmp_path):
    path = tmp_path / "study.db"
    found = run_search(Known(), "optuna", greedy_plan(LOSS, WORK, 3), 12, path, {"x": 1}, seed=0)
    assert len(found) == 12
    shares = {round(one.share, 6): one.mean for one in pareto(found)}
    assert shares[0.4] == pytest.approx(0.9 - 0.03)
    assert min(shares) == 0 and max(shares) == pytest.approx(1)
    study = optuna.load_study(study_name="optuna", storage=f"sqlite:///{path}")
    assert [tuple(t.user_attrs["groups"]) for t in study.trials[:3]] == [
        (), ("a", "c"), ("a", "b", "c", "d"),
    ]  # fmt: skip
    for trial in study.trials:
        assert trial.values[0] == pytest.approx(np.mean(trial.user_attrs["accuracies"]))


def test_a_search_that_was_interrupted_goes_on(tmp_path):
    path, plan = tmp_path / "study.db", random_plan(list(LOSS), 8, seed=3)
    unique = list(dict.fromkeys(plan))
    with pytest.raises(KeyboardInterrupt):
        run_search(Known(stop_after=3), "random", plan, 8, path, {"x": 1})
    after = Known()
    found = run_search(after, "random", plan, 8, path, {"x": 1})
    assert len(after.seen) == len(unique) - 3
    assert {one.groups for one in found} == set(unique) and len(found) == len(unique)
    again = Known()
    assert run_search(again, "random", plan, 8, path, {"x": 1}) == found and not again.seen
    with pytest.raises(ValueError, match="What differs is x"):
        run_search(again, "random", plan, 8, path, {"x": 2})
    with pytest.raises(ValueError, match="What differs is y, which it does not record"):
        run_search(again, "random", plan, 8, path, {"x": 1, "y": 2})
    with pytest.raises(ValueError, match="a way of searching"):
        run_search(again, "grid", plan, 8, path, {"x": 1})
    assert not list(tmp_path.glob("*.worker-*"))
    study = Study(path, "random", {"x": 1})
    assert study.remember("losses", lambda: {"a": 1.0}) == {"a": 1.0}
    assert Study(path, "random", {"x": 1}).remember("losses", lambda: 1 / 0) == {"a": 1.0}


def test_a_trial_of_a_killed_process_is_tried_again(tmp_path):
    path, plan = tmp_path / "study.db", [("a",), ("b",), ("c",), ("d",)]
    run_search(Known(), "greedy", plan, 1, path, {"x": 1})
    study = optuna.load_study(study_name="greedy", storage=f"sqlite:///{path}")
    alive = lock(tmp_path / "alive")  # as long as a process holds it
    for groups, worker in (("b", "dead"), ("c", "alive")):
        study.enqueue_trial({name: name == groups for name in LOSS})
        taken = study.ask()  # and never told
        taken.set_user_attr("worker", str(tmp_path / worker))
    after = Known()
    found = run_search(after, "greedy", plan, 4, path, {"x": 1})
    assert sorted(after.seen) == [("b",), ("d",)]
    assert {one.groups for one in found} == {("a",), ("b",), ("d",)}
    alive.release()
    found = run_search(Known(), "greedy", plan, 4, path, {"x": 1})
    assert {one.groups for one in found} == {("a",), ("b",), ("c",), ("d",)} and len(found) == 4


def test_two_workers_share_a_study(tmp_path):
    path, plan = tmp_path / "study.db", greedy_plan(LOSS, WORK, 9)
    run_search(Known(), "optuna", plan, 1, path, {"x": 1})
    workers = [Known(wait=0.02), Known(wait=0.02)]
    with ThreadPoolExecutor(2) as pool:
        both = list(
            pool.map(lambda one: run_search(one, "optuna", plan, 12, path, {"x": 1}), workers)
        )
    assert all(worker.seen for worker in workers)
    study = optuna.load_study(study_name="optuna", storage=f"sqlite:///{path}")
    assert [one.number for one in study.trials] == list(range(len(study.trials)))
    done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(done) == len(study.trials) == 12 == max(map(len, both))
    assert len(workers[0].seen) + len(workers[1].seen) == len(done) - 1
    assert threading.active_count() < 20
    for one in done:
        groups = one.user_attrs["groups"]
        assert one.values == pytest.approx(
            [0.9 - sum(LOSS[name] for name in groups), sum(WORK[name] for name in groups)]
        )


def test_who_waits_has_the_trials_of_others_too(tmp_path):
    """One process is at its last trial when the other has nothing left to do."""
    path, plan = tmp_path / "study.db", [("a",), ("b",), ("c",)]
    for wait, most in ((False, 2), (True, 3)):
        place = path.with_stem(f"study{wait:d}")
        run_search(Known(), "greedy", plan, 1, place, {"x": 1})
        begun, go_on = threading.Event(), threading.Event()

        class Slow(Known):
            def evaluate(self, groups, begun=begun, go_on=go_on):
                begun.set()
                go_on.wait(20)
                return super().evaluate(groups)

        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(run_search, Slow(), "greedy", plan, 3, place, {"x": 1})
            assert begun.wait(20)
            timer = threading.Timer(1.0 if wait else 60.0, go_on.set)
            timer.start()
            params = [{name: name in groups for name in LOSS} for groups in plan]
            mine = Study(place, "greedy", {"x": 1}).run(Known(), params, 3, wait)
            timer.cancel()
            go_on.set()
            assert len(mine) == most and len(other.result()) == 3


def test_what_a_study_remembers_is_computed_once(tmp_path):
    def compute():
        computed.append(1)
        time.sleep(0.2)
        return {"a": len(computed)}

    computed = []
    studies = [Study(tmp_path / "study.db", "greedy", {"x": 1}) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda one: one.remember("losses", compute), studies))
    assert found == [{"a": 1}, {"a": 1}] and len(computed) == 1


def test_trials_give_up_on_what_is_dominated():
    model = classifier()
    network = StagedNetwork(model)
    bench = Bench(network, population(StuckAtZero(0.7), 8, stream="validation"), digits(160), 20)
    trials = Trials(bench, {"conv": ("conv",), "head": ("head",)}, {"conv": 0.0, "head": 0.5})
    healthy, head = trials.evaluate([]), trials.evaluate(["head"])
    assert len(healthy.accuracies) == len(head.accuracies) == 8 and not head.stopped
    assert head.share == 0.5 and trials.evaluate(("head",)) is head
    conv = trials.evaluate(["conv"])  # as little work as nothing, and much worse
    assert conv.stopped and len(conv.accuracies) < 8
    whole = trials.evaluate(["head", "conv"])
    assert whole.groups == ("conv", "head")
    by_hand = bench.answers([frozenset({"head"})])[frozenset({"head"})]
    assert head.accuracies == tuple(float(one.mean()) for one in by_hand)
    with pytest.raises(ValueError, match="expected the work of"):
        Trials(bench, {"conv": ("conv",)}, {"head": 1.0})


def test_front_points_hold_what_a_figure_needs():
    found = Interval(0.8, 0.7, 0.9, 0.95, "q", "m")
    assert FrontPoint("4C", 0.45, found).layers == ()


def test_networks_are_trained_once_each(tmp_path):
    trained = []

    def train(chosen):
        trained.append(dict(chosen))
        good = {"exact": 0.9, "faulty": 0.6, "wide": 0.8}[chosen["a"]]
        return float(chosen["a"] != "exact"), [good, good]

    choices = {"a": ("exact", "faulty", "wide"), "b": ("exact", "faulty")}
    trials = TrainedTrials(choices, train)
    path = tmp_path / "study.db"
    first = [{"a": "faulty", "b": "exact"}]
    found = Study(path, "optuna", {"x": 1}).run(trials, first, 8)
    assert len(found) == 8 and trained[0] == first[0]
    assert len(trained) == len({tuple(one.items()) for one in trained}) <= 6
    assert found[0] == Trial(("a=faulty", "b=exact"), 1.0, (0.6, 0.6))
    again = TrainedTrials(choices, lambda chosen: 1 / 0)
    assert Study(path, "optuna", {"x": 1}).run(again, first, 8) == found
