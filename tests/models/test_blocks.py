import keras
import numpy as np
import pytest

from keras_rram.models.blocks import basic_block, conv_bn, linear_bottleneck


def windows(x, size, stride, pad):
    """Patches `(batch, rows, columns, channels, size, size)` of `x`, padded (before, after)."""
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    x = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return x[:, ::stride, ::stride]


def same_pad(side, size, stride):
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2


class Oracle:
    """The blocks in numpy, from the weights of a Keras model by layer name."""

    def __init__(self, model):
        self.model = model

    def pad(self, x, size, stride, centered):
        return (size // 2, size // 2) if centered else same_pad(x.shape[1], size, stride)

    def conv_bn(self, x, name, stride=1, centered=False):
        kernel = np.float64(self.model.get_layer(name).get_weights()[0])
        size = kernel.shape[0]
        patches = windows(x, size, stride, self.pad(x, size, stride, centered))
        return self.bn(np.einsum("nhwcij,ijco->nhwo", patches, kernel), f"{name}_bn")

    def depthwise_bn(self, x, name, stride=1, centered=False):
        kernel = np.float64(self.model.get_layer(name).get_weights()[0])[..., 0]
        patches = windows(x, 3, stride, self.pad(x, 3, stride, centered))
        return self.bn(np.einsum("nhwcij,ijc->nhwc", patches, kernel), f"{name}_bn")

    def bn(self, x, name):
        gamma, beta, mean, variance = map(np.float64, self.model.get_layer(name).get_weights())
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def bottleneck(self, x, name, stride=1, expand=True, centered=False):
        y = x
        if expand:
            y = np.clip(self.conv_bn(y, f"{name}_expand"), 0, 6)
        y = np.clip(self.depthwise_bn(y, f"{name}_depthwise", stride, centered), 0, 6)
        return self.conv_bn(y, f"{name}_project")


def randomized(inputs, outputs, seed=0):
    """A model with every weight random, batch normalization statistics included."""
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            channels = layer.gamma.shape[0]
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, channels),
                    rng.normal(size=channels),
                    rng.normal(size=channels),
                    rng.uniform(0.5, 2, channels),
                ]
            )
        elif layer.weights:
            layer.set_weights([rng.normal(scale=0.5, size=w.shape) for w in layer.get_weights()])
    return model


def images(side, channels, seed=1):
    return np.random.default_rng(seed).normal(size=(2, side, side, channels))


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def predict(model, x):
    return keras.ops.convert_to_numpy(model(x.astype("float32"), training=False))


def names(model):
    return [layer.name for layer in model.layers]


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize("centered", [False, True])
def test_conv_bn_equals_numpy(kernel_size, stride, side, centered):
    inputs = keras.Input((side, side, 3))
    outputs = conv_bn(inputs, 4, kernel_size, stride, role="stem", name="stem", centered=centered)
    model = randomized(inputs, outputs)
    x = images(side, 3)
    assert_close(predict(model, x), Oracle(model).conv_bn(x, "stem", stride, centered))
    assert not model.get_layer("stem").use_bias


@pytest.mark.parametrize(
    ("channels", "filters", "stride", "expansion", "adds"),
    [
        (4, 4, 1, 6, True),
        (4, 4, 1, 1, True),
        (4, 6, 1, 6, False),
        (4, 4, 2, 2, False),
        (1, 4, 1, 6, False),
    ],
)
def test_linear_bottleneck_equals_numpy(channels, filters, stride, expansion, adds):
    inputs = keras.Input((6, 6, channels))
    outputs = linear_bottleneck(inputs, filters, stride, expansion, name="block1")
    model = randomized(inputs, outputs)
    x = images(6, channels)
    expected = Oracle(model).bottleneck(x, "block1", stride, expand=expansion != 1)
    assert_close(predict(model, x), expected + x if adds else expected)
    assert ("block1_project_add" in names(model)) == adds
    assert ("block1_expand" in names(model)) == (expansion != 1)
    hidden = expansion * channels
    assert model.get_layer("block1_depthwise").kernel.shape == (3, 3, hidden, 1)


def test_linear_bottleneck_has_relu6_after_two_of_three_steps():
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, linear_bottleneck(inputs, 4, name="block1"))
    activations = [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU)]
    assert [layer.name for layer in activations] == ["block1_expand_relu", "block1_depthwise_relu"]
    assert all(layer.max_value == 6 for layer in activations)


def test_broadcast_shortcut_adds_the_single_channel_to_all():
    inputs = keras.Input((6, 6, 1))
    outputs = linear_bottleneck(inputs, 8, name="block1", broadcast_shortcut=True)
    model = randomized(inputs, outputs)
    x = images(6, 1)
    assert_close(predict(model, x), Oracle(model).bottleneck(x, "block1") + x)


@pytest.mark.parametrize(("channels", "stride"), [(2, 1), (1, 2), (8, 2)])
def test_broadcast_shortcut_that_cannot_be_added_is_an_error(channels, stride):
    with pytest.raises(ValueError, match="broadcast_shortcut"):
        linear_bottleneck(
            keras.Input((6, 6, channels)), 8, stride, name="b", broadcast_shortcut=True
        )


