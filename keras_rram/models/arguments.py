"""Checks of the arguments that the builders of networks share."""

from collections.abc import Iterable
from typing import Any


def check_positive(**sizes: Any) -> None:
    """Raises a ValueError that names the first size that is not a positive integer."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={size!r}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises a ValueError if `value` is not one of `choices`."""
    if value not in (choices := tuple(choices)):
        raise ValueError(f"`{name}` must be one of {list(choices)}. Received: {name}={value!r}")


def check_input_shape(input_shape: Any, least_side: int, reason: str) -> tuple[int, int, int]:
    """Returns `input_shape` as `(height, width, channels)` of at least `least_side` pixels.

    Raises:
        ValueError: if it is not three positive integers, or a side is too small.
    """
    shape = tuple(input_shape)
    if len(shape) != 3:
        raise ValueError(
            f"`input_shape` must be (height, width, channels). Received: input_shape={input_shape}"
        )
    check_positive(**dict(zip(("height", "width", "channels"), shape, strict=True)))
    if min(shape[:2]) < least_side:
        raise ValueError(
            f"`input_shape` must be at least {least_side} pixels high and wide: {reason}. "
            f"Received: input_shape={input_shape}. Use larger images or fewer strides."
        )
    return shape
