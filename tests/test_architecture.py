"""Holds the arrows: which module may import which, and where TensorFlow may appear."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "keras_rram"

# Room -> rooms of the package that it may import, itself aside.
ARROWS = {
    "files": set(),
    "quiet": set(),
    "faults": set(),
    "layers": set(),
    "data": {"files"},
    "chips": {"faults", "files", "layers"},
    "noise": {"faults", "layers"},
    "hardware": {"chips", "faults", "files", "layers"},
    "models": {"layers"},
    "training": {"chips", "data", "faults", "files", "layers", "noise"},
    "repair": {"chips", "data", "faults", "files", "layers"},
    "export": {"chips", "data", "faults", "files", "hardware", "layers", "quiet", "repair"},
    "evaluation": {
        "chips",
        "data",
        "export",
        "faults",
        "files",
        "hardware",
        "layers",
        "noise",
        "quiet",
        "repair",
    },
    "placement": {
        "chips",
        "data",
        "evaluation",
        "faults",
        "files",
        "hardware",
        "layers",
        "repair",
    },
    "plots": {"chips", "evaluation", "faults", "files", "hardware", "placement"},
    "study": {
        "chips",
        "data",
        "evaluation",
        "faults",
        "files",
        "layers",
        "models",
        "plots",
        "repair",
        "training",
    },
}
MOST_MODULES_AT_THE_ROOT = 5
NEVER_TENSORFLOW_AT_IMPORT = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).parts[0] != "export"
    and path.parts[-2:] != ("engines", "litert.py")
)


def imported(path: pathlib.Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_room_has_its_arrows():
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in modules()}
    assert rooms - {"__init__"} == set(ARROWS)
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_MODULES_AT_THE_ROOT


def modules() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("name", ARROWS)
def test_imports_follow_the_arrows(name):
    paths = [p for p in modules() if p.relative_to(PACKAGE).with_suffix("").parts[0] == name]
    assert paths
    used = {
        full.split(".")[1]
        for path in paths
        for full in imported(path)
        if full.startswith("keras_rram.")
    }
    assert used - {name} <= ARROWS[name]


@pytest.mark.parametrize(
    "path", NEVER_TENSORFLOW_AT_IMPORT, ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_tensorflow_at_import(path):
    roots = {name.split(".")[0] for name in imported(path, top_level_only=True)}
    assert not roots & {"tensorflow", "tensorflow_datasets", "ai_edge_litert", "tf_keras"}


def test_no_module_of_one_operating_system_is_needed():
    """Locks are `files.lock`, cores `joblib.cpu_count()`: they work everywhere."""
    for path in [*modules(), *(ROOT / "tools").rglob("*.py")]:
        tops = {name.split(".")[0] for name in imported(path, top_level_only=True)}
        assert not tops & {"fcntl", "msvcrt", "pwd", "resource"}, path
        named = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        }
        assert not named & {"sched_getaffinity", "flock", "fork", "SIGKILL"}, path


def test_only_tools_print():
    for path in modules():
        calls = [
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        assert "print" not in calls, path


def test_the_library_never_imports_the_tools():
    for path in modules():
        assert not {name for name in imported(path) if name.split(".")[0] == "tools"}, path


def test_modules_stay_small():
    for path in [*modules(), *(ROOT / "tools").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 400, path


def test_every_module_has_a_docstring():
    for path in [*modules(), *(ROOT / "tools").rglob("*.py")]:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_importing_the_package_on_jax_needs_no_tensorflow():
    pytest.importorskip("jax")
    code = "import sys, keras_rram; assert 'tensorflow' not in sys.modules, 'imported'"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**__import__("os").environ, "KERAS_BACKEND": "jax"},
    )
