"""A small vision transformer, whose attention is on the chip."""

import numpy as np

from keras_rram import faulty_layers, to_drop_connect
from tests.foreign.cases import by_python, by_tools
from tests.foreign.networks import trained


def test_by_tools(tmp_path):
    _, repaired, sidecars = by_tools(*trained("vit"), "remap:rounds=1", tmp_path)
    assert [each["method"] for each in sidecars] == ["converted", "patched", "patched"]
    assert repaired["engine"] == "litert float32"


def test_by_python(tmp_path):
    model, _, test = trained("vit")
    kernels = faulty_layers(to_drop_connect(model, 0.0))["attention_0"].kernels
    assert set(kernels) == {f"{n}_kernel" for n in ("query", "key", "value", "output")}
    result, _ = by_python(model, test, tmp_path / "files", "float32")
    assert result.engine == "litert float32"
    assert np.ptp([chip.achieved_fault_rate for chip in result.chips]) < 0.03
