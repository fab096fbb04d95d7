import keras
import numpy as np
import pytest

from keras_rram.hardware import summary_table
from keras_rram.layers import faulty_layers
from keras_rram.layers.drop_connect import DropConnect
from keras_rram.layers.roles import role_of
from keras_rram.models import mini_mobilenet
from keras_rram.models.mini_mobilenet import VARIANTS


def bottleneck_parameters(channels, filters, expansion=6):
    """Kernels and gammas and betas of a bottleneck, by hand."""
    hidden = expansion * channels
    expand = channels * hidden + 2 * hidden if expansion > 1 else 0
    return expand + 9 * hidden + 2 * hidden + hidden * filters + 2 * filters


def kernel_layers(model):
    return [layer.name for layer in model.layers if hasattr(layer, "kernel")]


@pytest.mark.parametrize("bottlenecks", range(1, 9))
def test_published_network(bottlenecks):
    model = mini_mobilenet(bottlenecks, "published")
    expected = bottleneck_parameters(1, 8) + (bottlenecks - 1) * bottleneck_parameters(8, 8)
    expected += 28 * 28 * 8 * 10 + 10
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == expected
    assert model.get_layer("head").kernel.shape == (6272, 10)
    assert model.output_shape == (None, 10)
    # The identity shortcut needs as many channels out as in: not in the first one.
    adds = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Add)]
    assert adds == [f"block{i}_project_add" for i in range(2, bottlenecks + 1)]
    assert kernel_layers(model) == [
        *(f"block{i}_{r}" for i in range(1, bottlenecks + 1) for r in SCOPED["blocks"]),
        "head",
    ]


SCOPED = {
    "blocks": ("expand", "depthwise", "project"),
    "depthwise": ("depthwise",),
    "convolutions": ("stem", "expand", "depthwise", "project", "conv"),
    "all": ("stem", "expand", "depthwise", "project", "conv", "head"),
}


@pytest.mark.parametrize("bottlenecks", range(1, 9))
def test_strided_network(bottlenecks):
    model = mini_mobilenet(bottlenecks)
    table = VARIANTS["strided"]
    channels, side = table.stem, 14
    expected = 9 * channels + 2 * channels
    for number, (filters, stride) in enumerate(table.bottlenecks[:bottlenecks], start=1):
        expected += bottleneck_parameters(channels, filters)
        adds = stride == 1 and channels == filters
        side = -(-side // stride)
        block = model.get_layer(f"block{number}_project_bn").output
        assert block.shape == (None, side, side, filters)
        assert any(layer.name == f"block{number}_project_add" for layer in model.layers) == adds
        channels = filters
    expected += channels * table.top + 2 * table.top + table.top * 10 + 10
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == expected
    assert model.get_layer("pool").input.shape == (None, side, side, table.top)
    assert model.output_shape == (None, 10)


def test_options_reach_the_network():
    model = mini_mobilenet(3, expansion=2, input_shape=(32, 24, 3), classes=7, name="tiny")
    assert model.name == "tiny"
    assert model.input_shape == (None, 32, 24, 3)
    assert model.output_shape == (None, 7)
    stem = VARIANTS["strided"].stem
    assert model.get_layer("stem").kernel.shape == (3, 3, 3, stem)
    assert model.get_layer("block1_expand").kernel.shape == (1, 1, stem, 2 * stem)
    plain = mini_mobilenet(2, "published", expansion=1)
    assert "block1_expand" not in [layer.name for layer in plain.layers]


@pytest.mark.parametrize("scope", SCOPED)
@pytest.mark.parametrize("variant", VARIANTS)
def test_scope_selects_exactly_its_roles(scope, variant):
    model = mini_mobilenet(2, variant, drop_connect=0.1, scope=scope)
    expected = [name for name in kernel_layers(model) if name.rpartition("_")[2] in SCOPED[scope]]
    assert list(faulty_layers(model)) == expected
    assert {role_of(layer) for layer in faulty_layers(model).values()} <= set(SCOPED[scope])
    assert all(layer.drop_connect.rate == 0.1 for layer in faulty_layers(model).values())


def test_without_drop_connect_no_layer_can_fail():
    assert not faulty_layers(mini_mobilenet(2, scope="all"))


def test_drop_connect_changes_training_only():
    keras.utils.set_random_seed(0)
    model = mini_mobilenet(2, drop_connect=DropConnect(0.5, seed=1))
    plain = mini_mobilenet(2)
    for layer in plain.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights()[: len(layer.weights)])
    x = np.random.default_rng(0).normal(size=(3, 28, 28, 1)).astype("float32")
    outputs = {
        (net, training): keras.ops.convert_to_numpy(net(x, training=training))
        for net in (model, plain)
        for training in (False, True)
    }
    np.testing.assert_allclose(outputs[model, False], outputs[plain, False], atol=1e-5)
    assert np.abs(outputs[model, True] - outputs[plain, True]).max() > 1e-2


