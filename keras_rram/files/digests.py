"""Digests: SHA-256 of arrays, of what a record says, of bytes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def array_sha256(*arrays: np.ndarray) -> str:
    """Returns the SHA-256 of arrays: types, shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def content_sha256(content: Any, arrays: Mapping[str, np.ndarray] | None = None) -> str:
    """Returns the SHA-256 of plain values and of named arrays beside them.

    The values count as canonical JSON: keys in order, no blanks, UTF-8.

    Args:
        content: what JSON can hold.
        arrays: name -> array; names, types, shapes and values count.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name, array in sorted((arrays or {}).items()):
        digest.update(f"\n{name}\n{array_sha256(array)}".encode())
    return digest.hexdigest()


def is_sha256_of(digest: Any, data: bytes | bytearray) -> bool:
    """Returns whether a text is the SHA-256 of bytes."""
    return digest == hashlib.sha256(data).hexdigest()
