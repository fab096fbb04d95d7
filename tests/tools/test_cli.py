import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags

from tests.run_tools import ROOT, run_tool
from tools import COMMANDS, cli, inputs


def test_output_folder_is_made(tmp_path):
    assert cli.output_folder(str(tmp_path / "a" / "b")).is_dir()


def test_output_folder_refuses_what_would_be_overwritten(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="not empty"):
        cli.output_folder(str(tmp_path))
    assert cli.output_folder(str(tmp_path), resume=True) == tmp_path
    with pytest.raises(ValueError, match="is a file"):
        cli.output_folder(str(tmp_path / "file"))
    with pytest.raises(ValueError, match="--out is missing"):
        cli.output_folder(None)
    with pytest.raises(OSError):
        cli.output_folder("/proc/nowhere/out")


def test_load_model_refuses_what_is_no_model(tmp_path):
    with pytest.raises(ValueError, match="--model is missing"):
        inputs.load_model(None)
    with pytest.raises(ValueError, match="no such file"):
        inputs.load_model(str(tmp_path / "none.keras"))
    (tmp_path / "bad.keras").write_text("not a model")
    with pytest.raises(ValueError, match="cannot be loaded"):
        inputs.load_model(str(tmp_path / "bad.keras"))


def test_fail_ends_the_process_with_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.fail("what is wrong", code=3)
    assert ended.value.code == 3
    assert capsys.readouterr().err == "error: what is wrong\n"


def test_command_is_what_a_user_types(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/tools/train.py", "--seed=1"])
    assert cli.command() == "python -m tools.train --seed=1"


def test_commit_is_a_hash_or_none():
    commit = cli.commit()
    assert commit is None or len(commit.removesuffix("-modified")) == 12


def test_every_tool_documents_its_command_line():
    assert flags.FLAGS is not None
    folder = pathlib.Path(cli.__file__).parent
    tools = {path.stem for path in folder.glob("*.py") if "\n    cli.run(main" in path.read_text()}
    assert tools == {*COMMANDS.values(), "check", "notebooks"}
    for name in tools:
        assert f"python -m tools.{name}" in (folder / f"{name}.py").read_text().split('"""')[1]


def test_help_is_short_and_in_sections():
    for flag in ("-h", "--help"):
        text = run_tool("evaluate", flag)
        assert text.startswith("Evaluates a trained model on a population of faulty chips.\n")
        sections = re.findall(r"^(\w+):$", text, re.MULTILINE)
        assert sections == ["flags", "model", "data", "faults", "chips", "repair"]
        assert (
            "  --engine: <auto|keras|litert>: What computes; auto takes the faster. [auto]" in text
        )
        assert "\n  --seed: Seed of the population of chips. [0]\n" in text
        assert text.index("\nflags:") < text.index("  --engine:") < text.index("\nmodel:")
        assert text.index("\ndata:") < text.index("  --data_dir:") < text.index("\nfaults:")
    assert "  row_faults: rate, tile=128x128" in run_tool("evaluate", "--help_faults")
    assert "  batch_norm (tier B): images=512" in run_tool("evaluate", "--help_repairs")


def test_the_command_lists_the_tools_and_hints_at_a_name():
    def run(*arguments, code):
        command = [sys.executable, "-m", "keras_rram_command", *arguments]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert found.returncode == code
        return found.stdout + found.stderr

    listed = run(code=0)
    assert listed == run("-h", code=0)
    assert [line.split()[0] for line in listed.splitlines()[1:]] == list(COMMANDS)
    assert "  evaluate       Evaluates a trained model on a population of faulty chips." in listed
    assert "did you mean 'train'?" in run("trian", code=1)
