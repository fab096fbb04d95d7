"""Timing in turn."""

import statistics
import time
from collections.abc import Callable, Sequence


def in_turn(functions: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Calls every function once a round and returns the seconds of each call, by function.

    The order alternates from round to round, so that what disturbs the machine for a while
    disturbs all alike. Each is called once before, unmeasured.
    """
    for function in functions:
        function()
    seconds: list[list[float]] = [[] for _ in functions]
    for round_number in range(rounds):
        order = range(len(functions))
        for index in order if round_number % 2 == 0 else reversed(order):
            begin = time.perf_counter()
            functions[index]()
            seconds[index].append(time.perf_counter() - begin)
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Returns the median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
