import json

import keras
import pytest

from keras_rram import models
from keras_rram.faults import BitSlices
from keras_rram.hardware import hardware_cost, summary_table
from keras_rram.hardware.tile_placement import place
from keras_rram.layers import DropConnectConv2D, DropConnectDepthwiseConv2D


@pytest.fixture
def model():
    return keras.Sequential(
        [
            keras.Input((6, 6, 40)),
            DropConnectConv2D(100, 3, drop_connect=0.1, name="conv"),
            DropConnectDepthwiseConv2D(3, drop_connect=0.1, name="depthwise"),
            keras.layers.Flatten(),
            keras.layers.Dense(5, name="head"),
        ]
    )


def test_costs_by_hand(model):
    # The convolution: 360 x 100 weights, 3 tiles of one cell, 3 x 2 of two.
    # The depthwise: 900 rows of 9 for each of 100 channels, 8 tiles along the diagonal. Of pairs
    # the channels from 64 on are on other bit lines than the first: rows 512 to 575 are channels
    # 56 to 63, so that the fifth tile of rows is cut in two.
    for mapping, cells, tiles in (
        ("single_cell", (36_000, 900), (3, 8)),
        ("differential_pair", (72_000, 1_800), (6, 9)),
        ("reference_column", (36_000 + 360, 900 + 900), (3, 8)),
        (BitSlices(2), (288_000, 7_200), (3 * 7, 14)),
    ):
        cost = hardware_cost(model, mapping)
        conv, depthwise = cost.rows
        assert (conv.kernel, depthwise.kernel) == ("conv/kernel", "depthwise/kernel")
        assert (conv.weights, depthwise.weights) == (36_000, 900)
        assert (conv.cells, depthwise.cells) == cells
        assert (conv.tiles, depthwise.tiles) == tiles
        assert conv.utilization == conv.cells / (conv.tiles * 128 * 128)
        assert (cost.cells, cost.tiles) == (sum(cells), sum(tiles))
        assert cost.utilization == sum(cells) / (sum(tiles) * 128 * 128)
    assert hardware_cost(model, tile=64).tile == (64, 64)


def test_as_many_tiles_as_the_placement_uses(model):
    assert hardware_cost(model, "single_cell").tiles == place(model).tiles
    assert place(model, share=True).tiles < place(model).tiles


def test_the_summary_has_it_where_asked_for(model):
    assert summary_table(model).hardware == ()
    assert "hardware" not in summary_table(model).to_dict()
    summary = summary_table(model, ["differential_pair", "reference_column"])
    assert [cost.mapping for cost in summary.hardware] == ["differential_pair", "reference_column"]
    assert str(summary).startswith(str(summary_table(model)) + "\n\ndifferential_pair, tiles")
    assert str(summary.hardware[0]).splitlines() == [
        "differential_pair, tiles of 128 x 128     matrix   cells  tiles   used",
        "-------------------------------------  ---------  ------  -----  -----",
        "conv/kernel                            360 x 200  72,000      6  73.2%",
        "depthwise/kernel                       900 x 200   1,800      9   1.2%",
        "-------------------------------------  ---------  ------  -----  -----",
        "total                                             73,800     15  30.0%",
    ]
    assert json.loads(json.dumps(summary.to_dict()))["hardware"][0]["tiles"] == 15
    (cost, _) = summary.place("conv").hardware
    assert (cost.tiles, len(cost.rows)) == (6, 1)
    named = summary_table(model, {"sliced": BitSlices(4)}, tile=(256, 256)).hardware
    assert [(cost.mapping, cost.tile) for cost in named] == [("sliced", (256, 256))]


def test_a_network_of_the_package():
    cost = hardware_cost(models.mini_mobilenet(bottlenecks=2, drop_connect=0.1))
    assert [row.tiles for row in cost.rows] == [3, 15, 2] * 2
    assert cost.cells == 2 * 28_032


def test_what_has_no_cost_is_an_error(model):
    with pytest.raises(ValueError, match="to_drop_connect"):
        hardware_cost(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="`mapping` must be one of"):
        hardware_cost(model, "triple")
    with pytest.raises(TypeError, match="`mapping` must be"):
        hardware_cost(model, 2)
    with pytest.raises(ValueError, match="no room"):
        hardware_cost(model, "reference_column", tile=(128, 1))
