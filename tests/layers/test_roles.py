import keras
import pytest

from keras_rram.layers.roles import ROLES, SCOPES, resolve_scope, role_of


@pytest.mark.parametrize(
    ("layer", "role"),
    [
        (keras.layers.Conv2D(1, 1, name="block_3_project"), "project"),
        (keras.layers.Conv2D(1, 1, name="stem"), "stem"),
        (keras.layers.DepthwiseConv2D(3, name="anything"), "depthwise"),
        (keras.layers.Dense(3, name="predictions"), "head"),
        (keras.layers.Conv2D(1, 1, name="res2a"), "conv"),
        (keras.layers.Dense(3, name="fc1_hidden"), "hidden"),
    ],
)
def test_role_of(layer, role):
    assert role_of(layer) == role


def test_scopes():
    assert resolve_scope("blocks") == {"expand", "depthwise", "project"}
    assert resolve_scope(["depthwise", "head"]) == {"depthwise", "head"}
    assert resolve_scope("all") == set(ROLES) == SCOPES["convolutions"] | {"hidden", "head"}


@pytest.mark.parametrize("scope", ["bottleneck", ["expand", "x"], []])
def test_refuses_unknown_scopes(scope):
    with pytest.raises(ValueError, match="scope"):
        resolve_scope(scope)
