"""Flags that are numbers within an interval: what is none, or beyond it, is refused when parsed."""

import math
from typing import Any

from absl import flags

flags.disclaim_key_flags()

MOST_CHIPS = 1_000_000
SEEDS = f"[0, {(1 << 32) - 1}]"
IMAGES = "[1, 1e9]"


class _Number(flags.ArgumentParser):
    """Parses a number of an interval such as "[0, 1)"; a boundary with a bracket belongs to it."""

    def __init__(self, within: str, whole: bool, never: tuple[float, ...]):
        self._within, self._whole, self._never = within, whole, never
        self._low, self._high = map(float, within[1:-1].split(","))

    def parse(self, argument: Any) -> Any:
        """Returns the number.

        Raises:
            ValueError: if it is none, NaN, or outside the interval.
        """
        try:
            # More digits than a number here can have take Python quadratic time.
            number = (int if self._whole else float)(argument if len(str(argument)) < 50 else "")
        except (ValueError, TypeError, OverflowError):
            number = math.nan
        above, below = self._within[0] == "[", self._within[-1] == "]"
        is_within = (
            self._low < number < self._high
            or (above and number == self._low)
            or (below and number == self._high)
        )
        if not is_within or number in self._never or isinstance(argument, bool):
            never = f", not {self._never[0]:g}" if self._never else ""
            raise ValueError(f"must be {self._kind} in {self._within}{never}")
        return number

    @property
    def _kind(self) -> str:
        return "an integer" if self._whole else "a number"

    def flag_type(self) -> str:
        """Returns the type in words."""
        return f"{self._kind} in {self._within}"


def define(name: str, default: float | None, help: str, within: str) -> None:
    """Defines a flag that is a number.

    Args:
        name: the flag.
        default: its value where it is not given.
        help: what it is.
        within: the interval that it must be in, "[0, 1)".
    """
    flags.DEFINE(_Number(within, False, ()), name, default, help, serializer=_SERIALIZER)


def define_whole(
    name: str, default: int | None, help: str, within: str, never: tuple[int, ...] = ()
) -> None:
    """Defines a flag that is an integer; see `define`.

    Args:
        name: the flag.
        default: its value where it is not given.
        help: what it is.
        within: the interval that it must be in.
        never: integers of it that mean nothing.
    """
    flags.DEFINE(_Number(within, True, never), name, default, help, serializer=_SERIALIZER)


def define_jobs(help: str) -> None:
    """Defines `--jobs`."""
    define_whole("jobs", 1, help, "[-1, 1024]", never=(0,))


_SERIALIZER: Any = flags.ArgumentSerializer()
