"""The page `docs/formats.md`, made of the declared kinds of records.

`python -m keras_rram.files.page docs/formats.md` writes it.
"""

import sys
import types
import typing
from typing import Any

import msgspec

from keras_rram.files import schemas
from keras_rram.files.records import Kind

_HEAD = """# Formats of files

Made by `python -m keras_rram.files.page docs/formats.md` from `keras_rram/files/schemas.py`, where
each kind of record is declared once.

A record is one JSON object, in a file of its own, on a line of a JSON-lines file, or as the text
of an array in an `.npz` file. Its last key is `digest`: the SHA-256 (hexadecimal) of the object
without it, as canonical JSON: keys sorted, no blanks, UTF-8, no escapes beyond JSON's own. Where
arrays lie beside it, each adds, sorted by name, `"\\n" + name + "\\n"` and the SHA-256 of its
type, shape and bytes (`keras_rram.files.content_sha256`). Reading checks form, version and digest:
a file that was changed is an error that names file and line. Numbers are finite. Keys that are not
listed are allowed.

**Promise.** This version reads each kind in the version it writes, and in the versions named as
read; those are of before digests, and are read without one. A record of any other version is
refused by name. A version is raised when a key changes its meaning or is dropped, not when one is
added. A version that is read is read by the next minor version of the package too.

What no digest covers: maps of other origin (`.csv`, `.png`, `.npz` without a record) and data sets
of one's own, of which the checksums of ZIP and PNG are checked. In a map in `.csv`, and in any file
that was changed before it came here, a number that became another one is not seen: keep such files
with a checksum of your own (`sha256sum`), or import them once (`tools.program_chips`,
`save_tiles`), whose `.npz` has a digest. Figures, tables and `results.json` have none, and no tool
reads them; of `.keras` files every member's checksum is checked. A `.tflite` file is covered by the
`sha256` of its sidecar.

A run that was done has the number of its lines in its header: one that lost lines at its end is
refused until it is resumed, which evaluates their chips anew. A run that was stopped has no such
number, and says in every table how many chips it has. Of `index.jsonl` lines at the end may be
gone: their chips' files are written anew where the export is resumed, the same bytes.

`.npz` files are read strictly: every byte belongs to a member, members have no comments, each
one's checksum is verified, arrays are numbers or texts and as large as they say.

While a process writes a folder it holds `.writer.lock` there (`chips.jsonl.lock`,
`index.jsonl.lock` and `checkpoint.npz.lock` of the library), and a second one is refused; what a
killed process leaves of them is without meaning. Those who share a search (`study.db`) hold it one
after the other, while they write its results.
"""


def page() -> str:
    """Returns the page."""
    return "\n".join([_HEAD, *map(_kind, schemas.KINDS)])


def _kind(kind: Kind) -> str:
    name = kind.name.removeprefix("the ").removeprefix("a ")
    lines = [f"## {name[0].upper()}{name[1:]}", "", f"{kind.where[0].upper()}{kind.where[1:]}.", ""]
    if kind.key:
        before = ", ".join("without that key" if old is None else f"`{old}`" for old in kind.before)
        read = f"; read too: {before}" if before else ""
        lines += [f"Version: `{kind.key}` is `{kind.version}`{read}.", ""]
    lines += _table(kind.record)
    for part in _parts(kind.record):
        lines += [f"`{part.__name__}`: {_said(part)}", "", *_table(part)]
    return "\n".join(lines)


def _said(record: Any) -> str:
    return " ".join((record.__doc__ or "").split())


def _table(record: Any) -> list[str]:
    hints = typing.get_type_hints(record, include_extras=True)
    rows = [
        f"| `{field.name}` | {_type(hints[field.name])} | {'' if field.required else 'optional'} |"
        for field in msgspec.structs.fields(record)
    ]
    return ["| key | value | |", "| --- | --- | --- |", *rows, ""]


def _parts(record: Any) -> list[Any]:
    """Returns the records that a record is made of, each once."""
    found: dict[Any, None] = {}
    for hint in typing.get_type_hints(record, include_extras=True).values():
        for part in _structs(hint):
            found |= {part: None, **dict.fromkeys(_parts(part))}
    return list(found)


def _structs(hint: Any) -> list[Any]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    return [part for each in typing.get_args(hint) for part in _structs(each)]


def _type(hint: Any) -> str:
    """Returns a type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return f"{_type(inner[0])} {_bounds(inner[1])}"
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type, inner))
    if origin is dict:
        return "object" if inner[1] is Any else f"object of {_type(inner[1])}"
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type, inner))}]"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"`{hint.__name__}`"
    words = {
        str: "text",
        bool: "true or false",
        int: "integer",
        float: "number",
        type(None): "null",
    }
    return words[hint]


def _bounds(meta: msgspec.Meta) -> str:
    if meta.pattern:
        return f"`{meta.pattern}`"
    if meta.ge is not None and meta.le is not None:
        return f"in [{meta.ge}, {meta.le}]"
    return f">= {meta.ge}" + ("" if meta.lt is None else f", < {meta.lt}")


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8", newline="\n") as file:
        file.write(page())
