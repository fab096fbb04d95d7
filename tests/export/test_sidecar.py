"""The formats of sidecars and indexes, held by files that were written once.

A golden file changes only with `sidecar.FORMAT`.
"""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from keras_rram import Chip, Fault, StuckAtZero, population
from keras_rram.export import (
    ExportReport,
    MicroReport,
    RangeChange,
    StuckValues,
    Verification,
    export_population,
    read_sidecar,
)
from keras_rram.export.sidecar import FORMAT, Source, chip_identity, read_index, write_sidecar
from keras_rram.faults import FaultModel, LognormalVariation, SameCells, StuckCells, parse
from keras_rram.files.schemas import INDEX_LINE
from tests import export_models
from tests.run_tools import ROOT

GOLDEN = ROOT / "tests" / "golden"
CHIP = Chip(parse("row_faults:rate=0.1,tile=64x64+stuck_at_zero:rate=0.2"), seed=3, index=7)
VERIFICATION = Verification(100, 0.99, 0.125, 0.75, 0.5)
REPORT = ExportReport(
    path=pathlib.Path("chip_3_00007.tflite"),
    sha256="0" * 64,
    size=1234,
    source=Source(
        model="network",
        weights_sha256="1" * 64,
        parameters=56,
        quantization="int8",
        data="digits",
        calibration={"images": 8, "sha256": "2" * 64, "chips": [chip_identity(CHIP)]},
        ranges=RangeChange(4, 3, 0.5, 0.25, 1.0),
        gains={"head/kernel": 1.25},
        command="python -m tools.export_tflite",
        commit="abc",
    ),
    method="patched",
    chip=chip_identity(CHIP),
    fault_rate=0.25,
    verification=VERIFICATION,
    also_on={"more": dataclasses.replace(VERIFICATION, accuracy=None, keras_accuracy=None)},
    micro=MicroReport(1024, ("CONV_2D",), 1234, 5, 1, 1.0, 2),
    stuck_values=StuckValues(2, 1, 0.5, 0.75),
)


def test_a_sidecar_is_the_golden_file(tmp_path):
    report = dataclasses.replace(REPORT, path=tmp_path / REPORT.path)
    write_sidecar(report)
    content = read_sidecar(report.path)
    assert content == json.loads(json.dumps(report.sidecar()))
    golden = json.loads((GOLDEN / "sidecar.json").read_text())
    assert golden.pop("digest") != content["sha256"]
    assert content | {"version": golden["version"]} == golden
    assert list(content) == list(golden)
    assert golden["micro"].pop("xnnpack_steps") == 2  # new, and may be missing
    before = json.loads((GOLDEN / "before" / "sidecar.json").read_text())
    assert before | {"format": FORMAT} == golden
    assert golden["format"] == FORMAT
    assert parse(golden["chip"]["fault_model"]) == CHIP.fault_model


def test_an_index_is_the_golden_file():
    assert INDEX_LINE.line(REPORT.summary()) == (GOLDEN / "index.jsonl").read_text()
    (found,) = read_index(GOLDEN / "index.jsonl").values()
    assert found["micro"].pop("xnnpack_steps") == 2  # new, and may be missing
    (before,) = read_index(GOLDEN / "before" / "index.jsonl").values()
    assert before | {"format": FORMAT} == found


def test_no_class_path_is_written():
    same = SameCells((LognormalVariation(0.1), StuckCells(0.1)))
    for model in (CHIP.fault_model, StuckCells(0.1), same):
        text = json.dumps(chip_identity(Chip(model)))
        assert "keras_rram" not in text and type(model).__module__ not in text
    for path in (ROOT / "exported_models").glob("*.json"):
        assert "keras_rram.faults" not in path.read_text(), path


def test_what_no_text_says_is_told_apart():
    @dataclasses.dataclass(frozen=True)
    class Own:
        rate: float
        needs_kernel = False

        def sample(self, shape, rng, kernel=None):
            return Fault(np.ones(shape, np.float32))

    assert isinstance(Own(0.1), FaultModel)
    found = [chip_identity(Chip(Own(rate)))["fault_model"] for rate in (0.1, 0.2)]
    assert found[0] != found[1] and "Own(rate=0.1)" in found[0]


def test_formats_of_before_are_refused(tmp_path):
    golden = (GOLDEN / "sidecar.json").read_text()
    (tmp_path / "a.tflite.json").write_text(golden.replace(f'"format": {FORMAT}', '"format": 1'))
    with pytest.raises(ValueError, match=f"not of this version: expected the format {FORMAT}"):
        read_sidecar(tmp_path / "a.tflite")


def test_an_index_of_before_is_refused(tmp_path, monkeypatch):
    float32 = export_models.patchable("float32")
    monkeypatch.setattr("keras_rram.export.exporter.PatchableModel.convert", lambda *args: float32)

    def export(resume):
        chips, images = population(StuckAtZero(0.2), 1), export_models.images(8)
        export_population(
            export_models.model(), tmp_path, chips, "float32", None, images, resume=resume
        )

    export(resume=False)
    (line,) = (tmp_path / "index.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record.pop("format") == FORMAT
    (tmp_path / "index.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match="index.jsonl', line 1, is not of this version"):
        export(resume=True)
