"""Pages of the site that are made of other files: guides, API reference, the README's example."""

import pathlib
import re
import sys
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.guide_cells import parse  # noqa: E402

API = {
    "layers": "Drop-Connect layers, conversion, roles",
    "faults": "fault models",
    "chips": "chips, audit",
    "noise": "noise in training and of reads",
    "data": "data sets",
    "hardware": "tiles, converters, cost",
    "models": "networks",
    "training": "training loop, recipes, callbacks",
    "repair": "repairs of a chip",
    "evaluation": "populations, statistics, explanation",
    "export": "TFLite files",
    "placement": "which layers may fail: sensitivities, search, ranks",
    "plots": "figures",
}
"""Room of the package -> what it has."""


def on_files(files: Files, config: Any) -> Files:
    """Adds a page for each guide and each room of the package."""
    for path in sorted((ROOT / "guides").glob("*.py")):
        text = parse(path.read_text("utf-8")).markdown()
        note = f"*This guide is `guides/{path.name}`; it runs as it is.*"
        title, _, rest = text.partition("\n\n")
        page = f"{title}\n\n{note}\n\n{rest}"
        files.append(File.generated(config, f"guides/{path.name[:-3]}.md", content=page))
    table = "\n".join(f"| [`keras_rram.{room}`]({room}.md) | {API[room]} |" for room in API)
    top = f"# API\n\n| module | has |\n| --- | --- |\n{table}\n"
    files.append(File.generated(config, "api/index.md", content=top))
    for room in API:
        page = f"# {room}\n\n::: keras_rram.{room}\n"
        files.append(File.generated(config, f"api/{room}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Puts the README's twenty lines where a page asks for them, so that they stand once."""
    if "<!-- twenty lines -->" not in markdown:
        return markdown
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"## In 20 lines\n\n(```python\n.*?```)", readme, re.DOTALL)
    if found is None:
        raise ValueError("README.md has no section 'In 20 lines' with an example.")
    return markdown.replace("<!-- twenty lines -->", found.group(1))
