"""Runs a tool by the name of its command, or lists them: `python -m tools [COMMAND]`."""

import ast
import difflib
import pathlib
import runpy
import sys

from . import COMMANDS


def main() -> None:
    """Does what the first argument says; the others are the tool's."""
    command = sys.argv[1] if len(sys.argv) > 1 else "-h"
    if command in ("-h", "--help"):
        print(_list())
        return
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        print(f"error: there is no command '{command}'{hint}\n\n{_list()}", file=sys.stderr)
        raise SystemExit(1)
    del sys.argv[1]
    runpy.run_module(f"{__package__}.{COMMANDS[command]}", run_name="__main__", alter_sys=True)


def _list() -> str:
    """Returns a line for each command: the first of its module's docstring, read unimported."""
    lines = ["usage: keras-rram COMMAND [--FLAG=VALUE ...]; `keras-rram COMMAND -h` has the flags."]
    for command, module in COMMANDS.items():
        tree = ast.parse(pathlib.Path(__file__).with_name(f"{module}.py").read_text("utf-8"))
        lines.append(f"  {command:<14} {(ast.get_docstring(tree) or '').splitlines()[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
