"""Runs a tool: as a process, like a user; here, as a process would; or its `main` alone."""

import contextlib
import importlib
import io
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from absl import flags

ROOT = pathlib.Path(__file__).parent.parent
# XLA compiles far more than it computes in tests.
QUICK_COMPILING = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def run_tool(name: str, *arguments: object, code: int = 0) -> str:
    """Runs `python -m tools.<name>` and returns its output; the exit code must be `code`."""
    result = subprocess.run(
        [sys.executable, "-m", f"tools.{name}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    output = result.stdout + result.stderr
    assert result.returncode == code, output[-3000:]
    if code:
        assert "Traceback" not in output, output[-3000:]
    return output


def run_here(name: str, *arguments: object, code: int = 0) -> str:
    """Runs a tool as `run_tool` does but in this process, which has Keras already."""
    words = [str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    main, printed = load_tool(name).main, io.StringIO()
    with (
        mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        try:
            sys.modules["tools.cli"].run(main)
            found: object = 0
        except SystemExit as ended:
            found = ended.code or 0
    output = printed.getvalue()
    assert found == code, output[-3000:]
    return output


@contextlib.contextmanager
def beside(program: str, *arguments: object, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Runs a program of Python in a process beside this one; it must end well after the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        _, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]


def wait_until(process: subprocess.Popen[str], seconds: float, is_so: Callable[[], bool]) -> None:
    """Waits for something that a process of `beside` does."""
    end = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, process.stderr.read()[-3000:]  # type: ignore[union-attr]
        assert time.monotonic() < end, "it makes no progress"
        time.sleep(0.01)


def on_backend(name: str, **others: str) -> dict[str, str]:
    """Returns the environment of a process on a CPU with another backend of Keras."""
    return {
        **os.environ,
        "KERAS_BACKEND": name,
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": QUICK_COMPILING,
        **others,
    }


def load_tool(name: str) -> Any:
    """Imports a tool afresh. Tools share names of flags: those of one are there at a time."""
    for module, defined in list(flags.FLAGS.flags_by_module_dict().items()):
        if module.startswith("tools."):
            for flag in list(defined):  # it shrinks
                delattr(flags.FLAGS, flag.name)
            sys.modules.pop(module, None)
    sys.modules.pop(f"tools.{name}", None)
    flags.FLAGS.unparse_flags()
    return importlib.import_module(f"tools.{name}")


def run_main(name: str, *arguments: object) -> None:
    """Calls `main` of a tool with flags."""
    tool = load_tool(name)
    flags.FLAGS([name, *map(str, arguments)])
    try:
        tool.main([name])
    finally:
        sys.modules["tools.cli"].done()


def run_in_turn(*runs: tuple) -> list[str]:
    """Calls `main` of tools, each with its flags; returns each one's error, or an empty string."""
    errors = []
    for name, *arguments in runs:
        try:
            run_main(name, *arguments)
            errors.append("")
        except (ValueError, OSError, flags.Error) as error:
            errors.append(str(error))
    return errors
