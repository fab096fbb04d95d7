import keras
import numpy as np
import pytest

from keras_rram import Chip, faulty_layers
from keras_rram.chips.unrolling import kernel_shape
from keras_rram.faults import ColumnFaults, Crossbar
from keras_rram.layers import CONVERTIBLE, DropConnectConv2D, DropConnectDepthwiseConv2D
from tests.helpers import tiny_model


def crossbars(model):
    return {
        f"{name}/{slot}": kernel_shape(layer, slot).crossbar
        for name, layer in faulty_layers(model).items()
        for slot in layer.kernels
    }


def test_each_layer_of_the_package_has_its_layout():
    found = {name: (c.rows, c.columns, c.is_full) for name, c in crossbars(tiny_model()).items()}
    assert found == {
        "b1_expand/kernel": (4, 6, True),
        "b1_depthwise/kernel": (9 * 6, 6, False),
        "separable_conv/depthwise_kernel": (9 * 6, 6, False),
        "separable_conv/pointwise_kernel": (6, 4, True),
        "head/kernel": (16, 4, True),
    }


def test_groups_and_multipliers_are_known_from_the_layer():
    layer = DropConnectConv2D(6, 3, groups=2, drop_connect=0.0)
    layer.build((None, 8, 8, 4))
    assert kernel_shape(layer).crossbar == Crossbar.grouped((3, 3, 2, 6), 2)


@pytest.mark.parametrize(
    ("plain", "shape", "rows", "columns"),
    [
        (keras.layers.Conv2DTranspose(5, 3), (None, 8, 8, 4), 4, 45),
        (keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (None, 7, 4), 4, 6),
        (keras.layers.DepthwiseConv1D(3, depth_multiplier=2), (None, 8, 4), 12, 8),
        (keras.layers.Conv1D(5, 3), (None, 8, 4), 12, 5),
        (keras.layers.Conv3D(5, 2), (None, 8, 8, 8, 4), 32, 5),
    ],
    ids=["transpose", "einsum", "depthwise1d", "conv1d", "conv3d"],
)
def test_layers_of_other_kinds(plain, shape, rows, columns):
    layer = CONVERTIBLE[type(plain)].from_config({**plain.get_config(), "drop_connect": 0.0})
    layer.build(shape)
    crossbar = kernel_shape(layer).crossbar
    assert (crossbar.rows, crossbar.columns) == (rows, columns)


def test_a_chip_of_lost_bit_lines_loses_channels_of_depthwise_kernels():
    model = tiny_model()
    chip = Chip(ColumnFaults(0.5, tile=512), seed=1)
    mask = chip.faults(model)["b1_depthwise/kernel"].mask[..., 0]
    assert (mask == mask[:1, :1]).all()
    assert 0 < mask[0, 0].sum() < mask.shape[-1]
    with chip.program(model):
        channels = keras.Model(model.input, model.get_layer("b1_depthwise").output)
        values = keras.ops.convert_to_numpy(channels(np.ones((1, 8, 8, 1), "float32")))
        assert (values[..., mask[0, 0] == 0] == 0).all() and (values != 0).any()


def test_a_chip_knows_depthwise_kernels_whose_shape_is_that_of_a_dense_one():
    layer = DropConnectDepthwiseConv2D(3, depth_multiplier=2, drop_connect=0.0, name="two")
    model = keras.Sequential([keras.Input((8, 8, 16)), layer])
    mask = Chip(ColumnFaults(0.5, tile=512), seed=1).faults(model)["two/kernel"].mask
    assert (mask == mask[:1, :1]).all()
    assert len(np.unique(mask[0, 0], axis=0)) > 2
