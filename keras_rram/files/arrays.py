"""Arrays in `.npz` files: read strictly and within bounds, written with a record that proves them.

NumPy reads what the directory of the archive still names, and believes what an array says of its
size. Here each byte of the file belongs to a member, each member has its checksum verified, and an
array takes no more memory than its bytes.
"""

import io
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_rram.files.records import Kind
from keras_rram.files.writing import written_whole

# Deflate makes 1,032 bytes of one, at most.
_MOST_INFLATION = 1032
_LOCAL_HEADER, _END = 30, 22


def check_zip(path: str | os.PathLike) -> None:
    """Checks that a ZIP archive is whole: its structure, and the checksum of every member.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no archive, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in _members(archive, pathlib.Path(path).stat().st_size):
                archive.read(member)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # of the archive's reader: zipfile, zlib, struct, NotImplemented...
        raise ValueError(f"'{path}' is damaged, or no ZIP archive: {_reason(error)}") from None


def read_npz(path: str | os.PathLike, what: str = "an `.npz` file of arrays") -> dict[str, Any]:
    """Reads all arrays of an `.npz` file of numbers and texts.

    Args:
        path: the file.
        what: what messages say that it is not.

    Returns:
        name -> array.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no such archive, or damaged: members that overlap, are hidden or
            have another checksum, arrays of objects, or of another size than they say.
    """
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in _members(archive, pathlib.Path(path).stat().st_size):
                name = member.filename
                if not name.endswith(".npy"):
                    raise ValueError(f"'{name}' in it is no array")
                found[name.removesuffix(".npy")] = _array(archive.read(member), name)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # zipfile, zlib, tokenize, struct, MemoryError, NotImplemented...
        raise ValueError(f"'{path}' is not {what}, or damaged: {_reason(error)}") from None
    return found


def write_npz(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    member: str,
    kind: Kind,
    content: Mapping[str, Any],
    compressed: bool = True,
) -> None:
    """Writes arrays, and a record whose digest covers them, as an `.npz` file, whole or not at all.

    Args:
        path: the file.
        arrays: name -> array.
        member: name of the array that holds the record as text.
        kind: kind of the record.
        content: what it says.
        compressed: whether the arrays are.

    Raises:
        ValueError: if the content has not the form of the kind.
        OSError: if the file cannot be written.
    """
    text = json.dumps(kind.sealed(content, arrays), sort_keys=True)
    save: Any = np.savez_compressed if compressed else np.savez
    with written_whole(path) as temporary:
        save(temporary, **{member: np.array(text)}, **arrays)


def read_sealed_npz(
    path: str | os.PathLike, member: str, kind: Kind, what: str
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Reads a file of `write_npz`.

    Returns:
        What the record says, None where the file has none, and the other arrays by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: see `read_npz` and `Kind.parse`.
    """
    arrays = read_npz(path, what)
    text = arrays.pop(member, None)
    if text is None:
        return None, arrays
    if text.dtype.kind != "U" or text.ndim:
        raise ValueError(f"'{path}' is damaged: its '{member}' is no text. {kind.mend}")
    return kind.parse(str(text), path, arrays=arrays), arrays


def _members(archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    """Returns the members of an archive in which every byte belongs to one of them."""
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    names = {member.filename for member in members}
    if len(names) != len(members):
        raise ValueError("its directory names a member twice")
    if archive.comment or any(member.comment for member in members):
        raise ValueError("it has a comment, which may hide members")
    ends = [member.header_offset for member in members[1:]] + [archive.start_dir][: len(members)]
    begin = 0
    for member, end in zip(members, ends, strict=True):
        if member.header_offset != begin:
            raise ValueError("there are bytes between its members")
        name = len(member.filename.encode())
        rest = end - begin - _LOCAL_HEADER - name - member.compress_size
        # An extra field (20 bytes of ZIP64, or a time stamp), and a descriptor of a stream.
        if not 0 <= rest <= 64:
            raise ValueError(f"'{member.filename}' does not fill its place")
        if member.file_size > _MOST_INFLATION * member.compress_size + 64:
            raise ValueError(f"'{member.filename}' says that it is larger than it can be")
        begin = end
    if begin != archive.start_dir:
        raise ValueError("there are bytes between its members")
    _check_directory(archive, members, size)
    return members


def _check_directory(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], size: int) -> None:
    """Checks that the directory ends where the file does, and names as many members as it says."""
    entries = sum(46 + len(each.orig_filename.encode()) + len(each.extra) for each in members)
    rest = size - archive.start_dir - entries
    file: Any = archive.fp
    file.seek(size - _END)
    end = file.read(_END)
    counts = {int.from_bytes(end[8:10], "little"), int.from_bytes(end[10:12], "little")}
    # 76 more where the archive is one of ZIP64.
    if rest not in (_END, _END + 76) or (counts != {len(members)} and rest == _END):
        raise ValueError("its directory is not what its end says")


def _array(data: bytes, name: str) -> np.ndarray:
    """Returns the array of an `.npy` file that is no larger than it says."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"'{name}' is an array of version {version}")
    shape, is_fortran, dtype = readers[version](file)
    if dtype.kind not in "biufU":
        raise ValueError(f"'{name}' must be numbers. Received: dtype {dtype}")
    size = math.prod(shape) * dtype.itemsize
    if any(side < 0 for side in shape) or size != len(data) - file.tell():
        raise ValueError(f"'{name}' says that its shape is {str(shape)[:60]}, which it has not")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    array = flat.reshape(shape, order="F" if is_fortran else "C")
    return np.array(array, order="K")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:160]
