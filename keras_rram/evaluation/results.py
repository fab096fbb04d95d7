"""What an evaluation of a population of chips says: its records, its figures, its file.

The file is one JSON object: `schema` ("keras_rram.population/2"), the fields of `PopulationResult`,
and under `chips` a list of the records that `chip_result.py` describes.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keras_rram.evaluation.chip_result import ChipResult, chip_rows, chips_csv
from keras_rram.evaluation.figures import Figures
from keras_rram.evaluation.statistics.intervals import Images, Interval
from keras_rram.evaluation.summary import summary, text
from keras_rram.repair import Tier

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "keras_rram.population/2"


@dataclass(frozen=True, repr=False)
class PopulationResult(Figures):
    """How a population of chips did: the chips' records, what was evaluated, and its statistics.

    Use it to read an evaluation and to write it to a file.

    Args:
        model: Fingerprint of the model's weights and architecture.
        data: Name and fingerprint of the test set.
        fault_model: The fault model at this rate as text, see `keras_rram.faults.text`.
        rate: Nominal fault rate in [0, 1].
        seed: Seed of the population.
        engine: What evaluated it: "keras" or "litert", with its precision.
        fault_free: Accuracy of the model without faults, not repaired, in [0, 1]; its score under
            another measure.
        chips: The `ChipResult` of each chip, at least one; sorted by index here.
        repair: What was done to each chip before the evaluation, "none" if nothing.
        access_tier: What the repair knew of a chip: "A", "B" or "C", see `keras_rram.repair.Tier`.
        fault_free_repaired: Accuracy of the model without faults after the repair; None without.
        name: The model's name, for people.
        stop_interval: The interval that a stop rule ended with, which accounts for its looks.
        reason: Why the evaluation ended, in words that can be printed; not compared by `==`.
        interrupted: Whether Ctrl-C ended it before it had all its chips; not compared by `==`.
        measure: What says how good a chip is. Under another one than accuracy, "accuracy" stands
            for its score everywhere here, on a scale of its own.
        higher_is_better: Whether a chip with a larger score is the better one.

    Raises:
        ValueError: For no chips, an index that occurs twice, chips on different cuts of the images,
            or a repair without the accuracy that it gives the fault-free model.

    Example:
        >>> chips = [ChipResult(k, 0.1, 0.1, 900 + k, 1000) for k in range(8)]
        >>> faults = "stuck_at_zero:rate=0.1"
        >>> result = PopulationResult("abc", "digits", faults, 0.1, 0, "keras", 0.98, tuple(chips))
        >>> result.mean, result.yield_at(0.905).passed
        (0.9035, 3)
    """

    model: str
    data: str
    fault_model: str
    rate: float
    seed: int
    engine: str
    fault_free: float
    chips: tuple[ChipResult, ...]
    repair: str = "none"
    access_tier: Tier = "A"
    fault_free_repaired: float | None = None
    name: str = ""
    stop_interval: Interval | None = None
    reason: str = field(default="", compare=False)
    interrupted: bool = field(default=False, compare=False)
    measure: str = "accuracy"
    higher_is_better: bool = True

    def __post_init__(self):
        """Sorts the chips and checks that they are one population."""
        chips = tuple(sorted(self.chips, key=lambda chip: chip.index))
        object.__setattr__(self, "chips", chips)
        if not chips:
            raise ValueError("expected at least one chip. Received: none (evaluate some first)")
        counts = Counter(chip.index for chip in chips)
        if twice := [index for index, count in counts.items() if count > 1]:
            raise ValueError(
                f"expected each chip once. Received: indices {twice[:10]} more than once (keep one "
                "record for each chip)"
            )
        if len(folds := {chip.folds for chip in chips}) > 1:
            raise ValueError(
                f"expected all chips on one cut of the images. Received: folds {sorted(folds)} "
                "(evaluate the chips with fewer images again)"
            )
        repaired = self.fault_free_repaired
        healthy = (self.fault_free, repaired or 0) if self.is_counted else ()
        if not all(0 <= value <= 1 for value in (self.rate, *healthy)):
            raise ValueError(
                "expected a fault rate and fault-free accuracies in [0, 1]. Received: "
                f"rate={self.rate}, fault_free={self.fault_free}, fault_free_repaired={repaired}"
            )
        if (self.repair == "none") != (repaired is None):
            raise ValueError(
                "expected fault_free_repaired with a repair and only then. Received: "
                f"repair={self.repair!r}, fault_free_repaired={repaired}"
            )

    def identity(self) -> dict[str, Any]:
        """What was evaluated: all that is not a measurement."""
        names = ("model", "data", "fault_model", "rate", "seed", "engine", "repair", "measure")
        return {name: getattr(self, name) for name in names}

    def summary(
        self, confidence: float = 0.95, images: Images | None = None, yield_at: Sequence[float] = ()
    ) -> dict[str, Any]:
        """The figures as a flat dict of plain values, for tables and files.

        Returns:
            `name`, `model`, `data`, `engine`, `fault_model`, `rate`, `seed`, `repair`,
            `access_tier`, `fault_free`, `fault_free_repaired`, `measure`, `reason`, `interrupted`;
            `chips`, `folds`; `mean`, `drop`; `low`, `high`, `half_width`, `confidence`, `question`,
            `method` of the mean's interval; `raw_sd`, `sd`; `worst` and `worst_chip`, as measured;
            and for the question "new" or "test_set" of `images`, "new" by default: `q05`,
            `q05_bound` (see `SingleChips`), `median`, and for each threshold t of `yield_at`:
            `yield_t`, `yield_t_low`, `yield_t_high`. What the records do not allow (one chip, a
            part of the images, too few chips for the bound) is None.
        """
        return summary(self, confidence, images, yield_at)

    def __str__(self) -> str:
        """The result in five lines to read."""
        return text(self)

    def __repr__(self) -> str:
        """What it is, without its chips."""
        name = f"name={self.name!r}, " if self.name else ""
        return (
            f"PopulationResult({name}fault_model={self.fault_model!r}, chips={len(self.chips)}, "
            f"mean={self.mean:.4g}, fault_free={self.fault_free:.4g})"
        )

    def to_frame(self) -> "pd.DataFrame":
        """Returns a row for each chip as a pandas table: the columns of `to_csv`."""
        import pandas as pd

        return pd.DataFrame(chip_rows(self.chips))

    def to_json(self) -> str:
        """Returns the result as a JSON object, see the module's docstring."""
        fields = dataclasses.asdict(self)
        fields["chips"] = [chip.to_dict() for chip in self.chips]
        return json.dumps({"schema": SCHEMA, **fields}, indent=1) + "\n"

    def to_csv(self) -> str:
        """Returns a table of one row per chip: its record without the single answers, accuracy."""
        return chips_csv(self.chips)
