import pathlib

import pytest
from absl import flags

from tools import cli


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
        cli.load_model(None)
    with pytest.raises(ValueError, match="no such file"):
        cli.load_model(str(tmp_path / "none.keras"))
    (tmp_path / "bad.keras").write_text("not a model")
    with pytest.raises(ValueError, match="cannot be loaded"):
        cli.load_model(str(tmp_path / "bad.keras"))


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
    for path in folder.glob("*.py"):
        if path.stem not in ("__init__", "cli", "population_report"):
            assert f"python -m tools.{path.stem}" in path.read_text().split('"""')[1], path