def test_saved_model_is_the_same_with_its_faults(tmp_path):
    keras.utils.set_random_seed(0)
    model = mini_mobilenet(2, drop_connect=0.2, scope="all")
    rng = np.random.default_rng(0)
    for layer in faulty_layers(model).values():
        for mask in layer.fault_masks.values():
            mask.assign(rng.random(mask.shape) > 0.3)
    x = rng.normal(size=(3, 28, 28, 1)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(loaded(x)), keras.ops.convert_to_numpy(model(x))
    )
    assert list(faulty_layers(loaded)) == list(faulty_layers(model))
    assert summary_table(loaded) == summary_table(model)


def test_broadcast_shortcut_adds_the_image_to_the_first_bottleneck():
    model = mini_mobilenet(2, "published", broadcast_shortcut=True)
    first = model.get_layer("block1_project_add")
    assert [tuple(t.shape) for t in first.input] == [(None, 28, 28, 1), (None, 28, 28, 8)]
    plain = mini_mobilenet(2, "published")
    assert summary_table(model) == summary_table(plain)


def test_training_learns():
    keras.utils.set_random_seed(0)
    model = mini_mobilenet(1, drop_connect=0.1, input_shape=(8, 8, 1), classes=2)
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=64)
    images = rng.normal(size=(64, 8, 8, 1)) + 2 * labels[:, None, None, None]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    history = model.fit(images, labels, batch_size=32, epochs=5, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("bottlenecks", [0, 9, -1, 2.5, "2", True, None])
def test_bad_depths_are_errors(bottlenecks):
    with pytest.raises(ValueError, match="`bottlenecks` must be an integer from 1 to 8. Received"):
        mini_mobilenet(bottlenecks)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"variant": "small"}, r"`variant` must be one of \['published', 'strided'\].*'small'"),
        ({"scope": "pointwise"}, "pointwise"),
        ({"expansion": 0}, "expansion=0"),
        ({"classes": -3}, "classes=-3"),
        ({"input_shape": (28, 28)}, r"\(height, width, channels\)"),
        ({"input_shape": (None, 28, 1)}, "`height` must be a positive integer"),
        ({"bottlenecks": 8, "input_shape": (28, 7, 1)}, "at least 8 pixels.*multiply to 8"),
        ({"broadcast_shortcut": True}, "needs variant='published'"),
        (
            {"broadcast_shortcut": True, "variant": "published", "input_shape": (28, 28, 3)},
            "one input channel",
        ),
        ({"drop_connect": 0.1, "scope": "shortcut"}, r"cannot take effect.*\['shortcut'\]"),
        ({"drop_connect": 0.1, "scope": "expand", "expansion": 1}, "cannot take effect"),
        ({"drop_connect": 1.5}, "1.5"),
    ],
)
def test_bad_arguments_are_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        mini_mobilenet(**arguments)
