"""Checks the project: lint, format, types, and the tests with all that pytest says.

  python -m tools.check

Ends with exit code 0 only if everything passes. It is for a clone, not for an installed package.
"""

import subprocess
import sys
from collections.abc import Sequence

from . import cli

CHECKS = {
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "tests": [
        "pytest",
        "--numprocesses=2",
        "--dist=loadfile",
        "--no-loadscope-reorder",
        "--durations=25",
    ],
}
_TYPES = ["mypy"]
"""Beside the others, as it takes a minute of one processor."""


def main(argv: Sequence[str]) -> None:
    """Runs every check, types beside the others."""
    del argv
    if not cli.IS_CLONE:
        raise ValueError(f"expected a clone of the repository. Received: {cli.ROOT}")
    types = subprocess.Popen(
        [sys.executable, "-m", *_TYPES],
        cwd=cli.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    failed = []
    try:
        for name, arguments in CHECKS.items():
            print(f"== {name}: {' '.join(arguments)}", flush=True)
            result = subprocess.run([sys.executable, "-m", *arguments], cwd=cli.ROOT, check=False)
            if result.returncode:
                failed.append(name)
        print(f"== types: {' '.join(_TYPES)}", flush=True)
        print(types.communicate()[0], end="", flush=True)
    finally:
        types.kill()
    if types.returncode:
        failed.append("types")
    if failed:
        cli.fail(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    cli.run(main)
