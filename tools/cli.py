"""What every tool shares: how it starts, what its help says, and how it fails."""

import contextlib
import importlib.util
import os
import pathlib
import re
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# Before TensorFlow is imported, or its start-up messages drown the tool's own.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging  # noqa: E402

from . import COMMANDS  # noqa: E402

# Flags that are defined in a module like this are those of the tool that asks for them.
flags.disclaim_key_flags()

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent
IS_CLONE = (ROOT / "pyproject.toml").is_file()

_LONGEST = 600  # characters of a message
_PATIENCE = 60.0  # seconds that one of several processes waits for another one's results

_section_of: dict[str, str] = {}
_writing = contextlib.ExitStack()


def section(title: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives the flags that a function defines a section of their own in a tool's help."""

    def decorate(define: Callable[..., None]) -> Callable[..., None]:
        def defining(*arguments: Any, **options: Any) -> None:
            before = set(FLAGS)
            define(*arguments, **options)
            _section_of.update({name: title for name in FLAGS if name not in before})

        return defining

    return decorate


def run(main: Callable[[Sequence[str]], object], takes_names: bool = False) -> None:
    """Runs a tool's `main`; bad input ends it with one line on stderr and exit code 1.

    What does not begin with `--` is an error, unless the tool `takes_names`.

    `ValueError`, `TypeError`, `OSError`, a package that is missing and memory that is too small are
    the user's to mend and say how. Anything else is a bug and keeps its traceback, as all errors do
    with `--v=1`.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(sys.modules["__main__"]))
        raise SystemExit(0)

    def guarded(arguments: Sequence[str]) -> None:
        logging.use_absl_handler()
        if len(arguments) > 1 and not takes_names:
            fail(f"unexpected arguments {list(arguments[1:])}: options begin with `--`.")
        _choose_backend()
        _import_keras_quietly()
        # Where MODULE:FUNCTION of a flag is looked for; a console script has only its own folder.
        if not {"", os.getcwd()} & set(sys.path):
            sys.path.append(os.getcwd())
        try:
            for flag, module in (("help_faults", "fault_flags"), ("help_repairs", "repair_flags")):
                if FLAGS.flag_values_dict().get(flag):
                    importlib.import_module(f".{module}", __package__).print_help()
                    return
            main(arguments)
        except KeyboardInterrupt:
            fail("interrupted; what was finished is kept.", code=130)
        except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
            if logging.level_debug():
                raise
            fail(in_a_line(error))
        finally:
            done()

    app.run(guarded, flags_parser=_parse)


def _parse(arguments: list[str]) -> list[str]:
    try:
        return FLAGS(arguments)
    except flags.Error as error:
        fail(f"{error} (see `{tool(pathlib.Path(sys.argv[0]).stem)} -h`).")
        raise


def help_text(module: Any) -> str:
    """Returns a tool's docstring and its flags, those of its own first, then by section."""
    own = FLAGS.get_key_flags_for_module(
        sys.argv[0] if module.__name__ == "__main__" else module.__name__
    )
    lines = [(module.__doc__ or "").strip()]
    for title in ("flags", *dict.fromkeys(_section_of.values())):
        lines += ["", f"{title}:"]
        for flag in (flag for flag in own if _section_of.get(flag.name, "flags") == title):
            is_plain = flag.default is None or flag.default is False or flag.default == []
            given = "" if is_plain else f" [{flag.default_as_str.strip(chr(39))}]"
            lines += textwrap.wrap(
                f"--{flag.name}: {' '.join((flag.help or '').split())}{given}",
                100,
                initial_indent="  ",
                subsequent_indent="      ",
            )
    return "\n".join(lines)


def _choose_backend() -> None:
    """Obeys a tool's `--backend` and `--device`, which have to come before the import of Keras."""
    given = FLAGS.flag_values_dict()
    if backend := given.get("backend"):
        os.environ["KERAS_BACKEND"] = backend
        if "keras" in sys.modules and sys.modules["keras"].config.backend() != backend:
            fail(f"Keras runs already: use the command `keras-rram`, or KERAS_BACKEND={backend}.")
    if given.get("device") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        os.environ["JAX_PLATFORMS"] = "cpu"


def _import_keras_quietly() -> None:
    """Imports Keras and its backend without the start-up messages, which no setting stops."""
    # By its path: by its name it would come with the package, and so after Keras.
    package = importlib.util.find_spec("keras_rram")
    if package is None or package.origin is None:
        fail("the package keras_rram is not installed.")
        return
    path = pathlib.Path(package.origin).with_name("quiet.py")
    with runpy.run_path(str(path))["held_stderr"]():
        import keras

        keras.ops.zeros(())


def fail(message: str, code: int = 1) -> None:
    """Prints `error: message` on stderr and ends the process."""
    if "tqdm" in sys.modules:  # a bar that is not at its end leaves the cursor in its line
        bars: Any = sys.modules["tqdm"].tqdm
        for bar in list(getattr(bars, "_instances", ())):
            bar.close()
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def in_a_line(error: Exception) -> str:
    """Returns the message of an error as one line that can be read."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 100]} ... {words[-90:]}"


def output_folder(path: str | None, resume: bool = False, is_shared: bool = False) -> pathlib.Path:
    """Returns the folder of `--out`, made if need be, once it is sure that it can be written.

    Until `done`, which `run` calls, no other process may write it, unless it is shared: then
    several work there at once, and write their results by `writing`.

    Raises:
        ValueError: if it is missing, holds files and `resume` is off, or has another writer.
        OSError: if it cannot be made or written.
    """
    from keras_rram.files import one_writer

    folder = _checked(path, resume)
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(f"--out='{folder}' cannot be written.")
    if is_shared:
        with one_writer(folder, _PATIENCE):
            return folder
    _writing.enter_context(one_writer(folder))
    return folder


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """Keeps the others out of a shared folder while results are written; waits for its turn.

    Raises:
        ValueError: if another process goes on writing.
    """
    from keras_rram.files import one_writer

    with one_writer(folder, _PATIENCE):
        yield


def check_output_folder() -> None:
    """Raises ValueError for an `--out` that cannot be, before anything; see `output_folder`."""
    given = FLAGS.flag_values_dict()
    _checked(given["out"], bool(given.get("resume") or given.get("replace")))


def _checked(path: str | None, resume: bool) -> pathlib.Path:
    if not path:
        raise ValueError("--out is missing: name the folder for the results.")
    folder = pathlib.Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out='{folder}' is a file: name a folder.")
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if found - {".writer.lock"} and not resume:
        raise ValueError(f"--out='{folder}' is not empty: name another folder, or give --resume.")
    return folder


def done() -> None:
    """Lets other processes write the folder of `--out`."""
    _writing.close()


def tool(module: str) -> str:
    """Returns how a user starts a tool here: `python -m tools.train`, or `keras-rram train`."""
    if __package__ == "tools":
        return f"python -m tools.{module}"
    return f"keras-rram {next((name for name in COMMANDS if COMMANDS[name] == module), module)}"


def start(module: str) -> list[str]:
    """Returns the beginning of a command line that starts a tool as this one was started."""
    how = f"{__package__}.{module}"
    if __package__ == "keras_rram_tools":  # what `keras_rram_command` makes of the folder
        return [sys.executable, "-m", "keras_rram_command", tool(module).split()[-1]]
    return [sys.executable, "-m", how]


def command(is_public: bool = False) -> str:
    """Returns the command line of this process, as a user would type it.

    Args:
        is_public: whether it is for a file to be published, which names no folder of data.
    """
    words = " ".join([tool(pathlib.Path(sys.argv[0]).stem), *sys.argv[1:]])
    return without_paths(words) if is_public else words


def without_paths(words: str) -> str:
    """Returns a command line without the place of the data on this machine."""
    return re.sub(r"--data_dir=\S+", "--data_dir=DIR", words)


def commit() -> str | None:
    """Returns the commit of this clone, with `-modified` if files differ; None outside of one."""
    if not IS_CLONE:
        return None
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


def numbers(name: str, within: str, whole: bool = False) -> list[Any]:
    """Returns the numbers of a list flag.

    Args:
        name: the flag.
        within: the interval that they must be in, "[0, 1)".
        whole: whether they must be integers.

    Raises:
        ValueError: if there are none, or one is no such number.
    """
    low, high = map(float, within[1:-1].split(","))
    try:
        found = [(int if whole else float)(value) for value in FLAGS[name].value]
    except ValueError:
        found = []
    above, below = within[0] == "[", within[-1] == "]"
    if not found or not all(
        low < number < high or (above and number == low) or (below and number == high)
        for number in found
    ):
        kind = "integers" if whole else "numbers"
        raise ValueError(f"--{name} must be {kind} in {within}. Received: {FLAGS[name].value}")
    return found


def parsed(name: str, make: Callable[[str], Any]) -> Any:
    """Returns what `make` makes of a flag, None if it is not given; an error names the flag."""
    value = FLAGS[name].value
    try:
        return None if value is None else make(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--{name}='{value}': {error}") from None
