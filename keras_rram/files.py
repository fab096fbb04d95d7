"""Files that are written whole or not at all, locks, and digests of arrays."""

import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import filelock
import numpy as np


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path`, which becomes `path` if the block succeeds.

    On an error nothing remains, and a file that was at `path` before is untouched. The temporary
    path has the suffix of `path`, since some libraries choose a format by it.

    Args:
        path: the file to write; its folder must exist.
    """
    path = pathlib.Path(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=path.suffix)
    os.close(descriptor)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def lock(path: str | os.PathLike) -> filelock.BaseFileLock:
    """Locks a file until the process ends or calls `release`, on every operating system.

    Args:
        path: a file of its own for the lock; it is made, and may stay.

    Raises:
        BlockingIOError: if another process, or another part of this one, holds it.
    """
    held = filelock.FileLock(path)
    try:
        held.acquire(blocking=False)
    except filelock.Timeout:
        raise BlockingIOError(f"'{path}' is held by another process.") from None
    return held


def array_sha256(*arrays: np.ndarray) -> str:
    """Returns the SHA-256 of arrays: types, shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
