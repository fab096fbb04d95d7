import errno
import hashlib
import json
import pathlib

import keras
import numpy as np
import pytest

import keras_rram
from keras_rram import Chip, Fault, StuckAtZero, layers
from keras_rram.export import (
    Exporter,
    ExportError,
    LiteRTModel,
    Thresholds,
    export_tflite,
    read_sidecar,
)
from tests import export_models

LENIENT = Thresholds(agreement=0.8, accuracy=0.2)


def exporter(quantization="float32", **options):
    images = export_models.images(100)
    labels = export_models.model().predict_on_batch(images).argmax(-1)
    return Exporter(
        export_models.model(),
        quantization,
        export_models.images() if quantization == "int8" else None,
        images,
        labels,
        tflite=export_models.patchable(quantization).tflite,
        **options,
    )


def test_a_chip_is_written_verified_and_described(tmp_path):
    chip, path = export_models.chip(2), tmp_path / "new" / "chip.tflite"
    report = export_tflite(
        export_models.model(),
        path,
        chip,
        "int8",
        calibration=export_models.images(),
        thresholds=LENIENT,
        command="tools/export_tflite.py --x",
        commit="abc",
    )
    data = path.read_bytes()
    model = export_models.model()
    assert data == export_models.patchable("int8").patch(chip.faults(model))
    sidecar = read_sidecar(path)
    assert sidecar == json.loads(json.dumps(report.sidecar()))
    assert sidecar["sha256"] == hashlib.sha256(data).hexdigest()
    assert sidecar["size"] == len(data)
    assert sidecar["version"] == keras_rram.__version__
    assert (sidecar["command"], sidecar["commit"]) == ("tools/export_tflite.py --x", "abc")
    assert sidecar["model"] == "every_kernel"
    assert sidecar["quantization"] == "int8"
    assert sidecar["chip"]["fault_model"] == "stuck_at_zero:rate=0.3"
    assert (sidecar["chip"]["seed"], sidecar["chip"]["index"]) == (3, 2)
    with chip.program(model):
        assert sidecar["fault_rate"] == pytest.approx(keras_rram.chips.audit(model).rate)
    assert sidecar["calibration"]["images"] == 64
    assert sidecar["verification"]["images"] == 64
    assert sorted(p.name for p in path.parent.iterdir()) == ["chip.tflite", "chip.tflite.json"]


def test_a_chip_is_drawn_once(tmp_path, monkeypatch):
    drawn, sample = [], StuckAtZero.sample
    counted = lambda self, *args: (drawn.append(1), sample(self, *args))[1]  # noqa: E731
    monkeypatch.setattr(StuckAtZero, "sample", counted)
    images = export_models.images(8)
    one = exporter(also_on={"more": (images, np.zeros(8, np.int64))})
    one.write(tmp_path / "chip.tflite", export_models.chip())
    assert len(drawn) == len(one.patchable.places)


def test_accuracies_of_the_fault_free_file(tmp_path):
    report = exporter().write(tmp_path / "base.tflite")
    assert report.chip is None
    assert report.fault_rate == 0
    assert report.method == "converted"
    assert report.verification.accuracy == report.verification.keras_accuracy == 1
    assert report.verification.max_difference < 1e-5


def test_a_measured_chip_with_stuck_values(tmp_path):
    kernel = np.asarray(export_models.model().get_layer("head").kernels["kernel"])
    mask, offset = np.ones_like(kernel), np.zeros_like(kernel)
    mask[0, :4] = 0
    offset[0, :2] = 0.1
    chip = Chip(measured={"head": Fault(mask, offset)})
    report = exporter().write(tmp_path / "measured.tflite", chip)
    assert report.stuck_values.count == 2
    assert report.stuck_values.max_error < 1e-7
    assert report.fault_rate * sum(
        fault.mask.size for fault in export_models.chip().faults(export_models.model()).values()
    ) == pytest.approx(4)
    assert len(report.chip["measured_sha256"]) == 64


def test_a_file_that_fails_is_not_left_in_place(tmp_path, monkeypatch):
    one = exporter("float32")
    path = tmp_path / "chip.tflite"
    patch = one.patchable.patch

    def corrupted(faults):
        data = patch(faults)
        data[one.patchable.places["head/kernel"][0].tensor.offset + 2] ^= 0x40
        return data

    monkeypatch.setattr(one.patchable, "patch", corrupted)
    with pytest.raises(ExportError, match=r"chip.tflite failed.*'head/kernel'"):
        one.write(path, export_models.chip())
    assert not list(tmp_path.iterdir())
    thresholds = Thresholds()
    object.__setattr__(thresholds, "agreement", 1.01)  # more than there is
    strict = exporter("int8", thresholds=thresholds)
    with pytest.raises(ExportError, match="same class"):
        strict.write(path, export_models.chip())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_at_the_sidecar_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        exporter().write(tmp_path / "chip.tflite", export_models.chip())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        exporter().write(tmp_path / "chip.tflite", export_models.chip())
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_patched_is_converted_with_a_warning(tmp_path):
    inputs = keras.Input((6, 6, 2))
    x = layers.DropConnectConv2DTranspose(4, 3, drop_connect=0.2, name="up")(inputs)
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.GlobalMaxPooling2D()(x))
    export_models.set_batch_norm(model)
    images = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype(np.float32)
    chip = export_models.chip()
    with pytest.warns(UserWarning, match="'up'"):
        report = export_tflite(model, tmp_path / "c.tflite", chip, "float32", images=images)
    assert report.method == "converted"
    with chip.program(model):
        expected = model.predict_on_batch(images)
    outputs = LiteRTModel((tmp_path / "c.tflite").read_bytes()).predict(images)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_bad_arguments_are_refused_before_converting(tmp_path):
    model, images = export_models.model(), export_models.images(8)
    with pytest.raises(ValueError, match="end in '.tflite'"):
        export_tflite(model, tmp_path / "chip.bin", images=images, quantization="float32")
    with pytest.raises(ValueError, match="needed to verify"):
        export_tflite(model, tmp_path / "c.tflite", quantization="float32")
    with pytest.raises(ValueError, match="8 integers"):
        export_tflite(
            model, tmp_path / "c.tflite", None, "float32", images=images, labels=np.zeros(7, int)
        )
    with pytest.raises(ValueError, match="labels without images"):
        export_tflite(
            model, tmp_path / "c.tflite", calibration=images, labels=np.zeros(8, np.int64)
        )
    other = Chip(measured={"elsewhere": Fault(np.ones((2, 2), np.float32))})
    with pytest.raises(ValueError, match="elsewhere"):
        exporter().write(tmp_path / "c.tflite", other)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        export_tflite(model, tmp_path / "file" / "c.tflite", None, "float32", images=images)
    with pytest.raises(ValueError, match="one for each"):
        exporter(also_on={"more": (images, np.zeros(7, np.int64))})
    with pytest.raises(ValueError, match="`more` must be a non-empty array"):
        exporter(also_on={"more": (images[:0], np.zeros(0, np.int64))})
    with pytest.raises(ValueError, match="runs int8 files"):
        exporter(micro_images=3)
    with pytest.raises(ValueError, match="integer >= 0"):
        exporter("int8", micro_images=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_damaged_sidecars_are_named(tmp_path):
    path = tmp_path / "x.tflite"
    assert read_sidecar(path) is None
    (tmp_path / "x.tflite.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged, or no sidecar"):
        read_sidecar(path)
    (tmp_path / "x.tflite.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="this version"):
        read_sidecar(path)
