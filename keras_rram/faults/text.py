"""Fault models as short text, for flags and files: `stuck_at_zero:rate=0.1,exact=true`.

    model    = cells ("+" cells)*        what each part makes of the weights, in turn: `Composed`
    cells    = record ("&" record)*      what happens to the same cells, in turn: `SameCells`

A record is `name:key=value,key=value`, see `keras_rram.faults.grammar`: names are those of `NAMES`.
A mapping is a name, or a record in parentheses: `mapping=bit_slices(bits=4,g_min=0.0)`. The text
says all that there is to a model, and so it is what files hold.
"""

from typing import Any

from keras_rram.faults.base import FaultModel
from keras_rram.faults.cells import MAPPINGS, SameCells, StuckAtValues, StuckCells
from keras_rram.faults.clusters import ClusteredFaults
from keras_rram.faults.composed import Composed
from keras_rram.faults.grammar import Reader, keys_of, write_fields
from keras_rram.faults.rates import at_rate
from keras_rram.faults.structure import ColumnFaults, RowFaults, SpreadFaults
from keras_rram.faults.stuck_at import StuckAtZero
from keras_rram.faults.variation import Drift, FiniteOnOff, LognormalVariation

NAMES: dict[str, Any] = {
    "stuck_at_zero": StuckAtZero,
    "row_faults": RowFaults,
    "column_faults": ColumnFaults,
    "spread_faults": SpreadFaults,
    "clustered_faults": ClusteredFaults,
    # Cells; `mapping=` takes a name of `keras_rram.faults.cells.MAPPINGS`, the first by default.
    "differential_pair": StuckCells,
    "stuck_at_values": StuckAtValues,
    "lognormal_variation": LognormalVariation,
    "drift": Drift,
    "finite_on_off": FiniteOnOff,
}
"""Name -> class of the fault model. A model of your own, a frozen dataclass of numbers, words and
flags, joins them by `NAMES["name"] = YourModel`: then files can hold it."""

_MAPPINGS = {name: type(mapping) for name, mapping in MAPPINGS.items()}


def parse(text: str, rate: float | None = None) -> FaultModel:
    """Returns the fault model that a text describes.

    Args:
        text: see the module for the grammar and `NAMES` for the names.
        rate: a fault rate in `[0, 1)` that the model gets instead of its own, see `at_rate`; a
            single model then need not say its `rate`. The parts of a composition always do: a
            sweep keeps their proportions.

    Raises:
        ValueError: if the text is not understood. The message shows the place in the text, what
            was expected there and what is known.

    Example:

    ```python
    faults.parse("stuck_at_zero:rate=0.1") == StuckAtZero(0.1)
    faults.parse("stuck_at_zero", rate=0.2) == StuckAtZero(0.2)
    faults.parse("lognormal_variation:sigma=0.1&differential_pair:stuck_off=0.02")
    ```
    """
    reader = Reader(text, "Fault model", _MAPPINGS)
    # One rate for all parts says nothing of their proportions.
    supplied = {} if rate is None or reader.has("+&") else {"rate": rate}
    parts = [_cells(reader, supplied)]
    while reader.takes("+"):
        parts.append(_cells(reader, supplied))
    reader.end("'+' and another fault model")
    model = parts[0] if len(parts) == 1 else Composed(tuple(parts))
    return model if rate is None else at_rate(model, rate)


def _cells(reader: Reader, supplied: dict[str, Any]) -> Any:
    start = reader.place
    models = [reader.record(NAMES, supplied)]
    while reader.takes("&"):
        models.append(reader.record(NAMES, supplied))
    try:
        return models[0] if len(models) == 1 else SameCells(tuple(models))
    except (ValueError, TypeError) as error:
        reader.fail(start, str(error))


def spec(model: FaultModel, with_rate: bool = True) -> str:
    """Returns the text that `parse` turns into an equal fault model.

    Keys with the class's default are left out.

    Args:
        model: a fault model.
        with_rate: whether the field `rate` is in the text; without it `parse` must be told.

    Raises:
        TypeError: if the class has no name in `NAMES`, or a field holds what text cannot say.

    Example:

    ```python
    faults.spec(StuckAtZero(0.1, exact=True))  # "stuck_at_zero:rate=0.1,exact=true"
    ```
    """
    if isinstance(model, Composed | SameCells):
        return ("+" if isinstance(model, Composed) else "&").join(map(spec, model.models))
    names = [name for name, kind in NAMES.items() if kind is type(model)]
    if not names:
        raise TypeError(
            f"expected a fault model of {sorted(NAMES)} or a composition. Received: {model!r} "
            "(one of your own gets a name by keras_rram.faults.NAMES['name'] = YourModel)"
        )
    pairs = write_fields(model, _MAPPINGS, () if with_rate else ("rate",))
    return names[0] + (":" + pairs if pairs else "")


def describe(name: str) -> str:
    """Returns the keys of a fault model with their defaults, in words: "rate, exact=false"."""
    return keys_of(NAMES[name], _MAPPINGS)
