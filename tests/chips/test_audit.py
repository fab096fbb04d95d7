import numpy as np

from keras_rram import Chip, StuckAtZero
from keras_rram.chips import audit
from tests.helpers import tiny_model


def test_rows_name_role_weights_and_achieved_rate():
    model = tiny_model()
    chip = Chip(StuckAtZero(0.3), seed=1)
    faults = chip.faults(model)
    with chip.program(model):
        rows = {row.layer: row for row in audit(model).rows}
    head = rows["head"]
    assert (head.role, head.kind, head.programmable) == ("head", "DropConnectDense", True)
    assert head.faulty == int((faults["head/kernel"].mask == 0).sum())
    assert rows["separable_conv"].weights == 3 * 3 * 6 + 6 * 4
    assert [rows[name].role for name in ("b1_expand", "b1_depthwise")] == ["expand", "depthwise"]
    total = sum(fault.mask.size for fault in faults.values())
    faulty = sum(int((fault.mask == 0).sum()) for fault in faults.values())
    with chip.program(model):
        assert audit(model).rate == faulty / total


def test_clean_layers_show():
    report = audit(tiny_model())
    assert report.clean == ("stem",)
    assert "bn" in {row.layer for row in report.rows}
    assert report.rate == 0
    assert "clean" in str(report)
    assert len(str(report).splitlines()) == len(report.rows) + 2


def test_offsets_and_rescale_count_once():
    import keras

    from keras_rram.faults import Fault
    from keras_rram.layers import DropConnectDense
    from keras_rram.layers.drop_connect import DropConnect

    layer = DropConnectDense(4, drop_connect=DropConnect(0.2, rescale=True), name="dense")
    model = keras.Sequential([keras.Input((5,)), layer])
    mask = np.ones((5, 4), "float32")
    mask[0] = 0
    offset = np.zeros((5, 4), "float32")
    offset[0, :2] = 0.5
    with Chip(measured={"dense": Fault(mask, offset)}).program(model):
        assert audit(model).rows[0].faulty == 4
