"""Several fault models on one chip."""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_rram.faults.base import Fault, FaultModel
from keras_rram.faults.rates import at_rate

_WORDS = 4


@dataclasses.dataclass(frozen=True)
class Composed:
    """What several fault models do to one kernel, one after the other.

    `effective = (kernel * mask_1 + offset_1) * mask_2 + offset_2` and so on, in the order of
    `models`, and a weight that is stuck stays as it is, unless a later model sticks it elsewhere,
    see `in_turn`. Say weights that are lost, then the variation of conductances, then lost columns.
    Each model has a generator of its own, seeded
    by the kernel's in the same order: what one draws does not depend on the parameters of the
    others, and a chip's faults at a higher rate contain those at a lower one where each model's do.

    Models that need the kernel all see it as trained, since trained weights set a chip's
    conductance scale. Each has cells of its own: models of the same cells are `SameCells`.

    Attributes:
        models: two fault models or more.

    Example:

    ```python
    model = Composed((StuckAtZero(0.1), StuckAtZero(0.1, exact=True)))
    model.rate  # 1 - 0.9 * 0.9 = 0.19
    ```
    """

    models: tuple[FaultModel, ...]

    def __post_init__(self) -> None:
        """Checks the models."""
        given: Any = self.models
        if not isinstance(given, list | tuple) or len(given) < 2:
            raise ValueError(
                f"`models` must be a tuple of two fault models or more. Received: models={given!r}"
            )
        for model in given:
            if not isinstance(model, FaultModel) or isinstance(model, type):
                raise TypeError(f"`models` must be fault models. Received: {model!r}")
        # One level, so that a composition has one description.
        flat = [
            part for one in given for part in (one.models if isinstance(one, Composed) else [one])
        ]
        object.__setattr__(self, "models", tuple(flat))

    @property
    def rate(self) -> float:
        """Expected share of weights that any model makes faulty: `1 - product(1 - rate)`."""
        # Rounded, or a sweep at 0.1 would be at 0.09999999999999998.
        return round(1.0 - math.prod(1.0 - model.rate for model in self.models), 12)

    @property
    def needs_kernel(self) -> bool:
        """Whether any of the models needs the kernel's values."""
        return any(model.needs_kernel for model in self.models)

    def with_rate(self, rate: float) -> "Composed":
        """Returns the composition at another rate; the models' odds keep their proportions.

        The rate of each becomes `1 - (1 - rate_i) ** t` with one `t` for all. Models of rate 0,
        which vary weights and break none, stay as they are.
        """
        if rate == self.rate:
            return self
        now = math.prod(1.0 - model.rate for model in self.models)
        if now == 1.0:
            raise ValueError(
                f"expected a composition with a rate to sweep. Received: {self}, whose models all "
                "have rate 0 (give one of them a small rate, which sets its share)"
            )
        power = math.log1p(-rate) / math.log(now)
        return Composed(
            tuple(
                at_rate(model, -math.expm1(power * math.log1p(-model.rate)))
                if model.rate > 0
                else model
                for model in self.models
            )
        )

    def sample(
        self, shape: tuple[int, ...], rng: np.random.Generator, kernel: np.ndarray | None = None
    ) -> Fault:
        """Draws each model's fault in order and joins them."""
        words = [rng.integers(1 << 32, size=_WORDS, dtype=np.uint32).tolist() for _ in self.models]
        return in_turn(
            model.sample(shape, np.random.default_rng(seed), kernel)
            for model, seed in zip(self.models, words, strict=True)
        )


def in_turn(faults: Iterable[Fault], xp: Any = np) -> Fault:
    """Returns several faults of one kernel as one, the first one first.

    A weight whose mask is 0 is stuck: what it holds no longer depends on what was trained, and a
    fault that comes later leaves it alone, unless it sticks it elsewhere. So a weight that reads as
    zero has no cells that vary. All other weights become `(kernel * mask_1 + offset_1) * mask_2 +
    offset_2`, and so on.

    Args:
        faults: at least one.
        xp: `numpy`, or `keras.ops` for faults of tensors.
    """
    return functools.reduce(functools.partial(_then, xp), faults)


def _then(xp: Any, first: Fault, later: Fault) -> Fault:
    mask = first.mask * later.mask
    if first.offset is None and later.offset is None:
        return Fault(mask)
    before = xp.zeros_like(mask) if first.offset is None else first.offset
    moved = before * later.mask
    if later.offset is not None:
        moved = moved + later.offset
    is_moved = xp.logical_or(xp.not_equal(first.mask, 0), xp.equal(later.mask, 0))
    return Fault(mask, xp.where(is_moved, moved, before))
