import keras
import pytest

from keras_rram.layers import (
    DropConnectConv2D,
    DropConnectDense,
    DropConnectDepthwiseConv2D,
    faulty_layers,
)
from keras_rram.layers.drop_connect import DropConnect
from keras_rram.layers.normalization import FusedBatchNormalization
from keras_rram.models import LayerFactory, linear_bottleneck


@pytest.mark.parametrize(
    ("scope", "dropping"),
    [
        ("blocks", {"expand", "depthwise", "project"}),
        ("depthwise", {"depthwise"}),
        (("stem", "head"), {"stem", "head"}),
        (iter(["conv", "depthwise"]), {"conv", "depthwise"}),
        ("all", {"stem", "expand", "depthwise", "project", "conv", "shortcut", "head"}),
    ],
)
def test_placement_makes_drop_connect_layers_of_the_roles_in_scope(scope, dropping):
    factory = LayerFactory(0.2, scope)
    twins = {
        role: (keras.layers.Conv2D, DropConnectConv2D, factory.conv2d(4, 1, role=role, name=role))
        for role in ("stem", "expand", "project", "conv", "shortcut")
    }
    twins["depthwise"] = (
        keras.layers.DepthwiseConv2D,
        DropConnectDepthwiseConv2D,
        factory.depthwise_conv2d(3, name="depthwise"),
    )
    twins["head"] = (keras.layers.Dense, DropConnectDense, factory.dense(10, name="head"))
    for role, (plain, faulty, layer) in twins.items():
        assert type(layer) is (faulty if role in dropping else plain)
        assert layer.name == role
        if role in dropping:
            assert layer.drop_connect.rate == 0.2


@pytest.mark.parametrize("drop_connect", [0.0, DropConnect(0.3, rescale=True, seed=7)])
def test_placement_takes_rates_and_drop_connects(drop_connect):
    layer = LayerFactory(drop_connect, "all").dense(10, name="head")
    config = layer.drop_connect.get_config()
    expected = drop_connect if isinstance(drop_connect, DropConnect) else DropConnect(0.0)
    assert config == expected.get_config()


def test_placement_without_drop_connect_makes_plain_layers():
    inputs = keras.Input((6, 6, 4))
    outputs = linear_bottleneck(inputs, 4, name="block1", factory=LayerFactory(scope="all"))
    model = keras.Model(inputs, outputs)
    kernels = [
        layer for layer in model.layers if layer.name.startswith("block1_") and layer.weights
    ]
    plain = {keras.layers.Conv2D, keras.layers.DepthwiseConv2D, FusedBatchNormalization}
    assert {type(layer) for layer in kernels} == plain
    assert not faulty_layers(model)


def test_placement_refuses_unknown_scopes():
    with pytest.raises(ValueError, match="pointwise"):
        LayerFactory(0.2, "pointwise")


def test_checked_refuses_a_drop_rate_without_effect():
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, linear_bottleneck(inputs, 4, name="block1"), name="tiny")
    assert LayerFactory().checked(model) is model
    with pytest.raises(ValueError, match="no layer of model 'tiny'.*'depthwise', 'expand'"):
        LayerFactory(0.0, "head").checked(model)