@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize(
    ("channels", "filters", "stride"), [(4, 4, 1), (4, 8, 2), (4, 7, 1), (4, 4, 2)]
)
@pytest.mark.parametrize("shortcut", ["A", "projection"])
def test_basic_block_equals_numpy(side, channels, filters, stride, shortcut):
    inputs = keras.Input((side, side, channels))
    outputs = basic_block(inputs, filters, stride, names=("c07", "c08"), shortcut=shortcut)
    model = randomized(inputs, outputs)
    x = images(side, channels)
    oracle = Oracle(model)
    y = np.maximum(oracle.conv_bn(x, "c07_conv", stride, centered=True), 0)
    y = oracle.conv_bn(y, "c08_conv", centered=True)
    same = (channels, stride) == (filters, 1)
    if same or shortcut == "A":
        s = np.zeros_like(y)
        s[..., (first := (filters - channels) // 2) : first + channels] = x[:, ::stride, ::stride]
    else:
        s = oracle.conv_bn(x, "c07_shortcut", stride)
    assert_close(predict(model, x), np.maximum(y + s, 0))
    kernels = 2 if same or shortcut == "A" else 3
    assert len(model.trainable_weights) == 3 * kernels


@pytest.mark.parametrize("replaced", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("stride", [1, 2])
def test_replaced_convolutions_keep_the_batch_normalization_and_relu(replaced, stride):
    filters = 4 * stride
    inputs = keras.Input((6, 6, 4))
    outputs = basic_block(inputs, filters, stride, names=("c07", "c08"), replaced=replaced)
    model = randomized(inputs, outputs)
    x = images(6, 4)
    oracle = Oracle(model)

    def convolution(y, name, replaced, stride):
        if not replaced:
            return oracle.conv_bn(y, f"{name}_conv", stride, centered=True)
        z = oracle.bottleneck(y, name, stride, centered=True)
        return oracle.bn(z + y if stride == 1 else z, f"{name}_bn")

    y = np.maximum(convolution(x, "c07", replaced[0], stride), 0)
    y = convolution(y, "c08", replaced[1], 1)
    pad = (filters - 4) // 2
    y += np.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (pad, pad)))
    assert_close(predict(model, x), np.maximum(y, 0))
    for place, replace in zip(("c07", "c08"), replaced, strict=True):
        assert (f"{place}_bn" in names(model)) == replace
        assert (f"{place}_conv_bn" in names(model)) != replace


def test_option_a_block_survives_saving_and_cloning(tmp_path):
    inputs = keras.Input((6, 6, 4))
    model = randomized(inputs, basic_block(inputs, 8, 2, names=("c07", "c08")))
    x = images(6, 4)
    expected = predict(model, x)
    model.save(tmp_path / "block.keras")
    np.testing.assert_array_equal(
        predict(keras.saving.load_model(tmp_path / "block.keras"), x), expected
    )
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(predict(clone, x), expected)


def test_blocks_ignore_the_global_image_data_format():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        inputs = keras.Input((6, 6, 4))
        assert linear_bottleneck(inputs, 8, 2, name="b").shape == (None, 3, 3, 8)
        for shortcut in ("A", "projection"):
            y = basic_block(inputs, 8, 2, names=("c1", "c2"), shortcut=shortcut)
            assert y.shape == (None, 3, 3, 8)
    finally:
        keras.config.set_image_data_format(before)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"filters": 0}, "`filters` must be a positive integer. Received: filters=0"),
        ({"filters": 4.0}, "filters=4.0"),
        ({"filters": 4, "stride": 0}, "stride=0"),
        ({"filters": 4, "expansion": True}, "expansion=True"),
    ],
)
def test_bad_sizes_are_errors(arguments, match):
    inputs = keras.Input((6, 6, 4))
    with pytest.raises(ValueError, match=match):
        linear_bottleneck(inputs, name="b", **arguments)
    with pytest.raises(ValueError, match=match):
        basic_block(inputs, names=("c1", "c2"), **arguments)


def test_bad_shortcuts_are_errors():
    inputs = keras.Input((6, 6, 4))
    with pytest.raises(ValueError, match="shortcut='B'"):
        basic_block(inputs, 4, names=("c1", "c2"), shortcut="B")
    with pytest.raises(ValueError, match="cannot remove any.*4 channels for filters=2"):
        basic_block(inputs, 2, names=("c1", "c2"), shortcut="A")


def test_layers_of_one_place_do_not_share_initial_values():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 4))
    x = linear_bottleneck(inputs, 4, name="block1")
    model = keras.Model(inputs, linear_bottleneck(x, 4, name="block2"))
    first, second = (
        keras.ops.convert_to_numpy(model.get_layer(f"block{i}_depthwise").kernel) for i in (1, 2)
    )
    assert not np.array_equal(first, second)
    # The normal distribution of standard deviation 0.09, cut off at two of them.
    values = np.concatenate([first.ravel(), second.ravel()])
    assert 0.14 < np.abs(values).max() <= 0.18
    assert np.std(values) == pytest.approx(0.88 * 0.09, rel=0.1)
