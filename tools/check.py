"""Checks the project: lint, format, types, and the tests with all that pytest says.

  python -m tools.check

Ends with exit code 0 only if everything passes. It is for a clone, not for an installed package.
"""

import subprocess
import sys
from collections.abc import Sequence

from . import cli

CHECKS = (
    ("lint", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy"]),
    (
        "tests",
        [
            "pytest",
            "--numprocesses=2",
            "--dist=loadfile",
            "--no-loadscope-reorder",
            "--durations=25",
        ],
    ),
)


def main(argv: Sequence[str]) -> None:
    """Runs every check, the tests last."""
    del argv
    if not cli.IS_CLONE:
        raise ValueError(f"expected a clone of the repository. Received: {cli.ROOT}")
    failed = []
    for name, arguments in CHECKS:
        print(f"== {name}: {' '.join(arguments)}", flush=True)
        result = subprocess.run([sys.executable, "-m", *arguments], cwd=cli.ROOT, check=False)
        if result.returncode:
            failed.append(name)
    if failed:
        cli.fail(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    cli.run(main)
