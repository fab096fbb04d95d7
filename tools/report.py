"""What tools make of their rows: a table on the terminal, CSV and JSON files, figures."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from absl import flags

from . import cli

flags.disclaim_key_flags()


def define_figures() -> None:
    """Defines `--figures`, for tools that draw."""
    flags.DEFINE_enum("figures", "png", ["png", "pdf", "svg"], "Format of the figures.")


def table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns rows as a table that keeps every value's type: whole numbers beside None too."""
    return pd.DataFrame(list(rows), dtype=object)


def percent(value: float | None, digits: int = 2) -> str:
    """Returns a share as a number of percent, "-" for None."""
    return "-" if value is None else f"{100 * value:z.{digits}f}"


def value(number: float | None, is_counted: bool = True) -> str:
    """Returns an accuracy as a number of percent, another score as it is, "-" for None."""
    return percent(number) if is_counted or number is None else f"{number:.4g}"


def in_percent(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Returns rows as cells to read, with some of their columns in percent."""
    cells = rows.assign(**{name: rows[name].map(percent) for name in names})
    return cells.rename(columns=lambda name: name.replace("_", " ")).fillna("-")


def show(cells: pd.DataFrame, notes: Sequence[str] = ()) -> None:
    """Prints cells that are ready to be read, and lines of notes below.

    A terminal gets a table that fits it; a file or a pipe gets aligned lines.
    """
    if sys.stdout.isatty():
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table

        grid = Table(box=SIMPLE_HEAD)
        for name in cells:
            grid.add_column(str(name), justify="right", overflow="fold")
        for row in cells.itertuples(index=False):
            grid.add_row(*map(str, row))
        Console().print(grid)
        print("\n".join(notes))
    else:
        print(text(cells, notes))


def text(cells: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """Returns cells as aligned lines, each column to the right, and lines of notes."""
    return "\n".join([cells.to_string(index=False), *notes])


def markdown(cells: pd.DataFrame) -> str:
    """Returns cells as a table of Markdown."""
    rows = [list(cells), ["---"] * cells.shape[1], *cells.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def commands(trainings: Sequence[Mapping[str, Any] | None]) -> str:
    """Returns the commands of trainings (see `inputs.Training.origin`) and this one, to publish."""
    origins = [{"command": cli.command(is_public=True), "commit": cli.commit()}]
    lines = [f"{one['command']}  # {one['commit']}" for one in [*trainings, *origins] if one]
    return "\n".join(["```bash", *dict.fromkeys(lines), "```"])


def write(path: pathlib.Path, content: str) -> None:
    """Writes a text file, whole or not at all."""
    from keras_rram.files import written_whole

    with written_whole(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_json(path: pathlib.Path, content: Any, indent: int = 1) -> None:
    """Writes a JSON file, whole or not at all."""
    write(path, json.dumps(content, indent=indent) + "\n")


def write_rows(path: pathlib.Path, rows: pd.DataFrame, **about: Any) -> None:
    """Writes rows to `path` with the suffixes `.csv` and `.json`, there with what they are about.

    The JSON object has the command and the commit, then `about`, then the rows.
    """
    write(path.with_suffix(".csv"), rows.to_csv(index=False, lineterminator="\n"))
    origin = {"command": cli.command(is_public=True), "commit": cli.commit()}
    content = {**origin, **about, "rows": rows.to_dict("records")}
    write_json(path.with_suffix(".json"), content, indent=2)


@contextlib.contextmanager
def figure(path: pathlib.Path, width: float, height: float, grid: Any = "both") -> Iterator[Any]:
    """Gives the axes of a figure in the style of `keras_rram.plots`, and writes it as PNG."""
    from matplotlib.figure import Figure

    from keras_rram.files import written_whole

    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots()
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    with written_whole(path) as temporary:
        drawn.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
