"""What a repair is, what tells it from others, and what it may know of a chip."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import keras

from keras_rram.chips.chip import Chip

Repair = Callable[[keras.Model, Chip | None], AbstractContextManager[Any]]
"""Called as `with repair(model, chip):` on a programmed model; undoes itself at the end.

On the model without faults `chip` is None. Two attributes are optional: `fingerprint`, a text that
tells its results from others, and `access_tier`. Those of this package are `RepairStep`s."""

Tier = Literal["A", "B", "C"]
"""What is known of a chip: "A" nothing, one model for all chips; "B" the outputs for unlabelled
images; "C" the map of its faults, or labels. Results of two tiers are not to be compared."""


def describe_repair(repair: Repair | None) -> str:
    """Returns what tells a repair from another: its `fingerprint`, or else its name."""
    if repair is None:
        return "none"
    kind = repair if hasattr(repair, "__qualname__") else type(repair)
    name = f"{kind.__module__}.{kind.__qualname__}"  # type: ignore[attr-defined]
    return str(getattr(repair, "fingerprint", name))


def access_tier(repair: Repair | None) -> Tier:
    """Returns the access tier of what a repair does: its `access_tier`.

    A repair that does not say is of tier "C", since it is handed the chip. No repair is
    tier "A".

    Raises:
        ValueError: if its `access_tier` is none of "A", "B" and "C".
    """
    tier: Any = "A" if repair is None else getattr(repair, "access_tier", "C")
    if tier not in get_args(Tier):
        raise ValueError(f"expected access_tier as one of {get_args(Tier)}. Received: {tier!r}")
    return tier
