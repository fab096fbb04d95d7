"""The wheel, in an environment of its own, as someone has it who never saw the repository."""

import json
import os
import shutil
import site
import subprocess
import sys

import pytest

from tests.classifiers import classifier
from tests.run_tools import ROOT
from tools import COMMANDS

SOURCES = (
    *("keras_rram", "tools", "keras_rram_command.py"),
    *("setup.py", "pyproject.toml", "README.md", "LICENSE"),
)


def call(*command, **options):
    found = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )
    assert found.returncode == 0, (found.stdout + found.stderr)[-3000:]
    return found.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder of the programs of a fresh environment that has the wheel; other packages are ours."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source)
    (wheel,) = folder.glob("*.whl")
    call(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    call(*pip, "--python", programs / "python", "install", "--no-deps", "--no-index", wheel)
    paths = call(programs / "python", "-c", "import site; print(site.getsitepackages()[0])")
    # Lines of paths only: what is installed here as a link to this clone stays out.
    others = "\n".join(site.getsitepackages())
    (folder / paths.strip() / "others.pth").write_text(others)
    return programs


@pytest.mark.slow
def test_the_tools_run_from_an_empty_folder(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = {"cwd": tmp_path, "env": environment}
    place = "import keras_rram.tools as it; print(it.__file__)"
    assert str(installed.parent) in call(installed / "python", "-c", place, **where)
    assert list(installed.parent.glob("lib/*/site-packages/keras_rram/py.typed"))
    program = installed / "keras-rram"
    listed = call(program, **where)
    assert [line.split()[0] for line in listed.splitlines()[1:]] == list(COMMANDS)
    assert "Trains " in call(program, "train", "-h", **where)
    classifier().save(tmp_path / "model.keras")
    quick = ("--data=digits", "--normalize=mnist", "--images=50", "--chips=2", "--report")
    output = call(program, "evaluate", "--model=model.keras", *quick, "--out=chips", **where)
    config = json.loads((tmp_path / "chips" / "config.json").read_text())
    assert config["commit"] is None and config["command"].startswith("keras-rram evaluate --mod")
    assert "Results: chips/" in output and (tmp_path / "chips" / "accuracy.png").is_file()
    # Its style and script are files of the package.
    assert "<script>" in (tmp_path / "chips" / "report.html").read_text()
    module = ("-m", "keras_rram.tools.inspect_tflite", "-h")
    assert "Shows what is in a TFLite file" in call(installed / "python", *module, **where)
