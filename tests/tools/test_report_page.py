import html
import json
import re
import shlex

import numpy as np
import pytest
from absl import flags

from keras_rram.evaluation import ChipResult, PopulationResult, load_run
from tests.classifiers import classifier
from tests.run_tools import load_tool, run_in_turn, run_main

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


def commands(page, what):
    """The commands of a page under a word."""
    found = re.findall(rf"<div>{what}[^<]*<code>([^<]*)</code>", page)
    return [shlex.split(html.unescape(one)) for one in found]


def test_a_command_replays_what_the_page_shows(tmp_path, monkeypatch):
    """A chip of a run on arrays, by the command of its page alone."""
    monkeypatch.chdir(tmp_path)
    classifier().save("model.keras")
    array = ("--array=adc_bits=3", "--calibration_images=50", "--engine=keras")
    run_main("evaluate", "--model=model.keras", *COMMON, *array, "--out=run", "--report")
    written = (tmp_path / "run" / "report.html").read_text()
    report("run")
    later = (tmp_path / "run" / "report.html").read_text()
    # The model on arrays is found again, too.
    assert later.count("data:image/png") == written.count("data:image/png") == 4
    python, _, name, *given = commands(later, "Replay it")[1]
    assert (python, name) == ("python", "tools.evaluate") and set(array) <= set(given)
    run_main("evaluate", *given)
    (shown,), (replayed,) = load_run("run"), load_run("chip_1")
    assert replayed.model == shown.model
    np.testing.assert_array_equal(replayed.chips[0].answers, shown.chips[1].answers)
    for what in ("Say why", "Export it, without the arrays"):
        assert all(one[2].startswith("tools.e") for one in commands(later, what))
    assert all({*array[:2]} <= set(one) for one in commands(later, "Say why"))


def test_commands_say_by_what_a_chip_was_computed():
    tool = load_tool("report_page")
    flags.FLAGS(["report_page"])
    made = tool.run_report._commands
    arguments = {"model": "m.keras", "calibration_images": 40}
    record = ChipResult(3, 0.1, 0.1, 9, 10)
    for engine, wanted in (
        ("litert int8", {"--engine=litert", "--quantization=int8", "--calibration_images=40"}),
        ("keras float32", {"--engine=keras"}),
    ):
        result = PopulationResult("a", "b", "stuck_at_zero:rate=0.1", 0.1, 0, engine, 1, (record,))
        found = made({"arguments": arguments})(result, record)
        assert set(found) == {"Replay it:", "Say why it is as it is:", "Export it:"}
        words = set(found["Replay it:"].split())
        assert {one for one in words if one[2:8] in ("engine", "quanti", "calibr")} == wanted
        assert ("--calibration_images=40" in found["Export it:"]) == ("int8" in engine)
    for held, text in (
        ({"adc_bits": 8, "tile_rows": 128, "read_noise": 0.0, "coverage": 1.0}, "adc_bits=8"),
        ({"adc_bits": None, "read_noise": 0.1}, "adc_bits=none,read_noise=0.1"),
    ):
        found = made({"arguments": arguments, "array": held})(result, record)
        assert f" --array={text} " in found["Replay it:"]


def test_flags_say_where_a_moved_model_is(tmp_path, capsys):
    model, moved = tmp_path / "model.keras", tmp_path / "moved.keras"
    classifier().save(model)
    for name in "ab":
        run_main("evaluate", f"--model={model}", *COMMON, f"--out={tmp_path}/{name}")
    model.rename(moved)
    path = tmp_path / "a" / "report.html"
    report(tmp_path / "a")
    assert "there is no such file" in path.read_text()
    report(tmp_path / "a", f"--model={moved}")
    page = path.read_text()
    assert "there is no such file" not in page and page.count("data:image/png") == 4
    assert all(f"--model={moved}" in one for one in commands(page, "Replay it"))
    report(tmp_path / "a", f"--model={moved}", "--images=50")
    assert "the images are not those that were evaluated" in path.read_text()
    with pytest.raises(ValueError, match="--model goes with one run: of two, each has its own"):
        report(tmp_path / "a", tmp_path / "b", f"--model={moved}")
    report(tmp_path / "a", tmp_path / "b", "--data=digits", f"--out={tmp_path}/both.html")
    # A run of before, whose config.json does not say it.
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    del config["arguments"]
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    report(tmp_path / "a", f"--model={moved}", *COMMON[:3])
    assert path.read_text().count("data:image/png") == 4
