"""What every repair is: a step that changes a programmed model, and takes it back at the end."""

import dataclasses
import hashlib
from typing import Any, ClassVar

import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.repair.hand import Hand, Repaired
from keras_rram.repair.protocol import Tier


class RepairStep:
    """Base of the repairs, which are frozen dataclasses of their options and their data.

    A repair is called on a programmed model and works at once; the `with` block gives the model
    back what it was. `RepairStep.then` joins repairs, each of which works on what the one before
    left.

    A subclass works in `apply`. What it computes once for all chips of a model goes through
    `prepared`, and is left out of pickles.

    Attributes:
        name: name in texts and results.
        access_tier: the least access tier that has what the repair needs.

    Example:

    ```python
    repair = Remapping().then(LeastSquares(images))
    with chip.program(model), repair(model, chip):
        model.evaluate(test_images, test_labels)
    ```
    """

    name: ClassVar[str]
    access_tier: ClassVar[Tier]

    def __call__(self, model: keras.Model, chip: Chip | None = None) -> Repaired:
        """Repairs a model that is programmed with a chip.

        Args:
            model: built model, programmed with `chip`.
            chip: the chip; None for the model without faults. Repairs of tier B do not look at it.

        Returns:
            A context manager that restores the model at the end.

        Raises:
            ValueError: if the repair cannot be applied. The model is then as before.
        """
        before = Repaired(model)
        try:
            self.apply(Hand(model, chip, before))
        except BaseException:
            before.restore()
            raise
        return before

    def check_model(self, model: keras.Model) -> None:
        """Raises ValueError for a model whose layers the repair cannot serve, before any work."""

    def apply(self, hand: Hand) -> None:
        """Repairs the model in hand."""
        raise NotImplementedError

    def then(self, later: "RepairStep") -> "RepairStep":
        """Returns the repair that does this one and then another."""
        return Sequence((*_parts(self), *_parts(later)))

    @property
    def fingerprint(self) -> str:
        """What tells results with this repair from others: options, and a digest of the data."""
        plain, digest = [], hashlib.sha256()
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                array = np.ascontiguousarray(value)
                digest.update(f"{field.name}{array.dtype}{array.shape}".encode())
                digest.update(array.tobytes())
                plain.append(f"{field.name}={len(array)}")
            elif value != field.default:
                plain.append(f"{field.name}={value}")
        return f"{self.name}:{','.join(plain)}/{digest.hexdigest()[:16]}"

    def prepared(self, hand: Hand) -> Any:
        """Returns what `prepare` makes of the model in hand, made anew where the model is another.

        It is kept for the model that came last: a population is of one model.
        """
        key = (id(hand.model), hand.digest)
        held = self.__dict__.get("_held")
        if held is None or held[0] != key:
            held = (key, hand.model, self.prepare(hand))
            object.__setattr__(self, "_held", held)
        return held[2]

    def prepare(self, hand: Hand) -> Any:
        """Computes what all chips of a model share."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what was prepared: workers prepare their own."""
        return {key: value for key, value in self.__dict__.items() if key != "_held"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a pickled repair."""
        self.__dict__.update(state)


@dataclasses.dataclass(frozen=True)
class Sequence(RepairStep):
    """Several repairs, one after the other; made by `RepairStep.then`.

    Attributes:
        parts: the repairs, in order.
    """

    name: ClassVar[str] = "sequence"

    parts: tuple[RepairStep, ...]

    @property
    def access_tier(self) -> Tier:  # type: ignore[override]
        """The highest tier of the parts."""
        return max(part.access_tier for part in self.parts)

    def check_model(self, model: keras.Model) -> None:
        """Checks it for each part."""
        for part in self.parts:
            part.check_model(model)

    def apply(self, hand: Hand) -> None:
        """Applies each part to what the one before left."""
        for part in self.parts:
            part.apply(hand)

    @property
    def fingerprint(self) -> str:
        """Those of the parts, joined by `+`."""
        return "+".join(part.fingerprint for part in self.parts)


def _parts(repair: RepairStep) -> tuple[RepairStep, ...]:
    if not isinstance(repair, RepairStep):
        raise TypeError(f"expected a `RepairStep`. Received: {repair!r}")
    return repair.parts if isinstance(repair, Sequence) else (repair,)
