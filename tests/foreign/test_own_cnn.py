"""A network of a shared convolution, residuals and a nested model, with preprocessing inside."""

import numpy as np

from keras_rram import Chip, StuckAtZero, recalibrate_batch_norm, to_drop_connect
from keras_rram.export import PatchableModel, compare
from keras_rram.export.flatbuffer import parse
from keras_rram.export.repairable import RepairableModel
from tests.foreign.cases import by_python, by_tools
from tests.foreign.networks import trained


def test_by_tools(tmp_path):
    _, _, sidecars = by_tools(*trained("own_cnn"), "batch_norm:images=64", tmp_path)
    assert [each["method"] for each in sidecars] == ["converted", "patched", "patched"]


def test_by_python(tmp_path):
    model, _, test = trained("own_cnn")
    by_python(model, test, tmp_path / "files", "float32")


def test_a_convolution_before_two_normalizations_is_patched_after_a_repair():
    model, train, test = trained("own_cnn")
    twin, images = to_drop_connect(model, 0.0), train[0][:100].astype(np.float32)
    chip = Chip(StuckAtZero(0.1), seed=1)
    for quantization, tolerance in (("float32", 1e-5), ("int8", 0.1)):
        calibration = images if quantization == "int8" else None
        patchable = PatchableModel.convert(twin, quantization, calibration)
        assert len(patchable.places["shared/kernel"]) == 2
        repairable = RepairableModel(twin, patchable, images[:1])
        with chip.program(twin), recalibrate_batch_norm(twin, images):
            file = repairable.patch()
            repairable.check(file)
            assert compare(twin, file, test[0].astype(np.float32)).max_difference <= tolerance
        first, second = patchable.places["shared/kernel"]
        steps = [parse(file).tensors[place.tensor.index].read(file) for place in (first, second)]
        assert (steps[0] != steps[1]).any() == (quantization == "float32")
