"""What every tool shares: how it starts, how it fails, and where its numbers come from."""

import dataclasses
import os
import pathlib
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

# Before TensorFlow is imported, or its start-up messages drown the tool's own.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging  # noqa: E402

# Flags that are defined here are those of the tool that asks for them, and so in its --help.
flags.disclaim_key_flags()

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Text and not made from `keras_rram.faults.text`, which cannot be imported before a backend is
# chosen; a test holds them together.
FAULT_MODEL_HELP = """What is wrong with the cells of a chip, as NAME:KEY=VALUE,KEY=VALUE; several
on one chip are joined by '+', and then each says its own rate. Names, keys and defaults:
  stuck_at_zero: rate, exact=false
  row_faults: rate, tile=128x128, mapping=none, stuck=off
  column_faults: rate, tile=128x128, mapping=none, stuck=off
  spread_faults: rate, tile=128x128, mapping=none, stuck=off, concentration=10.0
  clustered_faults: rate, tile=128x128, mapping=none, stuck=off, length=4.0, exact=false
  differential_pair: mapping=differential_pair, stuck_off=0.0, stuck_on=0.0, off_conductance=none, on_conductance=none
  stuck_at_values: mapping=differential_pair, rate, values
  lognormal_variation: mapping=differential_pair, sigma
  drift: mapping=differential_pair, seconds, nu, nu_sd=0.0, start=1.0, compensated=false
  finite_on_off: mapping=differential_pair, ratio
mapping= is differential_pair, centred_pair, reference_column, bit_slices, and of the first five
none, where whole weights fail; stuck= is off, on or open; conductances are in siemens, several
values as 0/2e-6/8e-5. A fault rate that another flag gives is the mean share of faulty cells (weights where mapping=none): rates and
stuck_off, stuck_on are scaled to it together. Examples: row_faults,
differential_pair:stuck_off=0.0904,stuck_on=0.0175,
stuck_at_zero:rate=0.1+lognormal_variation:sigma=0.1"""  # noqa: E501


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
    # By its path: by its name it would come with the package, and so after Keras.
    with runpy.run_path(str(ROOT / "keras_rram" / "quiet.py"))["held_stderr"]():
        import keras

        keras.ops.zeros(())


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


def define_fault_model() -> None:
    """Defines `--fault_model` and `--exact` for the tool that calls it."""
    flags.DEFINE_string("fault_model", "stuck_at_zero", FAULT_MODEL_HELP)
    flags.DEFINE_bool("exact", False, "Exactly this share of each kernel, not independent faults.")


def fault_model(otherwise: float | None = None, rates: Sequence[float] | None = None) -> Any:
    """Returns the fault model of `--fault_model` and `--exact`; see `parse_fault_model`."""
    return parse_fault_model(flags.FLAGS.fault_model, otherwise, rates, flags.FLAGS.exact)


def parse_fault_model(
    text: str,
    otherwise: float | None = None,
    rates: Sequence[float] | None = None,
    exact: bool = False,
) -> Any:
    """Returns the fault model of a `--fault_model`, as its text says it.

    Args:
        text: the flag.
        otherwise: fault rate of a model whose text says none; None: another flag must say it.
        rates: fault rates, from other flags, that it will be used at; checked here, before
            anything is loaded. `keras_rram.faults.at_rate` makes the models.
        exact: whether `--exact` is on.

    Raises:
        ValueError: if the text is not understood, if it names no fault, if the model has no rate
            and `rates` are given, or no option for `--exact`.
    """
    from keras_rram import faults

    try:
        try:
            model = faults.parse(text)
        except ValueError:
            model = faults.parse(text, otherwise)
        for part in getattr(model, "models", (model,)):
            if isinstance(part, faults.StuckCells) and not part.rate:
                raise ValueError(
                    "expected stuck cells. Received: a model without any (give it shares, as in "
                    "differential_pair:stuck_off=0.02,stuck_on=0.01)"
                )
        if exact:
            model = _exact(model)
        for rate in rates or ():
            faults.at_rate(model, rate)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--fault_model='{text}': {error}") from None
    return model


def fault_model_at(rate: float | None, otherwise: float | None = None) -> Any:
    """Returns the fault model of `--fault_model` at one rate, or at its own; see `fault_model`."""
    from keras_rram.faults import at_rate

    model = fault_model(otherwise if rate is None else rate, None if rate is None else [rate])
    return model if rate is None else at_rate(model, rate)


def faults_label(model: Any) -> str:
    """Returns the faults of chips in words, for figures and messages."""
    from keras_rram.faults import StuckAtZero, spec

    if isinstance(model, StuckAtZero):
        return f"{100 * model.rate:.3g}% of weights faulty"
    names = "+".join(part.partition(":")[0] for part in spec(model).split("+"))
    return f"{names}, {100 * model.rate:.3g}% faulty" if model.rate else names


def _exact(model: Any) -> Any:
    if "exact" not in {field.name for field in dataclasses.fields(model)}:
        raise ValueError(
            "expected a single stuck_at_zero or clustered_faults with --exact. Received: a model "
            "without that option (leave --exact out, or write exact=true in a part of it)"
        )
    return dataclasses.replace(model, exact=True)


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
