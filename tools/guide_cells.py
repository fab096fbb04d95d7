"""A guide, cut into cells of prose and code."""

import ast
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Guide:
    """A guide, cell by cell.

    Attributes:
        title: its title.
        description: one sentence.
        cells: pairs of "markdown" or "code", and the text.
    """

    title: str
    description: str
    cells: tuple[tuple[str, str], ...]

    def markdown(self) -> str:
        """Returns the guide as one page of Markdown."""
        parts = [f"# {self.title}", self.description]
        for kind, text in self.cells:
            parts.append(text if kind == "markdown" else f"```python\n{text}\n```")
        return "\n\n".join(parts) + "\n"


def parse(source: str) -> Guide:
    """Cuts the source of a guide into cells.

    Raises:
        ValueError: if its first statement does not say title and description.
    """
    lines, body = source.splitlines(), ast.parse(source).body
    header = ast.get_docstring(ast.parse(source)) or ""
    known = dict(re.findall(r"^(Title|Description): (.+)$", header, re.MULTILINE))
    if set(known) != {"Title", "Description"}:
        raise ValueError("expected a docstring with `Title:` and `Description:` at the beginning.")
    cells: list[tuple[str, str]] = []
    start = body[0].end_lineno or 0

    def code(stop: int) -> None:
        text = "\n".join(lines[start:stop]).strip("\n")
        if text.strip():
            cells.append(("code", text))

    for node in body[1:]:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            code(node.lineno - 1)
            cells.append(("markdown", str(node.value.value).strip()))
            start = node.end_lineno or start
    code(len(lines))
    return Guide(known["Title"], known["Description"], tuple(cells))
