import numpy as np
import pytest

from keras_rram import Chip
from keras_rram.export import ExportError, summarize
from keras_rram.export.reading import changed_weights
from tests import export_models
from tests.export.test_patchable import random_faults


def test_summary_has_layers_scales_and_sparsity():
    patcher, model = export_models.patchable("int8"), export_models.model()
    faults = export_models.chip().faults(model)
    summary = summarize(patcher.patch(faults))
    rows = {row.tensor: row for row in summary.weights}
    assert len(rows) == len(faults)
    assert (summary.input, summary.output) == ("1x12x12x2 INT8", "1x10 INT8")
    assert summary.operators["FULLY_CONNECTED"] == 2
    for name, (place,) in patcher.places.items():
        row = rows[place.tensor.index]
        assert row.weights == faults[name].mask.size
        assert row.zeros >= (faults[name].mask == 0).sum()
        assert row.sparsity == pytest.approx(faults[name].rate, abs=0.1)
        assert row.scales == (place.tensor.scales.min(), place.tensor.scales.max())
    assert "DEPTHWISE_CONV_2D" in str(summary)
    assert str(summary).splitlines()[-1].startswith("total")
    assert summarize(export_models.patchable("float32").tflite).weights[0].scales is None


@pytest.mark.parametrize("quantization", ["float32", "int8", "float16"])
def test_reading_inverts_patching(quantization, tmp_path):
    patcher, model = export_models.patchable(quantization), export_models.model()
    faults = export_models.chip().faults(model)
    patched = patcher.patch(faults)
    found = patcher.faults_in(patched)
    for name, (place,) in patcher.places.items():
        assert found[name].offset is None
        invisible = place.restore(place.view(patcher.tflite)) == 0
        np.testing.assert_array_equal(found[name].mask, np.where(invisible, 1, faults[name].mask))
    # The map is a chip's file, whose faults make the same TFLite file.
    Chip(measured=found).save(tmp_path / "map.npz", model)
    chip = Chip.load(tmp_path / "map.npz", model)
    assert patcher.patch(chip.faults(model)) == patched


def test_stuck_values_come_back_as_offsets():
    patcher, faults = export_models.patchable("float32"), random_faults(3)
    patched = patcher.patch(faults)
    found = patcher.faults_in(patched)
    again = patcher.patch(found)
    for place in (places[0] for places in patcher.places.values()):
        np.testing.assert_allclose(place.view(again), place.view(patched), rtol=1e-6)
        kernel = place.kernel.values
        np.testing.assert_allclose(
            found[place.kernel.name].apply(kernel),
            faults[place.kernel.name].apply(kernel),
            rtol=1e-4,
            atol=1e-6,
        )


def test_changed_weights_and_files_of_different_conversions():
    patcher, model = export_models.patchable("int8"), export_models.model()
    faults = export_models.chip().faults(model)
    patched = patcher.patch({"head/kernel": faults["head/kernel"]})
    changed = changed_weights(patcher.tflite, patched)
    head = patcher.places["head/kernel"][0]
    assert changed[head.tensor.index] == (head.view(patched) != head.view(patcher.tflite)).sum()
    assert sum(changed.values()) == changed[head.tensor.index] > 0
    for other in (export_models.patchable("float32").tflite, patched[:-1] + b"\x07"):
        with pytest.raises(ExportError, match="one conversion"):
            changed_weights(patcher.tflite, other)
    with pytest.raises(ValueError, match="Not a TFLite"):
        patcher.faults_in(b"nothing of the kind")
