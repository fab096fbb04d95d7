r"""Turns the guides into Jupyter notebooks with their outputs, in a clone.

  python -m tools.notebooks --out=notebooks
  python -m tools.notebooks --guides=fault_models,repair_a_chip --norun_all --out=notebooks

A guide is a Python file in the form of keras.io's: its first docstring holds title and description,
every other string that stands alone is prose in Markdown, and what is between is code. Each
notebook is executed in an empty folder, and an error ends the tool. It takes the extra `guides`.
"""

import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli, guide_cells

FLAGS = flags.FLAGS

flags.DEFINE_list("guides", [], "Names of guides; default: all.")
flags.DEFINE_bool("run_all", True, "Execute them; off: notebooks without outputs.")
flags.DEFINE_string("out", None, "Folder for the notebooks.")


def main(argv: Sequence[str]) -> None:
    """Writes the notebooks."""
    del argv
    import nbformat

    from keras_rram.files import written_whole

    paths = sorted((cli.ROOT / "guides").glob("*.py"))
    names = [path.stem for path in paths]
    if not paths:
        raise ValueError("there is no folder guides/: the notebooks are made in a clone.")
    if unknown := sorted(set(FLAGS.guides) - set(names)):
        raise ValueError(f"--guides must be some of {names}. Received: {unknown}")
    folder = cli.output_folder(FLAGS.out)
    for path in paths:
        if FLAGS.guides and path.stem not in FLAGS.guides:
            continue
        guide = guide_cells.parse(path.read_text("utf-8"))
        notebook = nbformat.v4.new_notebook()
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        makers = {
            "markdown": nbformat.v4.new_markdown_cell,
            "code": nbformat.v4.new_code_cell,
        }
        title = nbformat.v4.new_markdown_cell(f"# {guide.title}\n\n{guide.description}")
        notebook.cells = [title, *(makers[kind](text) for kind, text in guide.cells)]
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{number}"  # random by default
        seconds = time.monotonic()
        if FLAGS.run_all:
            _execute(notebook)
        seconds = time.monotonic() - seconds
        with written_whole(folder / f"{path.stem}.ipynb") as temporary:
            temporary.write_text(nbformat.writes(notebook) + "\n", "utf-8", newline="\n")
        print(
            f"{folder / path.stem}.ipynb: {len(notebook.cells)} cells, {seconds:.0f} s", flush=True
        )


def _execute(notebook: Any) -> None:
    """Executes a notebook in an empty folder, with the packages of this clone.

    Its outputs are what it prints and draws: what libraries say on stderr as they start has paths
    of this machine, and warnings of our own end the tests of the guides.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config

    held = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(cli.ROOT), *filter(None, [held])])
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryDirectory() as sockets,
            tempfile.TemporaryFile("w+") as messages,
        ):
            place = {"metadata": {"path": str(pathlib.Path(folder))}}
            # Between two processes of one machine: no port is opened. The place is absolute, since
            # the kernel runs in another folder than this process.
            kernel = {"transport": "ipc", "ip": str(pathlib.Path(sockets) / "kernel")}
            held_in = Config({"KernelManager": kernel})
            # A kernel imports for long where the cores are busy.
            options: dict[str, Any] = {
                "timeout": None,
                "startup_timeout": 600,
                "coalesce_streams": True,
            }
            client = NotebookClient(notebook, resources=place, config=held_in, **options)
            try:
                client.execute(stderr=messages)
            except BaseException:
                messages.seek(0)
                print(messages.read(), end="", file=sys.stderr)
                raise
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        raise ValueError("a guide ended with the error above.") from None
    finally:
        if held is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = held


if __name__ == "__main__":
    cli.run(main)
