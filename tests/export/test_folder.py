import dataclasses
import errno
import json
import pathlib

import keras
import numpy as np
import pytest

from keras_rram import Chip, Fault, StuckAtZero, population
from keras_rram.export import (
    Exporter,
    LiteRTModel,
    Thresholds,
    export_population,
    folder,
    read_sidecar,
)
from keras_rram.files import one_writer
from keras_rram.files.schemas import SIDECAR
from tests import export_models
from tests.export.test_kernels import rescaling_model

CHIPS = population(StuckAtZero(0.2), 5, seed=4)


@pytest.fixture(autouse=True)
def converted_once(monkeypatch):
    int8 = export_models.patchable("int8")
    monkeypatch.setattr(
        "keras_rram.export.exporter.PatchableModel.convert",
        lambda *args: int8,
    )


def export(path, chips=CHIPS, **options):
    return export_population(
        export_models.model(),
        path,
        chips,
        "int8",
        export_models.images(),
        thresholds=Thresholds(agreement=0.5, accuracy=0.5),
        **options,
    )


def files(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_a_population_is_a_base_a_file_for_each_chip_and_an_index(tmp_path):
    seen = []
    result = export(tmp_path, progress=seen.append)
    assert (result.written, result.kept) == (5, 0)
    assert len(seen) == 5
    names = [f"chip_4_{index:05d}.tflite" for index in range(5)]
    expected = {"base.tflite", "index.jsonl", *names}
    expected |= {f"{name}.json" for name in ("base.tflite", *names)}
    found = files(tmp_path)
    assert set(found) == expected
    index = [json.loads(line) for line in found["index.jsonl"].splitlines()]
    assert [record["file"] for record in index] == names
    assert [record["chip"]["index"] for record in index] == [0, 1, 2, 3, 4]
    for chip, name in zip(CHIPS, names, strict=True):
        patched = export_models.patchable("int8").patch(chip.faults(export_models.model()))
        assert found[name] == patched
        assert json.loads(found[f"{name}.json"])["verification"]["images"] == 64


class StopHere(Exception):
    pass


def test_a_run_stopped_anywhere_resumes_to_the_same_folder(tmp_path):
    export(tmp_path / "whole")
    stopped = tmp_path / "stopped"

    def stop(report):
        if report.chip["index"] == 2:
            raise StopHere

    with pytest.raises(StopHere):
        export(stopped, progress=stop)
    # As after a kill: a file half written, an index line cut short, a chip's file gone.
    (stopped / ".partial-x.tflite").write_bytes(b"half")
    lines = (stopped / "index.jsonl").read_text().splitlines(keepends=True)
    (stopped / "index.jsonl").write_text("".join(lines)[:-10])
    (stopped / "chip_4_00001.tflite").unlink()
    result = export(stopped, resume=True)
    assert (result.written, result.kept) == (4, 1)
    whole, resumed = files(tmp_path / "whole"), files(stopped)
    by_file = [
        sorted(name.pop("index.jsonl").splitlines(), key=lambda line: json.loads(line)["file"])
        for name in (whole, resumed)
    ]
    assert whole == resumed
    assert by_file[0] == by_file[1]
    assert export(stopped, resume=True).kept == 5


def test_more_chips_in_the_same_folder_leave_the_first_in_its_index(tmp_path):
    def index():
        lines = (tmp_path / "index.jsonl").read_text().splitlines()
        return [json.loads(line)["chip"]["index"] for line in lines]

    export(tmp_path, CHIPS[:3])
    before = files(tmp_path)
    result = export(tmp_path, CHIPS[3:], resume=True)
    assert (result.written, result.kept) == (2, 0)
    assert index() == [0, 1, 2, 3, 4]
    after = files(tmp_path)
    assert after.pop("index.jsonl").startswith(before.pop("index.jsonl"))
    assert before.items() < after.items()
    assert export(tmp_path, CHIPS, resume=True).kept == 5
    # A line of a file that is gone says nothing; the reason why there is none stays.
    (tmp_path / "chip_4_00001.tflite").unlink()
    wrong = Chip(measured={"elsewhere/kernel": Fault(np.ones((3, 3), np.float32))}, name="wrong")
    assert export(tmp_path, [wrong], resume=True).failed
    assert export(tmp_path, CHIPS[3:], resume=True).kept == 2
    assert index() == [0, 2, 0, 3, 4]
    assert b'"failed"' in files(tmp_path)["index.jsonl"].splitlines()[2]


def test_a_disk_that_fills_up_keeps_what_was_written_and_resumes(tmp_path, monkeypatch):
    export(tmp_path / "whole")
    write, written = pathlib.Path.write_bytes, []

    def full(path, content):
        written.append(path)
        if len(written) == 4:  # the base and two chips fit
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            export(tmp_path / "full")
    names = {"base.tflite", "chip_4_00000.tflite", "chip_4_00001.tflite"}
    expected = names | {f"{name}.json" for name in names} | {"index.jsonl"}
    assert set(files(tmp_path / "full")) == expected
    result = export(tmp_path / "full", resume=True)
    assert (result.written, result.kept) == (3, 2)
    assert files(tmp_path / "full") == files(tmp_path / "whole")


def test_without_running_every_byte_is_checked_all_the_same(tmp_path, monkeypatch):
    checked = []
    from keras_rram.export import patchable

    check = patchable.check_weights
    counted = lambda *args: (checked.append(1), check(*args))[1]  # noqa: E731
    monkeypatch.setattr(patchable, "check_weights", counted)
    export(tmp_path, run=False)
    assert len(checked) == 6
    index = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [record["verification"] is not None for record in index] == [True] + [False] * 4


def test_a_folder_of_something_else_is_refused(tmp_path):
    export(tmp_path, CHIPS[:1])
    before = files(tmp_path)
    with pytest.raises(ValueError, match="resume=True"):
        export(tmp_path)
    with pytest.raises(ValueError, match="another chip"):
        export(tmp_path, population(StuckAtZero(0.1), 1, seed=4), resume=True)
    other = export_models.build()
    other.get_layer("head").bias.assign(np.ones(10))
    with pytest.raises(ValueError, match="weights_sha256"):
        export_population(other, tmp_path, CHIPS, "int8", export_models.images(), resume=True)
    with pytest.raises(ValueError, match="calibration"):
        export_population(
            export_models.model(),
            tmp_path,
            CHIPS,
            "int8",
            export_models.images(8),
            resume=True,
        )
    assert files(tmp_path) == before


def test_chips_must_differ_and_share_a_fault_model(tmp_path):
    for chips, message in (
        ([], "at least one"),
        ([CHIPS[0], CHIPS[0]], "must differ"),
        ([CHIPS[0], dataclasses.replace(CHIPS[0], stream="training")], "must differ"),
        ([CHIPS[0], Chip(StuckAtZero(0.1))], "one fault model"),
    ):
        with pytest.raises(ValueError, match=message):
            export(tmp_path, chips)
    assert not files(tmp_path)


def test_measured_chips_are_named_by_their_map(tmp_path):
    faults = CHIPS[0].faults(export_models.model())
    chips = [dataclasses.replace(CHIPS[0], measured=faults)]
    export(tmp_path, chips)
    (name,) = [n for n in files(tmp_path) if n.startswith("chip") and n.endswith(".tflite")]
    assert name.startswith("chip_") and len(name) == len("chip_.tflite") + 16
    patched = files(tmp_path)[name]
    assert patched == export_models.patchable("int8").patch(faults)
    assert folder.BASE in files(tmp_path)


def test_no_chip_takes_the_file_of_another_or_of_the_base(tmp_path):
    """Measured chips are called after their files, which may be in different folders."""
    faults = [chip.faults(export_models.model()) for chip in CHIPS[:2]]
    for names, message in (
        (("base", "good"), "A chip cannot be called 'base', since 'base.tflite' is the fault-free"),
        (("good", "Base"), "A chip cannot be called 'Base'"),
        (("c", "c"), r"must have different names.*\['c'\] more than once .*rename one"),
    ):
        chips = [Chip(measured=each, name=name) for each, name in zip(faults, names, strict=True)]
        with pytest.raises(ValueError, match=message):
            export(tmp_path, chips)
    assert not files(tmp_path)


def test_rescaling_chips_share_a_base_with_room_for_their_weights(tmp_path, monkeypatch):
    monkeypatch.undo()
    model = rescaling_model()
    images = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    chips = population(StuckAtZero(0.5), 2, seed=1)
    reports = []
    export_population(
        model,
        tmp_path,
        chips,
        "int8",
        images,
        thresholds=Thresholds(agreement=0.9),
        progress=reports.append,
    )
    assert read_sidecar(tmp_path / "base.tflite")["gains"] == {"scaled/kernel": 2.0}
    for chip, report in zip(chips, reports, strict=True):
        faults = chip.faults(model)
        size = sum(fault.mask.size for fault in faults.values())
        faulty = sum(np.sum(fault.mask == 0) for fault in faults.values())
        assert report.fault_rate == pytest.approx(faulty / size)
        with chip.program(model):
            expected = model.predict_on_batch(images)
        outputs = LiteRTModel(report.path.read_bytes()).predict(images)
        assert np.abs(outputs - expected).max() <= 0.03 * np.abs(expected).max()


def test_a_chip_that_fails_stops_no_other_and_is_tried_again(tmp_path, monkeypatch):
    from keras_rram.export import exporter

    wrong = Chip(measured={"elsewhere/kernel": Fault(np.ones((3, 3), np.float32))}, name="wrong")
    good = Chip(measured=CHIPS[0].faults(export_models.model()), name="good")
    bad = Chip(measured=CHIPS[1].faults(export_models.model()), name="bad")
    last = Chip(measured=CHIPS[2].faults(export_models.model()), name="last")
    # A file of a run that was killed before it came into the index.
    (tmp_path / "bad.tflite").write_bytes(b"unverified")
    check, strict = exporter.Verification.check, Thresholds(accuracy=0.5)
    object.__setattr__(strict, "agreement", 1.1)  # more than there is

    def fails_once(self, quantization, thresholds):
        counted.append(1)
        check(self, quantization, strict if len(counted) == 3 else thresholds)

    counted = []
    with monkeypatch.context() as patched:
        patched.setattr(exporter.Verification, "check", fails_once)
        result = export(tmp_path, [wrong, good, bad, last])
    assert (result.written, result.kept) == (2, 0)
    assert [each.file for each in result.failed] == ["wrong.tflite", "bad.tflite"]
    assert "no such layer" in result.failed[0].reason
    assert "thresholds=Thresholds(agreement=...), --min_agreement" in result.failed[1].reason
    names = {"base.tflite", "good.tflite", "last.tflite"}
    assert set(files(tmp_path)) == names | {f"{name}.json" for name in names} | {"index.jsonl"}
    index = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [record["file"] for record in index] == [
        f"{n}.tflite" for n in ("wrong", "good", "bad", "last")
    ]
    assert [record.get("failed") for record in index] == [
        result.failed[0].reason,
        None,
        result.failed[1].reason,
        None,
    ]
    assert index[0]["chip"]["name"] == "wrong"
    again = export(tmp_path, [wrong, good, bad, last], resume=True)
    assert (again.written, again.kept) == (1, 2)
    assert [each.file for each in again.failed] == ["wrong.tflite"]
    assert (tmp_path / "bad.tflite").exists()


def test_a_folder_has_one_writer(tmp_path):
    export(tmp_path)
    whole = files(tmp_path)
    with one_writer(tmp_path / "index.jsonl"):
        with pytest.raises(ValueError, match="is being written by another process"):
            export(tmp_path, resume=True)
        assert files(tmp_path) == whole | {"index.jsonl.lock": b""}
    assert export(tmp_path, resume=True).kept == 5


def test_sidecar_index_and_bytes_must_agree_where_a_run_resumes(tmp_path):
    export(tmp_path)
    sidecar = tmp_path / "chip_4_00001.tflite.json"
    text = sidecar.read_text()
    content = {k: v for k, v in json.loads(text).items() if k != "digest"}
    for changed, message in (
        ("{", "00001.tflite.json' is damaged"),
        (text.replace('"fault_rate": 0', '"fault_rate": 1'), "00001.tflite.json' is damaged"),
        (json.dumps(SIDECAR.sealed(content | {"fault_rate": 0.5})), "differ in fault_rate"),
        (json.dumps(SIDECAR.sealed(content | {"sha256": "0" * 64})), "not the file that its"),
    ):
        assert changed != text
        sidecar.write_text(changed)
        with pytest.raises(ValueError, match=message):
            export(tmp_path, resume=True)
    sidecar.write_text(text)
    index = tmp_path / "index.jsonl"
    index.write_text(index.read_text().replace('"size": 1', '"size": 2', 1))
    with pytest.raises(ValueError, match="index.jsonl', line 1, is damaged"):
        export(tmp_path, resume=True)


def test_numbers_that_are_none_and_foreign_classes_are_refused(tmp_path):
    model = export_models.model()
    images = export_models.images(8)
    with pytest.raises(ValueError, match="labels` from 0 to 9"):
        Exporter(model, "float32", None, images, np.full(8, 10))
    with pytest.raises(ValueError, match="shares in"):
        Thresholds(agreement=float("nan"))
    broken = keras.models.clone_model(model)
    broken.layers[1].kernels["kernel"].assign(np.full((3, 3, 2, 8), np.nan))
    with pytest.raises(ValueError, match="NaN or infinite values in 'stem/kernel'"):
        Exporter(broken, "float32", None, images)
    with pytest.raises(TypeError, match="expected a chip"):
        export(tmp_path / "run", ["chip"])
