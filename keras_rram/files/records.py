"""Kinds of records: JSON objects of a declared form, with a version and a digest of their content.

A record is one object, in a file of its own or on a line of its own. Its last key is `digest`, the
SHA-256 of the object without it, as canonical JSON (see `digests.content_sha256`). A record of a
version before digests is read without one; one that has a digest has to match it, whatever its
version, so that a flipped version does not switch the check off.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
import numpy as np

from keras_rram.files.digests import content_sha256
from keras_rram.files.writing import written_whole

DIGEST = "digest"
_LONGEST = 200


@dataclass(frozen=True)
class Kind:
    """One kind of record.

    Attributes:
        name: what messages call it, "the header of a run".
        where: the file, or the part of one, that holds it.
        record: its form. Keys that the form does not name are kept: later versions may add some.
        key: the key of its version; empty where the records of a file have their version in another
            one.
        version: the value of that key that is written.
        before: values that are read too, of records without a digest; None stands for no such key.
        mend: what to do with one that is damaged.
    """

    name: str
    where: str
    record: type[msgspec.Struct]
    mend: str
    key: str = ""
    version: Any = None
    before: tuple[Any, ...] = ()

    def sealed(
        self, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, Any]:
        """Returns the content with its version first and its digest last.

        Args:
            content: plain values; what JSON makes of them counts, tuples are lists.
            arrays: arrays that lie beside the record and that the digest covers too.

        Raises:
            ValueError: if the content has not the form, or a number in it is NaN or infinite.
        """
        head = {self.key: self.version} if self.key else {}
        held = {**head, **{k: v for k, v in content.items() if k not in (self.key, DIGEST)}}
        try:
            held = json.loads(json.dumps(held, allow_nan=False))
            msgspec.convert(held, self.record)
        except (ValueError, TypeError, msgspec.ValidationError) as error:
            raise ValueError(f"expected {self.name}. Received: {error}") from None
        return {**held, DIGEST: content_sha256(held, arrays)}

    def line(self, content: Mapping[str, Any]) -> str:
        """Returns the record as one line of JSON, with the newline."""
        return json.dumps(self.sealed(content)) + "\n"

    def write(self, path: str | os.PathLike, content: Mapping[str, Any], indent: int = 2) -> None:
        """Writes a file that is this record, whole or not at all.

        Raises:
            ValueError: see `sealed`.
            OSError: if the file cannot be written.
        """
        text = json.dumps(self.sealed(content), indent=indent) + "\n"
        with written_whole(path) as temporary:
            temporary.write_text(text, "utf-8", newline="\n")

    def read(self, path: str | os.PathLike) -> dict[str, Any]:
        """Reads a file that is this record; see `parse`.

        Raises:
            FileNotFoundError: if there is none.
        """
        return self.parse(pathlib.Path(path).read_bytes(), path)

    def parse(
        self,
        text: str | bytes,
        place: Any,
        line: int | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
        is_sealed: bool | None = None,
    ) -> dict[str, Any]:
        """Returns the content of a record, with its version and without its digest.

        Args:
            text: the JSON object.
            place: the file, for messages.
            line: the line, for messages.
            arrays: see `sealed`.
            is_sealed: whether it must have a digest; by default as its version says.

        Raises:
            ValueError: if it is no such record, of a version that is not known, or changed since it
                was written. The message says where, what and how to mend it.
        """
        where = f"'{place}'" + ("" if line is None else f", line {line},")
        try:
            text = text if isinstance(text, str) else text.decode()
            content = json.loads(text, parse_constant=_no_number)
        except RecursionError:
            self._damaged(where, "it is nested too deeply")
        except ValueError as error:
            self._damaged(where, f"it is no JSON ({error})")
        if not isinstance(content, dict):
            self._damaged(where, f"it is no object, but {_short(content)}")
        digest = content.pop(DIGEST, None)
        found = content.get(self.key) if self.key else None
        if self.key and found not in (self.version, *self.before):
            raise ValueError(
                f"{where} is not of this version: expected the {self.key} {self.version!r} of "
                f"{self.name}. Received: {_short(found)}. {self.mend}"
            )
        if is_sealed is None:
            is_sealed = found == self.version
        if is_sealed and digest is None:
            self._damaged(where, "it has no digest of its content")
        try:
            actual = content_sha256(content, arrays)
            msgspec.convert(content, self.record)
        except msgspec.ValidationError as error:
            # A text of another type is no reason to hide that the content was changed.
            actual = content_sha256(content, arrays)
            if digest in (None, actual):
                self._damaged(where, str(error))
        except (ValueError, RecursionError, OverflowError) as error:
            self._damaged(where, f"it holds what no such record holds ({error})")
        if digest not in (None, actual):
            self._damaged(where, "its content is not what its digest was made of")
        return content

    def _damaged(self, where: str, reason: str) -> NoReturn:
        raise ValueError(
            f"{where} is damaged, or no {self.name.removeprefix('the ')}: "
            f"{reason[:_LONGEST]}. {self.mend}"
        )


def whole_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields number and bytes of the lines of records, but for a last one that was cut short.

    A kill cuts a line short, before its newline at the latest. A whole record with something else
    behind it than a newline was changed: it is yielded, and no reader will take it.
    """
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            text = line.decode(errors="replace")
            try:
                is_cut = json.JSONDecoder().raw_decode(text)[1] == len(text)
            except (ValueError, RecursionError):
                is_cut = True
            if is_cut:
                return
        yield number, line


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}..."
