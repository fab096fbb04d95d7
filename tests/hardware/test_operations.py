import pytest

from keras_rram.hardware import Prices, count_operations, summary_table
from keras_rram.models import mini_mobilenet, resnet20


def test_reads_and_conversions_by_hand():
    model = resnet20((10,), drop_connect=0.1, scope="all")
    found = count_operations(
        model, Prices(read_pj=10, adc_pj=2, digital_pj=3, read_ns=5, input_bits=4)
    )
    # c01: 3 x 3 x 16 rows on two tiles, 16 filters of two cells each; 32 x 32 positions.
    conv = found["c01_conv"]
    assert (conv.tiles, conv.cells) == (2, 2 * 9 * 16 * 16)
    assert conv.array_reads == 32 * 32 * 4 * 2
    assert conv.conversions == 32 * 32 * 4 * 2 * 32
    assert conv.analog_pj == 10 * conv.array_reads + 2 * conv.conversions
    assert conv.analog_ns == 32 * 32 * 4 * 5  # tiles side by side, positions in turn
    assert conv.digital_pj == 3 * 32 * 32 * 9 * 16 * 16
    assert conv.saved_pj == conv.digital_pj - conv.analog_pj == conv.to_dict()["saved_pj"]
    # A depthwise kernel of 192 channels is 1,728 rows; only the columns in use are converted.
    depthwise = found["c10_depthwise"]
    assert depthwise.macs == 9 * 192 * 16 * 16
    assert depthwise.array_reads == 16 * 16 * 4 * depthwise.tiles
    assert 2 * 192 * 16 * 16 * 4 <= depthwise.conversions < 128 * depthwise.array_reads
    dense = found["head"]
    assert dense.conversions == 4 * 2 * 10 and dense.macs == 640


def test_operations_agree_with_cost_and_summary():
    model = mini_mobilenet(2, drop_connect=0.1)
    table = summary_table(model, "reference_column", tile=64)
    found = count_operations(model, mapping="reference_column", tile=64)
    assert sum(one.cells for one in found.values()) == table.hardware[0].cells
    assert sum(one.tiles for one in found.values()) == table.hardware[0].tiles
    assert sum(one.macs for one in found.values()) == table.faulty_macs


def test_depthwise_kernels_cost_more_conversions_than_they_save():
    found = count_operations(mini_mobilenet(2, drop_connect=0.1))
    assert found["block2_depthwise"].saved_pj < 0 < found["block2_expand"].saved_pj


def test_prices():
    assert Prices.parse("adc_pj=2,input_bits=6") == Prices(adc_pj=2.0, input_bits=6)
    for given in ({"adc_pj": -1.0}, {"read_ns": float("inf")}, {"input_bits": 0}):
        with pytest.raises(ValueError, match=next(iter(given))):
            Prices(**given)
    with pytest.raises(ValueError, match="adc_pj"):
        Prices.parse("adc=2")
    with pytest.raises(ValueError):
        count_operations(mini_mobilenet(1, drop_connect=0.1), mapping="cells")
