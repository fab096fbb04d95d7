"""Which chips are evaluated: drawn from a fault model at a rate, or given, as measured ones."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.evaluation.engines.protocol import achieved_rate
from keras_rram.evaluation.fingerprint import text_without_rate
from keras_rram.export.sidecar import chip_identity
from keras_rram.faults import FaultModel, StuckAtZero, at_rate, parse
from keras_rram.layers import faulty_layers, faulty_weights

DEFAULT_CHIPS = 100

Faults = FaultModel | float | str | Sequence[Chip]
"""A fault model, the rate of `StuckAtZero`, the text of a fault model, or chips."""


class ChipSource(Protocol):
    """The chips of one fault rate.

    Attributes:
        text: what they are, but for the rate.
        rate: nominal fault rate; of given chips the mean of what they achieve.
        indices: their indices.
    """

    @property
    def text(self) -> str: ...  # noqa: D102

    @property
    def rate(self) -> float: ...  # noqa: D102

    @property
    def indices(self) -> range: ...  # noqa: D102

    def chip(self, index: int) -> Chip:
        """Returns a chip by its index."""
        ...


@dataclass(frozen=True)
class Drawn:
    """Chips that are drawn from a fault model, by seed and index."""

    fault_model: FaultModel
    seed: int
    indices: range
    text: str

    @property
    def rate(self) -> float:
        """The fault model's."""
        return float(self.fault_model.rate)

    def chip(self, index: int) -> Chip:
        """Returns a chip by its index."""
        return Chip(self.fault_model, self.seed, index)


@dataclass(frozen=True)
class Given:
    """Chips of a list, whose indices are their places in it."""

    chips: tuple[Chip, ...]
    rates: tuple[float, ...]
    text: str = field(default="")

    @property
    def rate(self) -> float:
        """Mean of the chips' achieved fault rates."""
        return float(np.mean(self.rates))

    @property
    def indices(self) -> range:
        """The places in the list."""
        return range(len(self.chips))

    def chip(self, index: int) -> Chip:
        """Returns a chip by its index."""
        return self.chips[index]


def chip_sources(
    model: keras.Model,
    faults: Any,
    rates: Sequence[float] | None,
    chips: int | None,
    seed: int,
    first_chip: int,
) -> list[ChipSource]:
    """Returns the chips of each fault rate, from what `evaluate_rates` was given.

    Raises:
        ValueError: if the arguments do not fit each other, or a chip does not fit the model.
        TypeError: if `faults` is nothing that chips can be had from.
    """
    for name, value, least in (
        ("chips", DEFAULT_CHIPS if chips is None else chips, 1),
        ("first_chip", first_chip, 0),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"expected {name} as an integer >= {least}. Received: {value!r}")
    if isinstance(faults, Chip):
        faults = [faults]
    if isinstance(faults, list | tuple):
        if chips is not None or first_chip or rates is not None:
            raise ValueError(
                "expected chips alone, of which all are evaluated. Received: chips=, first_chip= "
                "or rates= too"
            )
        return [_given(model, faults)]
    indices = range(first_chip, first_chip + (DEFAULT_CHIPS if chips is None else chips))
    fault_model = _fault_model(faults, rates)
    # Of the model as given: at a rate of 0 the proportions of its parts would be lost.
    text = text_without_rate(fault_model)
    return [Drawn(one, seed, indices, text) for one in _at_rates(fault_model, rates)]


def _fault_model(faults: Any, rates: Sequence[float] | None) -> Any:
    if isinstance(faults, str):
        try:
            return parse(faults)
        except ValueError:
            if not rates:
                raise
            return parse(faults, float(rates[0]))
    if isinstance(faults, int | float) and not isinstance(faults, bool):
        return StuckAtZero(float(faults))
    if not hasattr(faults, "sample") or not hasattr(faults, "rate"):
        raise TypeError(
            "expected a fault model, a fault rate such as 0.1, the text of a fault model, or a "
            f"list of chips. Received: {faults!r}"
        )
    return faults


def _at_rates(fault_model: FaultModel, rates: Sequence[float] | None) -> list[FaultModel]:
    if rates is None:
        return [fault_model]
    values = [float(rate) for rate in rates]
    if not values or len(set(values)) < len(values):
        raise ValueError(f"expected fault rates, each once. Received: rates={list(rates)}")
    return [at_rate(fault_model, rate) for rate in values]


def _given(model: keras.Model, chips: Sequence[Any]) -> Given:
    if not chips or not all(isinstance(chip, Chip) for chip in chips):
        raise TypeError(f"expected a list of chips, at least one. Received: {chips!r:.200}")
    names = [chip.name for chip in chips if chip.name]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"expected chips of different names. Received: {twice[:5]} more than once (a chip is "
            "called as its file, or by name=)"
        )
    rates, weights = [], faulty_weights(model)
    for place, chip in enumerate(chips):
        try:
            rates.append(achieved_rate(chip.faults(model), weights))
        except ValueError as error:
            raise ValueError(f"Chip {chip.name or place} does not fit the model: {error}") from None
    identities = [{**(chip_identity(chip) or {}), "name": chip.name} for chip in chips]
    digest = hashlib.sha256(json.dumps(identities, sort_keys=True).encode()).hexdigest()
    kind = "measured" if all(chip.measured is not None for chip in chips) else "given"
    return Given(tuple(chips), tuple(rates), f"{len(chips)} {kind} chips {digest[:16]}")


def probe_chip(sources: Sequence[ChipSource], seed: int) -> Chip:
    """Returns a chip of the most faults, which an engine is verified with."""
    most = max(sources, key=lambda source: source.rate)
    if isinstance(most, Given):
        return most.chips[int(np.argmax(most.rates))]
    index = int(np.random.default_rng(seed).integers(1 << 20, 1 << 31))
    return most.chip(index)


def is_faultless(source: ChipSource, model: keras.Model) -> bool:
    """Whether every chip leaves the model as it is, so that all are equal by construction.

    A fault rate of 0 alone does not tell: weights may vary, or reads be noisy.
    """
    if source.rate or any(layer.is_noisy for layer in faulty_layers(model).values()):
        return False
    chips = [source.chip(index) for index in source.indices[:2]]
    faults = [fault for chip in chips for fault in chip.faults(model).values()]
    return all(
        (fault.factors == 1).all() and (fault.offset is None or not fault.offset.any())
        for fault in faults
    )
