import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_rram.hardware import summary_table
from keras_rram.layers import DropConnectConv2D, DropConnectDense
from keras_rram.models import resnet20

# (layer, input shape, parameters, multiply-accumulates), all by hand.
LAYERS = {
    "dense": (layers.Dense(5), (7,), 7 * 5 + 5, 35),
    "dense of positions": (layers.Dense(5), (4, 3, 7), 7 * 5 + 5, 4 * 3 * 35),
    "conv1d": (layers.Conv1D(4, 3), (10, 2), 3 * 2 * 4 + 4, 8 * 24),
    "conv2d": (layers.Conv2D(4, 3), (8, 8, 3), 9 * 3 * 4 + 4, 6 * 6 * 108),
    "stride": (
        layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False),
        (7, 8, 3),
        108,
        4 * 4 * 108,
    ),
    "groups": (layers.Conv2D(4, 3, groups=2), (8, 8, 6), 9 * 3 * 4 + 4, 36 * 108),
    "dilation": (layers.Conv2D(4, 3, dilation_rate=2), (8, 8, 3), 112, 4 * 4 * 108),
    "conv3d": (layers.Conv3D(2, 2), (4, 4, 4, 3), 8 * 3 * 2 + 2, 27 * 48),
    "depthwise1d": (
        layers.DepthwiseConv1D(3, depth_multiplier=2),
        (8, 5),
        3 * 5 * 2 + 10,
        6 * 30,
    ),
    "depthwise2d": (
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        (8, 8, 5),
        9 * 5 * 2 + 10,
        36 * 90,
    ),
    "separable1d": (layers.SeparableConv1D(4, 3), (8, 5), 15 + 20 + 4, 6 * (15 + 20)),
    "separable2d": (layers.SeparableConv2D(4, 3), (8, 8, 5), 45 + 20 + 4, 36 * (45 + 20)),
    "transpose": (
        layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        (5, 6, 3),
        9 * 3 * 4 + 4,
        5 * 6 * 108,
    ),
    "batch normalization": (layers.BatchNormalization(), (8, 8, 3), 6, 0),
    "embedding": (layers.Embedding(11, 3), (5,), 33, 0),
}


@pytest.mark.parametrize("case", LAYERS)
def test_counts_of_single_layers(case):
    layer, shape, parameters, macs = LAYERS[case]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    (row,) = summary_table(model).rows
    assert (row.parameters, row.macs) == (parameters, macs)
    assert row.layer_class == type(layer).__name__
    assert row.name == layer.name
    assert (row.faulty, row.faulty_parameters) == (False, 0)


def test_channels_first_sizes_come_from_the_last_axes():
    model = keras.Sequential(
        [keras.Input((3, 8, 10)), layers.Conv2D(4, 3, data_format="channels_first")]
    )
    assert summary_table(model).macs == 6 * 8 * 108


@pytest.fixture
def faulty_model():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, name="stem"),
            DropConnectConv2D(4, 1, drop_connect=0.1, name="block1_expand"),
            layers.BatchNormalization(name="block1_expand_bn"),
            layers.Flatten(),
            DropConnectDense(5, drop_connect=None, name="head"),
        ]
    )


def test_shares_on_faulty_hardware(faulty_model):
    summary = summary_table(faulty_model)
    assert [row.name for row in summary.rows] == [
        "stem",
        "block1_expand",
        "block1_expand_bn",
        "head",
    ]
    assert [row.role for row in summary.rows] == ["stem", "expand", "", "head"]
    assert [row.faulty for row in summary.rows] == [False, True, False, False]
    assert summary.parameters == 57 + 16 + 8 + 325
    assert summary.macs == 16 * 54 + 16 * 12 + 320
    assert summary.faulty_parameters == 12  # The kernel, neither its bias nor its mask.
    assert summary.faulty_parameters_share == 12 / 406
    assert summary.faulty_macs == 16 * 12
    assert summary.faulty_macs_share == 192 / 1376


def test_frozen_layers_and_models_count_the_same(faulty_model):
    before = summary_table(faulty_model)
    faulty_model.trainable = False
    assert summary_table(faulty_model) == before


