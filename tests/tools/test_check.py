import pytest

from tools import check, cli


def test_what_fails_is_named_and_the_rest_still_runs(tmp_path, monkeypatch, capfd):
    """A project with a lint error, a type error and a failing test; its format is right."""
    (tmp_path / "test_it.py").write_text(
        'import os\n\n\ndef test_it():\n    assert False\n\n\nnumber: int = "one"\n'
    )
    (tmp_path / "pyproject.toml").write_text('[tool.mypy]\nfiles = ["test_it.py"]\n')
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    # The workers of the real command would start Python thrice.
    arguments = [one for one in check.CHECKS["tests"] if not one.startswith("--")]
    monkeypatch.setitem(check.CHECKS, "tests", [*arguments, "-p", "no:cacheprovider"])
    with pytest.raises(SystemExit) as ended:
        check.main(["check"])
    out, err = capfd.readouterr()
    assert ended.value.code == 1 and err.strip().endswith("error: failed: lint, tests, types")
    for found in ("F401", "already formatted", "1 failed", "Incompatible types"):
        assert found in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("== ")] == [
        "lint:", "format:", "tests:", "types:",
    ]  # fmt: skip


def test_nothing_is_said_to_fail_where_nothing_does(monkeypatch, capsys):
    class Done:
        returncode = 0

        def __init__(self, command, **_):
            commands.append(command[2])

        def communicate(self):
            return "no issues\n", None

        def kill(self):
            pass

    commands: list[str] = []
    monkeypatch.setattr(check.subprocess, "run", Done)
    monkeypatch.setattr(check.subprocess, "Popen", Done)
    check.main(["check"])
    assert commands == ["mypy", "ruff", "ruff", "pytest"]
    assert "no issues" in capsys.readouterr().out
    monkeypatch.setattr(cli, "IS_CLONE", False)
    with pytest.raises(ValueError, match="expected a clone of the repository"):
        check.main(["check"])
