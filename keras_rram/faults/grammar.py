"""Records as text, `key=value,key=value`: the one grammar of flags and files.

    record   = name [":" pairs]
    pairs    = key "=" value ("," key "=" value)*
    value    = number | "true" | "false" | "none" | size | numbers | word ["(" pairs ")"]
    size     = integer "x" integer           a pair of integers, 128x128
    numbers  = number ("/" number)+          several values, 0/2e-6/8e-5

A name stands for a dataclass, and its keys are the fields. Keys that are left out have the class's
defaults. A word in a value may be the name of a record too, with its keys between parentheses.
Spaces around signs do not count.
"""

import dataclasses
import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any, NoReturn, TypeVar

Record = TypeVar("Record")

_LONGEST = 1 << 20  # characters
_DEEPEST = 16  # parentheses within parentheses
_SHOWN = 200  # characters around a place, in a message
_NUMBER = r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf)"
_TOKENS = re.compile(
    rf"""\s*(?:
      (?P<numbers>{_NUMBER}(?:/{_NUMBER})+(?![\w.]))
    | (?P<size>\d+(?:x\d+)+(?![\w.]))
    | (?P<number>{_NUMBER}(?![\w.]))
    | (?P<word>[A-Za-z_]\w*)
    | (?P<sign>[:,=+&()])
    )""",
    re.VERBOSE | re.ASCII,
)
_WORDS = {"true": True, "false": False, "none": None}
_INTEGER_DIGITS = 18


class Reader:
    """Reads a text once from left to right.

    Args:
        text: what to read.
        what: what the text describes, for messages: "Fault model".
        nested: name -> class of the records that may stand in a value.
    """

    def __init__(self, text: str, what: str, nested: Mapping[str, Any] | None = None):
        if not isinstance(text, str):
            raise TypeError(f"expected a text that describes a {what.lower()}. Received: {text!r}")
        self._text, self._what, self._nested = text, what, nested or {}
        if len(text) > _LONGEST:
            raise ValueError(
                f"{what} '{text[:40]}...' must have at most {_LONGEST} characters. Received: "
                f"{len(text)}"
            )
        self._tokens: list[tuple[str, str, int]] = []
        end, stop = 0, len(text.rstrip())
        while end < stop:
            match = _TOKENS.match(text, end)
            if match is None:
                place = end + len(text[end:]) - len(text[end:].lstrip())
                self.fail(place, "expected a name, a number or one of : , = + & ( )")
            kind = str(match.lastgroup)
            self._tokens.append((kind, match[kind], match.start(kind)))
            end = match.end()
        self._tokens.append(("end", "", len(text)))
        self._next = self._depth = 0

    @property
    def place(self) -> int:
        """Index of the character that is read next."""
        return self._tokens[self._next][2]

    def has(self, signs: str) -> bool:
        """Returns whether any of some signs is anywhere in the text."""
        return any(kind == "sign" and value in signs for kind, value, _ in self._tokens)

    def takes(self, sign: str) -> bool:
        """Returns whether a sign is next, and reads it if so."""
        if self._tokens[self._next][:2] != ("sign", sign):
            return False
        self._next += 1
        return True

    def end(self, otherwise: str) -> None:
        """Raises ValueError unless all is read; `otherwise` says what could have followed."""
        kind, value, place = self._tokens[self._next]
        if kind != "end":
            self.fail(place, f"expected {otherwise}, or the end, not {value!r}")

    def record(self, names: Mapping[str, Any], supplied: Mapping[str, Any] | None = None) -> Any:
        """Reads a name and its pairs; `supplied` has values of required keys that may be absent."""
        kind, name, start = self._pop()
        known = ", ".join(names)
        if kind != "word":
            self.fail(start, f"expected the name of a {self._what.lower()}. Known: {known}")
        if name not in names:
            self.fail(
                start,
                f"there is no {self._what.lower()} '{name}'{_hint(name, names)}. Known: {known}",
            )
        is_followed = self.takes(":")
        return self.fields(names[name], name, start, is_followed, supplied)

    def fields(
        self,
        record: type[Record],
        name: str,
        start: int = 0,
        is_followed: bool = True,
        supplied: Mapping[str, Any] | None = None,
    ) -> Record:
        """Reads the pairs of a dataclass and returns its instance."""
        values: dict[str, Any] = {}
        places: dict[str, int] = {}
        if is_followed:
            self._pair(record, name, values, places)
            while self.takes(","):
                self._pair(record, name, values, places)
        required = [field.name for field in _fields(record) if _is_required(field)]
        for key, value in (supplied or {}).items():
            if key in required:
                values.setdefault(key, value)
        missing = [key for key in required if key not in values]
        if missing:
            self.fail(
                self.place,
                f"{name} needs {' and '.join(missing)}: write {name}:{missing[0]}=... "
                f"(keys: {keys_of(record, self._nested)})",
            )
        try:
            return record(**values)
        except (ValueError, TypeError) as error:
            blamed = [key for key in values if f"`{key}`" in str(error)]
            place = places.get(blamed[0], start) if blamed else start
            self.fail(place, f"{error} (keys of {name}: {keys_of(record, self._nested)})")

    def fail(self, place: int, message: str) -> NoReturn:
        """Raises ValueError that shows a place in the text."""
        before, after = self._text[:place], self._text[place:]
        before = before if len(before) <= _SHOWN else f"...{before[-_SHOWN:]}"
        after = after if len(after) <= _SHOWN else f"{after[:_SHOWN]}..."
        marked = f"{before}<HERE>{after}"
        raise ValueError(f"{self._what} '{marked}', at character {place + 1}: {message}.") from None

    def _pair(self, record: Any, name: str, values: dict[str, Any], places: dict[str, int]) -> None:
        kind, key, place = self._pop()
        known = [field.name for field in _fields(record)]
        if kind != "word":
            self.fail(place, f"expected a key of {name}. Keys: {keys_of(record, self._nested)}")
        if key not in known:
            self.fail(
                place,
                f"{name} has no key '{key}'{_hint(key, known)}. "
                f"Keys: {keys_of(record, self._nested)}",
            )
        if key in values:
            self.fail(place, f"{name} has '{key}' twice: give it once")
        if not self.takes("="):
            self.fail(self.place, f"expected '=' and a value after {name}:{key}")
        places[key] = self.place
        values[key] = self._value(key)

    def _value(self, key: str) -> Any:
        kind, value, place = self._pop()
        if kind in ("number", "numbers"):
            found = tuple(self._number(one, place) for one in value.split("/"))
            return found[0] if kind == "number" else found
        if kind == "size":
            return tuple(int(self._number(size, place)) for size in value.split("x"))
        if kind == "word" and self.takes("("):
            if value not in self._nested:
                self.fail(place, f"'{value}' has no keys. Known: {', '.join(self._nested)}")
            self._depth += 1
            if self._depth > _DEEPEST:
                self.fail(place, f"expected at most {_DEEPEST} parentheses within each other")
            is_empty = self.takes(")")
            found = self.fields(self._nested[value], value, place, not is_empty)
            self._depth -= 1
            if not is_empty and not self.takes(")"):
                self.fail(self.place, f"expected ',' and another key of {value}, or ')'")
            return found
        if kind == "word":
            return _WORDS.get(value, value)
        self.fail(
            place,
            f"expected a value of '{key}': a number, true, false, none, a size (128x128), numbers "
            "(0/2e-6), or a word",
        )

    def _number(self, text: str, place: int) -> int | float:
        if not text.lstrip("+-").isdigit():
            return float(text)
        if len(text.lstrip("+-0")) > _INTEGER_DIGITS:
            self.fail(place, f"expected an integer of at most {_INTEGER_DIGITS} digits")
        return int(text)

    def _pop(self) -> tuple[str, str, int]:
        token = self._tokens[self._next]
        if token[0] != "end":
            self._next += 1
        return token


