"""Runs a tool as a user does: a process, its exit code, and what it prints."""

import os
import pathlib
import subprocess
import sys

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