def test_table_is_aligned(faulty_model):
    assert str(summary_table(faulty_model)).splitlines() == [
        "layer               class               role    parameters   macs  faulty",
        "------------------  ------------------  ------  ----------  -----  ------",
        "stem                Conv2D              stem            57    864",
        "block1_expand       DropConnectConv2D   expand          16    192  yes",
        "block1_expand_bn    BatchNormalization                   8      0",
        "head                DropConnectDense    head           325    320",
        "------------------  ------------------  ------  ----------  -----  ------",
        "total                                                  406  1,376",
        "on faulty hardware                                    3.0%  14.0%",
    ]


def test_to_dict_is_json(faulty_model):
    summary = summary_table(faulty_model)
    read = json.loads(json.dumps(summary.to_dict()))
    assert read["macs"] == summary.macs
    assert read["faulty_macs_share"] == summary.faulty_macs_share
    assert [row["name"] for row in read["rows"]] == [row.name for row in summary.rows]
    assert read["rows"][1] == {
        "name": "block1_expand",
        "layer_class": "DropConnectConv2D",
        "role": "expand",
        "parameters": 16,
        "macs": 192,
        "faulty": True,
        "faulty_parameters": 12,
        "digital_operations": 0,
    }


def test_nested_models_are_unfolded():
    block = keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(2, 3, padding="same")])
    inner = keras.Input((6, 6, 2))
    nested = keras.Model(inner, layers.Conv2D(4, 1)(block(inner)))
    model = keras.Sequential([keras.Input((6, 6, 2)), nested, layers.Flatten(), layers.Dense(3)])
    summary = summary_table(model)
    assert [row.macs for row in summary.rows] == [36 * 36, 36 * 8, 144 * 3]
    assert summary.parameters == model.count_params()


def test_shared_layers_count_parameters_once_and_each_call():
    shared = layers.Conv2D(2, 3, padding="same")
    inputs = keras.Input((6, 6, 2))
    x = shared(inputs)
    x = shared(layers.AveragePooling2D(2)(x))
    (row,) = summary_table(keras.Model(inputs, x)).rows
    assert row.parameters == 38
    assert row.macs == 36 * (36 + 9)


def test_totals_agree_with_keras_on_a_whole_application():
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    summary = summary_table(model)
    assert summary.parameters == sum(np.prod(w.shape, dtype=int) for w in model.trainable_weights)
    assert summary.macs > 0
    assert summary.faulty_parameters == summary.faulty_macs == 0


def test_overhead_of_a_bottleneck_over_the_convolution_that_it_replaces():
    replaced, original = summary_table(resnet20((10,), 0.2)), summary_table(resnet20())
    bottleneck, convolution = replaced.place("c10"), original.place("c10")
    assert (convolution.parameters, convolution.macs) == (9_280, 2_359_296)
    assert (bottleneck.parameters, bottleneck.macs) == (14_912, 3_588_096)
    assert replaced.parameters - original.parameters == 14_912 - 9_280
    assert replaced.faulty_parameters == 2 * 32 * 192 + 9 * 192
    assert bottleneck.faulty_macs == bottleneck.macs == replaced.faulty_macs
    assert replaced.place("head").parameters == 650
    with pytest.raises(ValueError, match="name='c1'"):
        replaced.place("c1")


def test_a_model_without_weights_has_no_shares():
    inputs = keras.Input((4,))
    summary = summary_table(keras.Model(inputs, layers.ReLU()(inputs)))
    assert summary.rows == ()
    assert summary.faulty_parameters_share == summary.faulty_macs_share == 0


def test_what_cannot_be_counted_is_an_error():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(TypeError, match="functional model or a built Sequential.*Subclassed"):
        summary_table(Subclassed())
    with pytest.raises(TypeError, match="built Sequential"):
        summary_table(keras.Sequential([layers.Dense(3)]))

    inputs = keras.Input((None, 8, 3))
    with pytest.raises(ValueError, match="'wide'.*known sizes"):
        summary_table(keras.Model(inputs, layers.Conv2D(2, 3, name="wide")(inputs)))

    inputs = keras.Input((5, 8))
    cells = layers.RNN(layers.LSTMCell(2), name="cells")
    with pytest.raises(ValueError, match="'cells' of type RNN"):
        summary_table(keras.Model(inputs, cells(inputs)))
