"""Tables and numbers of the pages."""

from collections.abc import Sequence

from keras_rram.evaluation.statistics.intervals import Interval
from keras_rram.study.methods import METHODS, STUDY


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table, and an empty one after it."""
    return [_row(titles), _row(["---"] * len(titles)), *map(_row, rows), ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def percent(share: float | None) -> str:
    """Returns a share in percent, "-" for None."""
    return "-" if share is None else f"{100 * share:z.2f}"


def with_range(low: float, mean: float, high: float) -> str:
    """Returns a mean and its interval in percent."""
    return f"{percent(mean)} ({percent(low)} to {percent(high)})"


def of(interval: Interval) -> str:
    """Returns an interval in percent, with its estimate."""
    return with_range(interval.low, interval.estimate, interval.high)


def seeds_name(seeds: Sequence[int]) -> str:
    """Returns "seed 0" or "seeds 0, 1, 2"."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def kind_name(kind: tuple[str, str, str, str], seed: int = 0) -> str:
    """Returns network, protocol, scale and, unless they are the study's and 0, method and seed."""
    *names, method = kind
    names += [METHODS[method].title] if method != STUDY else []
    return ", ".join(names + ([f"seed {seed}"] if seed else []))