def read_fields(record: type[Record], text: str, what: str) -> Record:
    """Returns a dataclass from its `key=value` pairs between commas.

    Args:
        record: the class.
        text: the pairs; keys that are left out have the class's defaults.
        what: what the text describes, for messages.

    Raises:
        ValueError: if the text is not understood, or the class refuses a value.
    """
    reader = Reader(text, what)
    found = reader.fields(record, what.lower())
    reader.end("',' and another key")
    return found


def write_fields(record: Any, nested: Mapping[str, Any], left_out: Collection[str] = ()) -> str:
    """Returns the `key=value` pairs of a dataclass, those of its defaults left out.

    Args:
        record: the dataclass.
        nested: name -> class of the records that may stand in a value.
        left_out: more keys to leave out.

    Raises:
        TypeError: if a field holds what text cannot say.
    """
    return ",".join(
        f"{field.name}={_written(field.name, value, nested)}"
        for field in _fields(type(record))
        if (value := getattr(record, field.name)) != field.default or _is_required(field)
        if field.name not in left_out
    )


def keys_of(record: Any, nested: Mapping[str, Any]) -> str:
    """Returns the keys of a dataclass with their defaults, in words: "rate, exact=false"."""
    found = [
        field.name
        if _is_required(field)
        else f"{field.name}={_written(field.name, field.default, nested)}"
        for field in _fields(record)
    ]
    return ", ".join(found) or "none"


def _written(key: str, value: Any, nested: Mapping[str, Any]) -> str:
    for word, meaning in _WORDS.items():
        if value is meaning:
            return word
    if isinstance(value, int | float):
        # By way of Python's own types: NumPy's repr names the type.
        return repr(int(value) if isinstance(value, int) else float(value))
    if isinstance(value, tuple) and len(value) > 1 and all(type(one) is int for one in value):
        return "x".join(map(str, value))
    if isinstance(value, tuple) and value and all(type(one) in (int, float) for one in value):
        return "/".join(repr(float(one)) for one in value)
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", value) and value not in _WORDS:
        return value
    for name, record in nested.items():
        if record is type(value):
            pairs = write_fields(value, nested)
            return f"{name}({pairs})" if pairs else name
    raise TypeError(f"A text cannot say {key}={value!r}: build it in Python.")


def _hint(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _fields(record: Any) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(record) if field.init]


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING
