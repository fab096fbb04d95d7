import csv
import json
import re

import numpy as np
import pytest

from keras_rram import population
from keras_rram.faults import parse
from tests.classifiers import classifier, digits, right_answers
from tests.run_tools import ROOT, load_tool, run_main

FILES = {"fault_models.csv", "fault_models.json", "fault_models.png", "README.md", "chips"}
RESULTS = ROOT / "docs" / "results" / "fault_models"
PAIRS = "differential_pair:stuck_off=0.03,stuck_on=0.01"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    classifier().save(folder / "model.keras")
    (folder / "config.json").write_text(
        json.dumps(
            {
                "command": "train --data_dir=/here",
                "commit": "abc",
                "model": "digits",
                "data": {"source": "digits"},
            }
        )
    )
    return folder / "model.keras"


@pytest.mark.slow
def test_every_curve_is_its_chips_at_the_same_rates_and_a_run_goes_on(saved, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [
        f"--model={saved}", "--images=100", "--chips=2", "--fault_rates=0.2,0.1", "--seed=4",
        "--fault_model=row_faults:tile=16x4", f"--fault_model={PAIRS}", f"--out={out}",
    ]  # fmt: skip
    run_main("compare_faults", *flags)
    assert {path.name for path in out.iterdir()} == FILES
    with (out / "fault_models.csv").open() as file:
        rows = list(csv.DictReader(file))
    held = json.loads((out / "fault_models.json").read_text())
    assert [{key: str(value) for key, value in row.items()} for row in held["rows"]] == rows
    assert [float(row["rate"]) for row in rows] == [0.1, 0.2, 0.1, 0.2]
    model, (images, labels) = classifier(), digits(100)
    for row in rows:
        fault_model = parse(row["fault_model"])
        assert fault_model == parse(row["name"], float(row["rate"]))
        right = [
            right_answers(model, chip, images, labels).mean()
            for chip in population(fault_model, 2, seed=4)
        ]
        assert float(row["mean"]) == pytest.approx(np.mean(right), abs=0.011)
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
    # One cell in ten: fewer weights where it holds none, more where it is stuck on.
    assert all(abs(float(row["changed"]) - float(row["rate"])) < 0.08 for row in rows)
    readme = (out / "README.md").read_text()
    assert "train --data_dir=DIR  # abc" in readme and "/here" not in readme
    assert f"`{PAIRS}`" in readme and "row_faults:tile=16x4 | " in capsys.readouterr().out
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="not empty"):
        run_main("compare_faults", *flags)
    lines = next(out.glob("chips/row*/chips.jsonl"))
    lines.write_bytes(b"".join(lines.read_bytes().splitlines(keepends=True)[:3]))
    run_main("compare_faults", *flags, "--resume")
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(ValueError, match="What differs is seed"):
        run_main("compare_faults", *flags, "--resume", "--seed=5")


def test_the_curves_are_models_that_can_be_swept():
    tool = load_tool("compare_faults")
    for text in tool.CURVES.values():
        assert tool.fault_flags.parse(text, 0.1, [0.01, 0.3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fault_rates=0,0.1"], r"must be numbers in \(0, 1\)"),
        (["--fault_rates=x"], r"must be numbers in \(0, 1\)"),
        (["--fault_model=row_fault"], "did you mean 'row_faults'"),
        (["--fault_model=finite_on_off:ratio=9"], "a rate to sweep"),
        (["--model=nowhere.keras"], "no such file"),
        (["--data=nowhere"], "nowhere"),
        (["--fault_model=row_faults"] * 2, "each fault model once"),
    ],
)
def test_bad_input_leaves_nothing(saved, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_main("compare_faults", f"--model={saved}", f"--out={tmp_path}/out", *arguments)
    assert not (tmp_path / "out").exists()


def test_the_published_result_is_whole_and_of_clean_code():
    held = json.loads((RESULTS / "fault_models.json").read_text())
    assert re.fullmatch(r"[0-9a-f]{12}", held["commit"])
    readme = (RESULTS / "README.md").read_text()
    assert held["commit"] in readme and "--data_dir=DIR" in readme
    assert {(row["name"], row["rate"]) for row in held["rows"]} == {
        (name, rate)
        for name in held["fault_models"]
        for rate in (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
    }
    for row in held["rows"]:
        assert parse(row["fault_model"]).rate == pytest.approx(row["rate"])
        assert f"{100 * row['mean']:.2f} ({100 * row['sd']:.2f})" in readme
    assert not [path for path in RESULTS.iterdir() if path.stat().st_size > 200_000]
