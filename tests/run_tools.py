"""Runs a tool: as a process, like a user, or its `main` alone, which is faster."""

import importlib
import os
import pathlib
import subprocess
import sys
from typing import Any

from absl import flags

ROOT = pathlib.Path(__file__).parent.parent


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
