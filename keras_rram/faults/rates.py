"""One fault model at another rate, for sweeps."""

import dataclasses
from typing import Any

from keras_rram.faults.base import FaultModel

_STEPS = 200
# Fields that are probabilities of cells: together they make the rate of a model without `rate`.
_PARTS = ("stuck_off", "stuck_on")


def at_rate(model: FaultModel, rate: float) -> FaultModel:
    """Returns a fault model of the same kind with another expected share of faulty weights.

    A model with a `with_rate(rate)` method decides itself; one with a field `rate` gets it; one
    whose cells have probabilities (`stuck_off`, `stuck_on`) keeps their ratio.

    Args:
        model: a fault model.
        rate: fault rate in `[0, 1)`.

    Raises:
        ValueError: if the model has no rate that could be swept, or `rate` is out of its range.

    Example:

    ```python
    at_rate(StuckAtZero(0.1), 0.3) == StuckAtZero(0.3)
    ```
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate < 1.0:
        raise ValueError(f"`rate` must be a number in [0, 1). Received: rate={rate!r}")
    rate = float(rate)
    with_rate = getattr(model, "with_rate", None)
    if callable(with_rate):
        return with_rate(rate)
    names = {field.name for field in dataclasses.fields(model)}  # type: ignore[arg-type]
    if "rate" in names:
        return dataclasses.replace(model, rate=rate)  # type: ignore[type-var]
    shares = {name: float(getattr(model, name)) for name in _PARTS if name in names}
    if not any(shares.values()):
        raise ValueError(
            f"expected a fault model with a rate to sweep. Received: {model} (its strength is not "
            "a share of faulty weights: evaluate one population for each setting)"
        )
    return _scaled(model, shares, rate)


def _scaled(model: Any, shares: dict[str, float], rate: float) -> FaultModel:
    """Finds the common factor on the probabilities at which the model has the rate."""
    if rate == float(model.rate):
        return model
    total = sum(shares.values())

    def at(sum_of_shares: float) -> Any:
        changed = {name: share / total * sum_of_shares for name, share in shares.items()}
        return dataclasses.replace(model, **changed)

    low, high = 0.0, 1.0 - 1e-9
    if at(high).rate < rate:
        raise ValueError(f"{model} cannot reach a rate of {rate}. Received: rate={rate}")
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if at(middle).rate < rate else (low, middle)
    return at(high)
