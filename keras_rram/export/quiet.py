"""Keeps TensorFlow's logs, which go past Python, off the terminal."""

import contextlib
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator

# The process has one stderr: two blocks at a time would restore each other's.
_LOCK = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Keeps the C++ and Python logs of TensorFlow off stderr; yields what returns them so far."""
    logger = logging.getLogger("tensorflow")
    with _LOCK, tempfile.TemporaryFile() as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logger.level
        logger.setLevel(logging.ERROR)
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(log.fileno(), 2)

        def messages() -> str:
            log.seek(0)
            return log.read().decode("utf-8", "replace")

        try:
            yield messages
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            logger.setLevel(level)
