"""Keeps what TensorFlow says, past Python, off the terminal.

Imports nothing of Keras, so that it can be had before Keras is: `runpy.run_path(quiet.__file__)`.
"""

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
def held_stderr() -> Iterator[Callable[[], str]]:
    """Holds back what the process writes to stderr; yields what returns it so far."""
    with _LOCK, tempfile.TemporaryFile() as log:
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


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Holds back stderr, TensorFlow's Python logs and warnings; yields what returns it so far."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    with held_stderr() as messages, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield messages
        finally:
            logger.setLevel(level)
