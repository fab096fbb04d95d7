"""What every tool shares: how it starts, how it fails, and where its numbers come from."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

# Before TensorFlow is imported, or its start-up messages drown the tool's own.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(main: Callable[[Sequence[str]], object]) -> None:
    """Runs a tool's `main`; bad input ends it with one line on stderr and exit code 1.

    `ValueError`, `TypeError` and `OSError` are the user's to mend and say how. Anything else is a
    bug and keeps its traceback, as all errors do with `--v=1`.
    """

    def guarded(arguments: Sequence[str]) -> None:
        logging.use_absl_handler()
        if len(arguments) > 1:
            fail(f"unexpected arguments {list(arguments[1:])}: options begin with `--`.")
        _choose_backend()
        _import_keras_quietly()
        try:
            main(arguments)
        except KeyboardInterrupt:
            fail("interrupted; what was finished is kept.", code=130)
        except (ValueError, TypeError, OSError) as error:
            if logging.level_debug():
                raise
            fail(" ".join(str(error).split()))

    app.run(guarded)


def _choose_backend() -> None:
    """Obeys a tool's `--backend` and `--device`, which have to come before the import of Keras."""
    given = flags.FLAGS.flag_values_dict()
    if backend := given.get("backend"):
        os.environ["KERAS_BACKEND"] = backend
    if given.get("device") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        os.environ["JAX_PLATFORMS"] = "cpu"


def _import_keras_quietly() -> None:
    """Imports Keras and its backend without the start-up messages, which no setting stops."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            import keras

            keras.ops.zeros(())
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def fail(message: str, code: int = 1) -> None:
    """Prints `error: message` on stderr and ends the process."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def output_folder(path: str | None, resume: bool = False) -> pathlib.Path:
    """Returns the folder of `--out`, made if need be, once it is sure that it can be written.

    Raises:
        ValueError: if it is missing, or holds files and `resume` is off.
        OSError: if it cannot be made or written.
    """
    if not path:
        raise ValueError("--out is missing: name the folder for the results.")
    folder = pathlib.Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out='{folder}' is a file: name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not resume:
        raise ValueError(f"--out='{folder}' is not empty: name another folder, or give --resume.")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(f"--out='{folder}' cannot be written.")
    return folder


def command() -> str:
    """Returns the command line of this process, as a user would type it."""
    tool = pathlib.Path(sys.argv[0]).stem
    return " ".join([f"python -m tools.{tool}", *sys.argv[1:]])


def commit() -> str | None:
    """Returns the commit of this checkout, with `-modified` if files differ; None outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=-modified"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def load_model(path: str | None) -> Any:
    """Returns the Keras model of a `.keras` file.

    Raises:
        ValueError: if the file is missing or holds no model.
    """
    if not path:
        raise ValueError("--model is missing: name a .keras file.")
    if not pathlib.Path(path).is_file():
        raise ValueError(f"--model='{path}': there is no such file.")
    import keras

    import keras_rram  # noqa: F401  (registers the layers that the file may hold)

    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(f"--model='{path}' cannot be loaded: {error}") from error
