import pytest

from tests.run_tools import run_main


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


def test_a_group_goes_on_after_a_failure_and_names_it(tmp_path, monkeypatch, capsys):
    """The first of three runs fails; the others, and each seed, are run all the same."""
    tried = []

    def run_panel(run, *rest, **options):
        tried.append((run.panel.name, run.seed, options["resume"]))
        if run.panel.name == "2A":
            raise ValueError("of another version")
        found = {"fault_free": 0.9, "mean": 0.8, "sd": None}
        return {"name": run.name, "populations": {"chips": found}}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keras_rram.study.run_panel", run_panel)
    with pytest.raises(SystemExit):
        run_main("reproduce", "--scale=smoke", "--panel=2A,2B", "--seeds=0,1", "--noresume")
    assert tried == [("2A", 0, False), ("2A", 1, False), ("2B", 0, False), ("2B", 1, False)]
    assert "2 of 4 runs failed: 2A-strided-text-smoke" in capsys.readouterr().err
