"""Populations of the digits' classifier, for several test files."""

import contextlib

from keras_rram import StuckAtZero
from keras_rram.evaluation.population import evaluate_population, evaluate_rates
from tests.classifiers import digits

FILES = ("run.json", "chips.jsonl")


def evaluate(model, count=6, rate=0.2, seed=5, **options):
    options = {"engine": "keras", "progress": False, "data": digits(), "seed": seed, **options}
    if "rates" in options:
        return evaluate_rates(model, StuckAtZero(rate), chips=count, **options)
    return evaluate_population(model, StuckAtZero(rate), chips=count, **options)


def content(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def interrupt(after):
    """A repair that presses Ctrl-C at chip number `after`."""
    count = iter(range(1000))

    @contextlib.contextmanager
    def press(model, chip):
        if chip and next(count) == after:
            raise KeyboardInterrupt
        yield

    press.fingerprint = "interrupt"
    return press
