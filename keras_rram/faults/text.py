"""Fault models as short text, for flags and files: `stuck_at_zero:rate=0.1,exact=true`.

    model    = part ("+" part)*              several parts are a `Composed`
    part     = name [":" key "=" value ("," key "=" value)*]
    value    = number | "true" | "false" | "none" | size | numbers | word | 'text in quotes'
    size     = integer "x" integer           a pair of integers, 128x128
    numbers  = number ("/" number)+          several values, 0/2e-6/8e-5

Names and keys are those of `NAMES`: a name stands for a class, and its keys are the class's fields.
Keys that are left out have the class's defaults. Spaces around signs do not count.
"""

import dataclasses
import difflib
import re
from typing import Any, NoReturn

from keras_rram.faults.base import FaultModel
from keras_rram.faults.cells import MAPPINGS, StuckAtValues, StuckCells
from keras_rram.faults.clusters import ClusteredFaults
from keras_rram.faults.composed import Composed
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
"""Name -> class of the fault model."""

_NUMBER = r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf)"
_TOKENS = re.compile(
    rf"""\s*(?:
      (?P<numbers>{_NUMBER}(?:/{_NUMBER})+(?![\w.]))
    | (?P<size>\d+(?:x\d+)+(?![\w.]))
    | (?P<number>{_NUMBER}(?![\w.]))
    | (?P<text>'[^']*')
    | (?P<word>[A-Za-z_/.~][\w./~-]*)
    | (?P<sign>[:,=+])
    )""",
    re.VERBOSE,
)
_WORDS = {"true": True, "false": False, "none": None}
_BARE = re.compile(r"[A-Za-z_/.~][\w./~-]*")


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
    ```
    """
    if not isinstance(text, str):
        raise TypeError(f"A fault model is described by a text. Received: {text!r}")
    model = _Parser(text, rate).model()
    return model if rate is None else at_rate(model, rate)


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
    if isinstance(model, Composed):
        return "+".join(spec(part) for part in model.models)
    names = [name for name, kind in NAMES.items() if kind is type(model)]
    if not names:
        raise TypeError(
            f"expected a fault model of {sorted(NAMES)} or a composition. Received: {model!r}"
        )
    pairs = [
        f"{field.name}={_written(field.name, value)}"
        for field in _fields(type(model))
        if (value := getattr(model, field.name)) != _default(field) or _is_required(field)
        if with_rate or field.name != "rate"
    ]
    return names[0] + (":" + ",".join(pairs) if pairs else "")


def describe(name: str) -> str:
    """Returns the keys of a fault model with their defaults, in words: "rate, exact=false"."""
    found = [
        field.name
        if _is_required(field)
        else f"{field.name}={_written(field.name, _default(field))}"
        for field in _fields(NAMES[name])
    ]
    return ", ".join(found) or "none"


class _Parser:
    """Reads a text once from left to right."""

    def __init__(self, text: str, rate: float | None):
        self._text, self._rate = text, rate
        self._tokens: list[tuple[str, str, int]] = []
        end = 0
        while text[end:].strip():
            match = _TOKENS.match(text, end)
            if match is None:
                place = end + len(text[end:]) - len(text[end:].lstrip())
                self._fail(place, "expected a name, a value or one of : , = + (put text in quotes)")
            kind = str(match.lastgroup)
            self._tokens.append((kind, match[kind], match.start(kind)))
            end = match.end()
        self._tokens.append(("end", "", len(text)))
        self._next = 0
        if ("sign", "+") in [token[:2] for token in self._tokens]:
            self._rate = None  # one rate for all says nothing of their proportions

    def model(self) -> FaultModel:
        parts = [self._part()]
        while self._takes("+"):
            parts.append(self._part())
        kind, value, place = self._peek()
        if kind != "end":
            self._fail(place, f"expected '+' and another fault model, or the end, not {value!r}")
        return parts[0] if len(parts) == 1 else Composed(tuple(parts))

    def _part(self) -> FaultModel:
        kind, name, start = self._pop()
        if kind != "word":
            self._fail(start, f"expected the name of a fault model. Known: {', '.join(NAMES)}")
        if name not in NAMES:
            self._fail(
                start,
                f"there is no fault model '{name}'{_hint(name, NAMES)}. Known: {', '.join(NAMES)}",
            )
        values: dict[str, Any] = {}
        places: dict[str, int] = {}
        if self._takes(":"):
            self._pair(name, values, places)
            while self._takes(","):
                self._pair(name, values, places)
        fields = {field.name: field for field in _fields(NAMES[name])}
        if self._rate is not None and "rate" in fields and _is_required(fields["rate"]):
            values.setdefault("rate", self._rate)
        missing = [key for key, one in fields.items() if _is_required(one) and key not in values]
        if missing:
            end = self._tokens[self._next][2]
            self._fail(
                end,
                f"{name} needs {' and '.join(missing)}: write {name}:{missing[0]}=... "
                f"(keys: {describe(name)})",
            )
        try:
            return NAMES[name](**values)
        except (ValueError, TypeError) as error:
            blamed = [key for key in values if f"`{key}`" in str(error)]
            place = places.get(blamed[0], start) if blamed else start
            self._fail(place, f"{error} (keys of {name}: {describe(name)})")

    def _pair(self, name: str, values: dict[str, Any], places: dict[str, int]) -> None:
        kind, key, place = self._pop()
        known = [field.name for field in _fields(NAMES[name])]
        if kind != "word":
            self._fail(place, f"expected a key of {name}. Keys: {describe(name)}")
        if key not in known:
            self._fail(
                place, f"{name} has no key '{key}'{_hint(key, known)}. Keys: {describe(name)}"
            )
        if key in values:
            self._fail(place, f"{name} has '{key}' twice: give it once")
        if not self._takes("="):
            self._fail(self._peek()[2], f"expected '=' and a value after {name}:{key}")
        places[key] = self._peek()[2]
        values[key] = self._value(key)

    def _value(self, key: str) -> Any:
        kind, value, place = self._pop()
        if kind == "number":
            return _number(value)
        if kind == "numbers":
            return tuple(_number(one) for one in value.split("/"))
        if kind == "size":
            return tuple(int(size) for size in value.split("x"))
        if kind == "text":
            return value[1:-1]
        if kind == "word":
            return _WORDS.get(value, value)
        self._fail(
            place,
            f"expected a value of '{key}': a number, true, false, none, a size (128x128), numbers "
            "(0/2e-6), a word, or text in single quotes",
        )

    def _peek(self) -> tuple[str, str, int]:
        return self._tokens[self._next]

    def _pop(self) -> tuple[str, str, int]:
        token = self._tokens[self._next]
        if token[0] != "end":
            self._next += 1
        return token

    def _takes(self, sign: str) -> bool:
        if self._peek()[:2] != ("sign", sign):
            return False
        self._next += 1
        return True

    def _fail(self, place: int, message: str) -> NoReturn:
        marked = f"{self._text[:place]}<HERE>{self._text[place:]}"
        raise ValueError(f"Fault model '{marked}', at character {place + 1}: {message}.") from None


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _hint(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _fields(kind: Any) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(kind) if field.init]


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _written(key: str, value: Any) -> str:
    """Returns a field's value as `parse` reads it."""
    for word, meaning in _WORDS.items():
        if value is meaning:
            return word
    if isinstance(value, int | float):
        # By way of Python's own types: NumPy's repr names the type.
        return repr(int(value) if isinstance(value, int) else float(value))
    if isinstance(value, tuple | list) and len(value) > 1 and all(_is_size(one) for one in value):
        return "x".join(str(int(one)) for one in value)
    if isinstance(value, tuple | list) and value and all(_is_number(one) for one in value):
        return "/".join(repr(float(one)) for one in value)
    if isinstance(value, str) and "'" not in value:
        return value if _BARE.fullmatch(value) and value not in _WORDS else f"'{value}'"
    for name, mapping in MAPPINGS.items():
        if value == mapping:
            return name
    raise TypeError(f"A text cannot say {key}={value!r}: build the fault model in Python.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
