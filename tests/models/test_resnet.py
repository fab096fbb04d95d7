import numpy as np
import pytest

from keras_rram import faulty_layers
from keras_rram.hardware import summary_table
from keras_rram.models import resnet, resnet20


@pytest.mark.parametrize(
    ("depth", "parameters", "macs"),
    [
        (20, 269_722, 40.6e6),
        (32, 464_154, 68.9e6),
        (44, 658_586, 97.2e6),
        (56, 853_018, 125.5e6),
    ],
)
def test_published_sizes(depth, parameters, macs):
    """He et al., table 6: 0.27, 0.46, 0.66, 0.85M; one by one those of akamaster's PyTorch code."""
    model = resnet(depth)
    assert sum(np.prod(w.shape, dtype=int) for w in model.trainable_weights) == parameters
    assert summary_table(model).macs == pytest.approx(macs, rel=0.005)
    weighted = [layer for layer in model.layers if hasattr(layer, "kernel")]
    assert len(weighted) == depth
    assert model.name == f"resnet{depth}"


def test_stages_begin_with_stride_2():
    model = resnet(32)
    sides = {n: model.get_layer(f"c{n:02d}_conv").output.shape[1:] for n in (1, 10, 11, 21, 30)}
    assert sides == {
        1: (32, 32, 16),
        10: (32, 32, 16),
        11: (16, 16, 32),
        21: (8, 8, 64),
        30: (8, 8, 64),
    }


def test_resnet20_is_the_resnet_of_20_layers():
    ours, theirs = resnet(20, (7,), 0.2, width=4), resnet20((7,), 0.2, width=4)
    assert ours.get_config() == theirs.get_config()


def test_scope_and_replacement_in_a_deep_network():
    model = resnet(32, (30,), 0.2, width=4)
    assert list(faulty_layers(model)) == ["c30_expand", "c30_depthwise", "c30_project"]
    assert len(faulty_layers(resnet(32, drop_connect=0.2, scope="all", width=4))) == 32


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"depth": 18}, "depth=18"),
        ({"depth": True}, "depth=True"),
        ({"depth": 32, "replaced": (31,)}, "1 to 30"),
        ({"depth": 32, "drop_connect": 0.2, "scope": "blocks"}, "cannot take effect"),
    ],
)
def test_bad_arguments_are_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        resnet(**arguments)


def test_widened_convolutions_have_twice_the_filters_and_no_other_shape_changes():
    model = resnet(20, widened=(3, 7), width=2)
    shapes = {layer.name: layer.kernel.shape for layer in model.layers if hasattr(layer, "kernel")}
    plain = {
        layer.name: layer.kernel.shape
        for layer in resnet(20, width=2).layers
        if hasattr(layer, "kernel")
    }
    assert shapes["c03_conv"] == (3, 3, 2, 4) and shapes["c04_conv"] == (3, 3, 4, 2)
    assert shapes["c07_conv"] == (3, 3, 2, 8) and shapes["c08_conv"] == (3, 3, 8, 4)
    changed = {name for name, shape in shapes.items() if shape != plain[name]}
    assert changed == {"c03_conv", "c04_conv", "c07_conv", "c08_conv"}
    # A replaced convolution reads and gives the wide block's channels.
    replaced = resnet(20, replaced=(4,), widened=(3,), width=2)
    assert replaced.get_layer("c04_project").kernel.shape == (1, 1, 24, 2)
    with pytest.raises(ValueError, match="first convolutions of blocks"):
        resnet(20, widened=(4,))
    with pytest.raises(ValueError, match="`widened` must name each"):
        resnet(20, widened=(3, 3))
