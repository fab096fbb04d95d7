import json
import sys

import pytest

from tests.run_tools import ROOT, run_main
from tools.at_once import run_at_once


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--panel=9Z",), "--panel must be panels"),
        (("--panel=2A", "--network=resnet20"), "Panel 2A can be run with"),
        (("--panel=", "--publish=docs"), "Expected finished runs"),
        (("--panel=2A", "--seeds=0,x"), "--seeds must be integers"),
        (("--panel=2A", "--method=magic"), "--method must be one of"),
    ],
)
def test_bad_flags_are_clear_errors(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run_main("reproduce", "--scale=smoke", *arguments)


@pytest.mark.parametrize(
    "error",
    [ValueError("of another version"), OSError("could not be downloaded"), FileNotFoundError("no")],
    ids=lambda error: type(error).__name__,
)
def test_a_group_goes_on_after_a_failure_and_names_it(error, tmp_path, monkeypatch, capsys):
    """The first of three runs fails; the others, and each seed, are run all the same."""
    tried = []

    def run_panel(run, *rest, **options):
        tried.append((run.panel.name, run.seed, options["resume"]))
        if run.panel.name == "2A":
            raise error
        found = {"fault_free": 0.9, "mean": 0.8, "sd": None}
        return {"name": run.name, "populations": {"chips": found}}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keras_rram.study.run_panel", run_panel)
    with pytest.raises(SystemExit):
        run_main("reproduce", "--scale=smoke", "--panel=2A,2B", "--seeds=0,1", "--noresume")
    assert tried == [("2A", 0, False), ("2A", 1, False), ("2B", 0, False), ("2B", 1, False)]
    output, errors = capsys.readouterr()
    assert "2 of 4 runs failed: 2A-strided-text-smoke" in errors
    assert f"2A-strided-text-smoke: {error}" in output


def test_an_interrupt_ends_a_group(tmp_path, monkeypatch):
    tried = []

    def run_panel(run, *rest, **options):
        tried.append(run.panel.name)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keras_rram.study.run_panel", run_panel)
    with pytest.raises(KeyboardInterrupt):
        run_main("reproduce", "--scale=smoke", "--panel=2A,2B")
    assert tried == ["2A"]


_MEET = """
import pathlib, sys, time
mine, other = map(pathlib.Path, sys.argv[1:])
mine.touch()
while not other.exists():
    time.sleep(0.01)
print("met")
"""


def test_commands_run_at_the_same_time(tmp_path):
    """Two that wait for each other end, and a third begins when there is room."""
    one, other = (str(tmp_path / name) for name in "ab")
    commands = {
        "one": [sys.executable, "-c", _MEET, one, other],
        "other": [sys.executable, "-c", _MEET, other, one],
        "third": [
            sys.executable,
            "-c",
            "import os; print(os.environ['WHERE']); raise SystemExit(3)",
        ],
    }
    codes = dict(run_at_once(commands, 2, tmp_path / "logs", {"WHERE": "here"}))
    assert codes == {"one": 0, "other": 0, "third": 3}
    assert list(codes)[-1] == "third"
    said = {path.stem: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert said == {"one": "met\n", "other": "met\n", "third": "here\n"}


def test_an_interrupt_is_passed_on_and_waited_for(tmp_path):
    code = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(100)
except KeyboardInterrupt:
    time.sleep(0.5)
    print("kept")
"""
    begun = tmp_path / "begun"
    wait = f"import os, time\nwhile not os.path.exists({str(begun)!r}): time.sleep(0.01)"
    commands = {
        "long": [sys.executable, "-c", code, str(begun)],
        "short": [sys.executable, "-c", wait],
    }
    running = run_at_once(commands, 2, tmp_path, {})
    assert next(running) == ("short", 0)
    running.close()
    assert (tmp_path / "long.txt").read_text() == "kept\n"


@pytest.mark.slow
def test_panels_at_once_are_those_in_turn(tmp_path, monkeypatch, capsys):
    """The second cannot be read: it is named, and the first is whole all the same."""
    monkeypatch.chdir(ROOT)
    out = tmp_path / "runs"
    damaged = out / "2B-strided-text-smoke"
    damaged.mkdir(parents=True)
    (damaged / "record.json").write_text("{}")
    flags = ("--panel=2A,2B", "--scale=smoke", f"--out={out}", "--at_once=2")
    with pytest.raises(SystemExit):
        run_main("reproduce", *flags)
    output, errors = capsys.readouterr()
    assert "1 of 2 runs failed: 2B-strided-text-smoke" in errors
    assert f"Results: {out}/" in output and "2A-strided-text-smoke: fault-free" in output + errors
    record = json.loads((out / "2A-strided-text-smoke" / "record.json").read_text())
    assert record["command"] == (
        "python -m tools.reproduce --panel=2A --scale=smoke --protocol=text --network=strided "
        "--seeds=0"
    )
    assert "record.json" in (out / "logs" / "2B-strided-text-smoke.txt").read_text()
