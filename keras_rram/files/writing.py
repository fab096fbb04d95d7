"""Files are written whole or not at all, and a folder by one writer at a time."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import filelock


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


def lock(path: str | os.PathLike, patience: float = 0.0) -> filelock.BaseFileLock:
    """Locks a file until the process ends or calls `release`, on every operating system.

    Args:
        path: a file of its own for the lock; it is made, and may stay.
        patience: seconds to wait for one who holds it.

    Raises:
        BlockingIOError: if another process, or another part of this one, holds it.
    """
    held = filelock.FileLock(path)
    try:
        held.acquire(patience, blocking=patience > 0)
    except filelock.Timeout:
        raise BlockingIOError(f"'{path}' is held by another process.") from None
    return held


@contextlib.contextmanager
def one_writer(path: str | os.PathLike, patience: float = 0.0) -> Iterator[None]:
    """Keeps every other writer out of a folder, or away from a file, until the block ends.

    Args:
        path: a folder that exists, or the file; the lock is `.writer.lock` in the folder, or a file
            beside, with `.lock` added, and stays where the process is killed.
        patience: seconds to wait for another writer.

    Raises:
        ValueError: if another process, or another part of this one, writes there now.
        OSError: if the lock cannot be made.
    """
    path = pathlib.Path(path)
    place = path / ".writer.lock" if path.is_dir() else pathlib.Path(f"{path}.lock")
    try:
        held = lock(place, patience)
        while not place.exists():  # its last holder removed it, and this lock is of nothing
            held.release()
            held = lock(place, patience)
    except BlockingIOError:
        raise ValueError(
            f"'{path}' is being written by another process: wait for it, or name another one."
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # an open file cannot be removed on Windows
            place.unlink()
        held.release()
