import json

import pytest
from absl import flags

from tests.classifiers import classifier
from tests.run_tools import load_tool, run_in_turn

COMMON = ("--data=digits", "--normalize=mnist", "--images=100", "--chips=2", "--fault_rates=0.2")


def report(*arguments):
    tool = load_tool("report_page")
    return tool.main(flags.FLAGS(["report_page", *map(str, arguments)]))


def test_a_run_gets_its_page_and_two_get_one(tmp_path, capsys):
    model = tmp_path / "model.keras"
    classifier().save(model)
    common = ["evaluate", f"--model={model}", *COMMON, "--engine=keras"]
    assert run_in_turn(
        [*common, f"--out={tmp_path}/a", "--report", "--yield_at=0.8"],
        [*common, f"--out={tmp_path}/b"],
    ) == ["", ""]
    written = (tmp_path / "a" / "report.html").read_text()
    assert "of chips reach 0.8" in written and f"Report: {tmp_path}/a/report.html" in (
        capsys.readouterr().out
    )
    report(tmp_path / "b")
    later = (tmp_path / "b" / "report.html").read_text()
    # The same chips, classes and tiles, found again by `config.json`.
    assert later.count("data:image/png") == written.count("data:image/png") == 4
    for words in ("Accuracy by class", "--first_chip=1 --chips=1", "explain", "--seed=0"):
        assert later.count(words) == written.count(words) > 0
    report(tmp_path / "a", tmp_path / "b", f"--out={tmp_path}/both.html")
    assert "Side by side" in (tmp_path / "both.html").read_text()
    # Another model in its place: what is shown is not guessed.
    classifier(first=None).save(model)
    report(tmp_path / "b")
    changed = (tmp_path / "b" / "report.html").read_text()
    assert "data:image/png" not in changed and "Accuracy by class" in changed
    assert "the model is not the one that was evaluated" in changed
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    del config["arguments"]
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    report(tmp_path / "b")
    assert "Accuracy by class" not in (tmp_path / "b" / "report.html").read_text()
    assert "does not say where its data are" in capsys.readouterr().err
    for wrong in ([], [tmp_path / "none"], [tmp_path / "a", f"--out={tmp_path}/page.txt"]):
        with pytest.raises(ValueError):
            report(*wrong)
