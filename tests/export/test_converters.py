"""Converters behind one interface: one of ours, one of the user's, and `litert-quantizer`."""

import importlib.util

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, population
from keras_rram.export import (
    ExportError,
    LiteRTModel,
    PatchableModel,
    convert,
    export_population,
    export_tflite,
    read_sidecar,
)
from keras_rram.export.calibration import quantize_int8
from keras_rram.export.flatbuffer import parse
from keras_rram.export.micro import run_micro
from tests import export_models

FAULTS = StuckAtZero(0.2)


class KerasExport:
    """A converter of one's own: Keras's `model.export(format="litert")`."""

    def __init__(self, folder):
        self.folder, self.calls = folder, []

    def convert(self, model, quantization, images, batch_size):
        self.calls.append(quantization)
        if quantization == "int8":
            return self.quantize_int8(self.convert(model, "float32", None, batch_size), images)
        model.export(str(self.folder / "model.tflite"), format="litert", verbose=False)
        return (self.folder / "model.tflite").read_bytes()

    def quantize_int8(self, float_file, images, calibrated_on=None):
        files = None if calibrated_on is None else list(calibrated_on)
        self.calls.append(("quantize_int8", files and len(files)))
        return quantize_int8(float_file, images, files)


def steps(tflite):
    return [tensor.scales for tensor in parse(tflite).tensors if tensor.scales.size]


def test_one_of_ones_own_patches_verifies_and_is_named(tmp_path):
    model, images = export_models.model(), export_models.images()
    own = KerasExport(tmp_path)
    patchable = PatchableModel.convert(model, "float32", converter=own)
    assert own.calls == ["float32"] and patchable.unmappable is None
    chip = Chip(FAULTS, seed=1)
    with chip.program(model):
        expected = model.predict(images, verbose=0)
    found = LiteRTModel(bytes(patchable.patch(chip.faults(model)))).predict(images)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    # The same weights and ranges as of the other one: the same int8 file, up to its names.
    ours, theirs = (
        convert(model, "int8", images, converter=converter) for converter in ("tensorflow", own)
    )
    for one, other in zip(steps(ours), steps(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    # Calibration on chips asks the converter too; a folder is of one converter.
    own.calls.clear()
    options = {"calibration": images, "converter": own, "run": False}
    chips = population(FAULTS, 2, stream="calibration")
    export_population(model, tmp_path / "chips", [chip], calibration_chips=chips, **options)
    assert own.calls[:2] == ["float32", ("quantize_int8", 2)]
    assert read_sidecar(tmp_path / "chips" / "base.tflite")["converter"] == "KerasExport"
    options["converter"] = "tensorflow"
    with pytest.raises(ValueError, match="its converter is KerasExport, and this one's is tens"):
        export_population(
            model, tmp_path / "chips", [chip], calibration_chips=chips, resume=True, **options
        )


def test_what_is_no_converter_or_fails_is_an_error(tmp_path, monkeypatch):
    model, images = export_models.model(), export_models.images()
    for wrong in ("toco", None, object()):
        with pytest.raises(ValueError, match="expected a converter: one of .'tensorflow', 'litert"):
            convert(model, "float32", converter=wrong)
    own = KerasExport(tmp_path / "nowhere")
    monkeypatch.setattr(keras.Model, "export", lambda *a, **k: 1 / 0)
    with pytest.raises(ExportError, match="could not be converted to float32 TFLite"):
        convert(model, "float32", converter=own)
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match="needs the package litert-quantizer: pip install"):
        export_tflite(model, tmp_path / "a.tflite", None, "int8", images, converter="litert")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    importlib.util.find_spec("litert_quantizer") is None, reason="litert-quantizer is not installed"
)
def test_litert_quantizer_is_on_a_par(tmp_path):
    model, images = export_models.model(), export_models.images()
    ours, theirs = (
        PatchableModel.convert(model, "int8", images, batch_size=1, converter=name)
        for name in ("tensorflow", "litert")
    )
    assert theirs.unmappable is None
    graphs = [parse(each.tflite) for each in (ours, theirs)]
    # It computes SPACE_TO_BATCH_ND, of a dilated convolution, in floats.
    ends = ("QUANTIZE", "DEQUANTIZE")
    one, other = ([op.name for op in each.operators if op.name not in ends] for each in graphs)
    assert one == other
    for graph in graphs:
        ends = {graph.tensors[number].type for number in (*graph.inputs, *graph.outputs)}
        assert ends == {"INT8"}
    for chip in population(FAULTS, 2):
        faults = chip.faults(model)
        one, other = (each.verify(model, faults, images) for each in (ours, theirs))
        assert other.agreement >= one.agreement - 0.05
    one, other = (run_micro(each.tflite, images[:10]) for each in (ours, theirs))
    assert other.agreement == one.agreement == 1 and max(one.max_steps, other.max_steps) <= 1
    # Ranges of chips are joined, so that none of them saturates.
    chips = population(FAULTS, 3, stream="calibration")
    on_chips = [
        PatchableModel.convert(
            model, "int8", images, calibration_chips=chips, converter=name
        ).tflite
        for name in ("tensorflow", "litert")
    ]
    ranges = []
    for tflite in (*on_chips, theirs.tflite):
        graph = parse(tflite)
        ranges.append([graph.tensors[at].scales[0] for at in (*graph.inputs, *graph.outputs)])
    np.testing.assert_allclose(ranges[0], ranges[1], rtol=1e-3)
    assert ranges[2][0] == ranges[1][0] and abs(ranges[2][1] / ranges[1][1] - 1) > 0.01
