"""Every guide runs, in its short form, and becomes a notebook."""

import ast
import pathlib
import runpy
from unittest import mock

import keras
import pytest

from keras_rram import faults
from tests.run_tools import run_in_turn
from tools.guide_cells import parse

ROOT = pathlib.Path(__file__).parent.parent
GUIDES = sorted(path.stem for path in (ROOT / "guides").glob("*.py"))
NEEDS = {"sweep_with_optuna": "optuna"}

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="guides are written for TensorFlow"
)


def test_there_are_nine():
    assert len(GUIDES) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_runs(name, tmp_path, monkeypatch, capsys):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUIDE_FAST", "1")
    with mock.patch.dict(faults.NAMES):  # a name that a guide registers ends with it
        runpy.run_path(str(ROOT / "guides" / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.count("\n") >= 5


def test_guides_are_prose_and_code_in_turn():
    for name in GUIDES:
        source = (ROOT / "guides" / f"{name}.py").read_text()
        guide = parse(source)
        kinds = {kind for kind, _ in guide.cells}
        assert kinds == {"markdown", "code"} and guide.title and guide.description
        # The oracle: the code cells alone are the program, without its prose.
        program = "\n".join(text for kind, text in guide.cells if kind == "code")
        bare = [
            node
            for node in ast.parse(source).body
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        ]
        assert ast.dump(ast.parse(program)) == ast.dump(ast.Module(bare, []))
        assert guide.markdown().startswith(f"# {guide.title}\n")


def test_a_notebook_holds_the_cells(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    out = f"--out={tmp_path}/notebooks"
    errors = run_in_turn(
        ["notebooks", "--guides=fault_models", "--norun_all", out],
        ["notebooks", "--guides=none", f"--out={tmp_path}/other"],
    )
    assert errors[0] == "" and "--guides must be some of" in errors[1]
    notebook = nbformat.read(tmp_path / "notebooks" / "fault_models.ipynb", as_version=4)
    nbformat.validate(notebook)
    guide = parse((ROOT / "guides" / "fault_models.py").read_text())
    assert [cell.cell_type for cell in notebook.cells[1:]] == [kind for kind, _ in guide.cells]
