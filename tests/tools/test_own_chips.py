"""Measured chips as a population: from tile maps to chips, verdicts and files, by tools alone."""

import csv
import json

import numpy as np
import pytest

from keras_rram import Chip, faulty_layers
from keras_rram.evaluation import evaluate_population
from keras_rram.faults import DifferentialPair
from keras_rram.hardware.programming_map import programming_map
from keras_rram.hardware.tile_maps import chip_from_tiles, load_tiles, save_tiles
from keras_rram.hardware.tile_placement import place
from tests.classifiers import classifier, digits, right_answers
from tests.run_tools import run_in_turn, run_main

DATA = ("--data=digits", "--normalize=mnist")
TILE = (64, 64)
HOPELESS = ("die07", "die13")


def table_of(path):
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A model and 20 measured maps, of npz, csv and png; two chips are mostly stuck."""
    folder = tmp_path_factory.mktemp("lab")
    model = classifier()
    model.save(folder / "model.keras")
    tiles = place(model, tile=TILE).tiles
    rng = np.random.default_rng(0)
    (folder / "maps").mkdir()
    for number in range(20):
        name = f"die{number:02}"
        share = 0.97 if name in HOPELESS else 0.002
        stuck = list((rng.random((tiles, *TILE)) < share).astype(np.int8))
        form = (None, "csv", "png")[number % 3]
        path = folder / "maps" / (f"{name}.npz" if form is None else name)
        save_tiles(path, stuck, form)
    return folder


def test_maps_become_chips_that_keep_their_names(lab, capsys):
    run_main("program_chips", f"--model={lab}/model.keras", f"--maps={lab}/maps/*",
             f"--out={lab}/chips")  # fmt: skip
    assert "die07: 9" in capsys.readouterr().out
    model = classifier()
    placement = place(model, tile=TILE)
    rows = table_of(lab / "chips" / "index.csv")
    assert [row["chip"] for row in rows] == [f"die{number:02}" for number in range(20)]
    for row in rows:
        chip = Chip.load(lab / "chips" / f"{row['chip']}.npz", model)
        assert chip.name == row["chip"]
        assert chip == chip_from_tiles(model, load_tiles(row["map"]), placement)
        assert f"name='{chip.name}', measured=2 kernels" in repr(chip)


def test_measured_chips_are_a_population(lab, tmp_path, capsys):
    if not (lab / "chips").exists():
        test_maps_become_chips_that_keep_their_names(lab, capsys)
    run_main("evaluate", f"--model={lab}/model.keras", *DATA, "--images=200",
             f"--chip={lab}/chips/*.npz", "--keep_above=0.6", f"--out={tmp_path}/out")  # fmt: skip
    printed = capsys.readouterr().out
    assert "Yield: 18 of 20 chips have 60.00% or more" in printed
    assert "reject die07: accuracy" in printed and "reject die13: accuracy" in printed
    rows = table_of(tmp_path / "out" / "verdicts.csv")
    assert {row["chip"] for row in rows if row["verdict"] == "reject"} == set(HOPELESS)
    model = classifier()
    images, labels = digits(200)
    for row in rows:
        chip = Chip.load(lab / "chips" / f"{row['chip']}.npz")
        share = right_answers(model, chip, images, labels).mean()
        assert float(row["accuracy"]) == pytest.approx(share)
    table = table_of(tmp_path / "out" / "chips.csv")
    assert [row["name"] for row in table] == [row["chip"] for row in rows]


@pytest.mark.slow
def test_one_command_exports_18_files_and_rejects_two(lab, tmp_path, capsys):
    if not (lab / "chips").exists():
        test_maps_become_chips_that_keep_their_names(lab, capsys)
    run_main("export_tflite", f"--model={lab}/model.keras", *DATA, "--images=200",
             f"--chip={lab}/chips/*.npz", "--keep_above=0.6", "--quantization=float32",
             f"--out={tmp_path}/out")  # fmt: skip
    printed = capsys.readouterr().out
    files = {path.stem for path in (tmp_path / "out").glob("die*.tflite")}
    assert files == {f"die{number:02}" for number in range(20)} - set(HOPELESS)
    assert "Yield: 18 of 20 chips" in printed and "18 files written and verified" in printed
    assert printed.count("reject die") == 2
    sidecar = json.loads((tmp_path / "out" / "die03.tflite.json").read_text())
    assert sidecar["chip"]["name"] == "die03"
    rows = table_of(tmp_path / "out" / "verdicts.csv")
    rejected = {row["chip"]: row["reason"] for row in rows if row["verdict"] == "reject"}
    assert set(rejected) == set(HOPELESS)
    assert all("is below 60.00%" in reason for reason in rejected.values())


def test_a_chip_of_another_model_is_a_failure_and_not_the_end(lab, tmp_path, capsys):
    np.savez(tmp_path / "die_a.npz", conv=np.ones((3, 3, 1, 8), np.float32))
    np.savez(tmp_path / "die_b.npz", elsewhere=np.ones(3, np.float32))
    with pytest.raises(SystemExit) as ended:
        run_main("export_tflite", f"--model={lab}/model.keras", *DATA, "--images=50",
                 f"--chip={tmp_path}/die_*.npz", "--quantization=float32",
                 f"--out={tmp_path}/out")  # fmt: skip
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "1 files written and verified" in printed.out and "failed die_b: " in printed.out
    assert "1 of 2 chips have no file" in printed.err
    first, second = map(json.loads, (tmp_path / "out" / "index.jsonl").read_text().splitlines())
    assert (tmp_path / "out" / first["file"]).exists() and "failed" not in first
    assert not (tmp_path / "out" / second["file"]).exists()
    assert "no such layer" in second["failed"]


def test_measured_chips_in_python(lab, tmp_path):
    model = classifier()
    placement = place(model, tile=TILE)
    rng = np.random.default_rng(1)
    chips = [
        chip_from_tiles(
            model,
            list((rng.random((placement.tiles, *TILE)) < share).astype(np.int8)),
            placement,
            name=f"die{share}",
        )  # fmt: skip
        for share in (0.0, 0.1, 0.3)
    ]
    result = evaluate_population(model, chips, digits(), progress=False, out=tmp_path / "run")
    for chip, record in zip(chips, result.chips, strict=True):
        np.testing.assert_array_equal(record.answers, right_answers(model, chip, *digits()))
        assert record.name == chip.name
    assert result.to_frame()["name"].tolist() == [chip.name for chip in chips]
    assert result.fault_model.startswith("3 measured chips ")
    again = evaluate_population(
        model, chips, digits(), progress=False, out=tmp_path / "run", resume=True
    )
    assert again == result
    with pytest.raises(ValueError, match="What differs is fault_model"):
        evaluate_population(model, chips[:2], digits(), out=tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="Received: chips=, first_chip= or rates= too"):
        evaluate_population(model, chips, digits(), 3)
    with pytest.raises(ValueError, match="different names"):
        evaluate_population(model, [chips[0], chips[0]], digits())


def test_a_programming_map_holds_the_weights(lab, tmp_path):
    run_main("program_chips", f"--model={lab}/model.keras", "--program", "--tile=64x64",
             "--share", "--mapping=differential_pair(g_min=2e-6,g_max=8e-5)",
             f"--out={tmp_path}/p")  # fmt: skip
    rows = table_of(tmp_path / "p" / "program.csv")
    model, mapping = classifier(), DifferentialPair(g_min=2e-6, g_max=8e-5)
    placement = place(model, mapping, TILE, share=True)
    wanted = programming_map(model, placement, mapping)
    assert len(rows) == len(wanted.rows())
    kernels = {name: np.array(layer.kernel) for name, layer in faulty_layers(model).items()}
    assert len(rows) == 2 * sum(kernel.size for kernel in kernels.values())
    # By hand: the head's weight (input 5, class 2) is in row 5, columns 4 and 5 of its part.
    part = placement.kernels["head/kernel"][0]
    weight = kernels["head"][5, 2] / np.abs(kernels["head"]).max()
    cells = {(int(r["tile"]), int(r["row"]), int(r["column"])): r for r in rows}
    for column, level in ((4, max(weight, 0)), (5, max(-weight, 0))):
        row = cells[part.tile, part.row + 5, part.column + column]
        assert row["kernel"] == "head/kernel"
        assert float(row["siemens"]) == pytest.approx(2e-6 + level * 7.8e-5, rel=1e-5)


def test_flags_that_do_not_fit_are_errors(lab, tmp_path):
    np.savez(tmp_path / "base.npz", conv=np.ones((3, 3, 1, 8), np.float32))
    model, out = f"--model={lab}/model.keras", f"--out={tmp_path}/out"
    found = run_in_turn(
        ("evaluate", model, "--data=digits", f"--chip={lab}/no*.npz", out),
        ("evaluate", model, "--data=digits", "--keep_above=0.5", out),
        ("evaluate", model, "--data=digits", f"--chip={tmp_path}/base.npz", "--chips=3", out),
        (
            "export_tflite",
            model,
            "--data=digits",
            "--keep_above=0.1",
            f"--chip={tmp_path}/base.npz",
            out,
        ),
        ("program_chips", model, out),
        ("program_chips", model, "--program", out),
        ("program_chips", model, "--maps=a/x.npz,b/x.npz", out),
        ("program_chips", model, "--program", "--mapping=pair", out),
        ("program_chips", model, f"--maps={lab}/maps/die00.npz", "--tile=64", out),
    )
    for error, words in zip(
        found,
        ("no file has such a name", "--keep_above goes with --chip", "--chip excludes --chips",
         "cannot be called 'base'", "--maps is missing", "--program needs --mapping",
         "different names", "--mapping='pair'", "ROWSxCOLUMNS"),
        strict=True,
    ):  # fmt: skip
        assert words in error
    assert not (tmp_path / "out").exists()
