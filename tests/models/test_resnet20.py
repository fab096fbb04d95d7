import keras
import numpy as np
import pytest

from keras_rram.hardware import summary_table
from keras_rram.layers import faulty_layers
from keras_rram.layers.roles import role_of
from keras_rram.models import resnet20

CONVOLUTIONS = {
    number: (
        16 if number <= 7 else 32 if number <= 13 else 64,
        16 if number < 7 else 32 if number < 13 else 64,
    )
    for number in range(1, 19)
}
"""Convolution number -> (channels in, channels out), written down from the paper."""

STUDY = {
    "4B": (10,),
    "4C": (4, 6, 10, 12, 16, 18),
    "4D": (2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18),
    "4E": (4, 10, 16),
    "strided": (7, 13),
    "all": tuple(range(1, 19)),
}


def trainable(model):
    return sum(np.prod(w.shape, dtype=int) for w in model.trainable_weights)


def expected_parameters(replaced):
    total = (9 * 3 * 16 + 2 * 16) + (64 * 10 + 10)
    for number, (channels, filters) in CONVOLUTIONS.items():
        if number in replaced:
            hidden = 6 * channels
            total += channels * hidden + 9 * hidden + hidden * filters
            total += 2 * hidden + 2 * hidden + 2 * filters
        else:
            total += 9 * channels * filters
        total += 2 * filters
    return total


def kernel_layers(model):
    return {layer.name: layer for layer in model.layers if hasattr(layer, "kernel")}


@pytest.fixture(scope="module")
def original():
    return resnet20()


def test_original_has_the_published_parameter_count(original):
    assert trainable(original) == 269_722  # "0.27M" in He et al., table 6.
    assert expected_parameters(()) == 269_722


def test_original_has_the_published_multiply_accumulates(original):
    # Three stages of equal cost but for the first convolutions of stages 2 and 3, which cost half.
    full = 32 * 32 * 9 * 16 * 16
    stem, head = 32 * 32 * 9 * 3 * 16, 64 * 10
    assert summary_table(original).macs == stem + 16 * full + 2 * full // 2 + head


def test_convolutions_are_numbered_as_in_the_study(original):
    names = list(kernel_layers(original))
    assert names == ["stem", *(f"c{number:02d}_conv" for number in CONVOLUTIONS), "head"]
    for number, (channels, filters) in CONVOLUTIONS.items():
        layer = original.get_layer(f"c{number:02d}_conv")
        assert layer.kernel.shape == (3, 3, channels, filters)
        assert layer.strides == ((2, 2) if number in (7, 13) else (1, 1))
        assert role_of(layer) == "conv"
        assert not layer.use_bias
        assert isinstance(layer.kernel_initializer, keras.initializers.HeNormal)
    sides = {"c06_relu": 32, "c07_relu": 16, "c12_relu": 16, "c13_relu": 8, "c18_relu": 8}
    for name, side in sides.items():
        assert original.get_layer(name).output.shape[1:3] == (side, side)
    assert original.output_shape == (None, 10)


def test_each_shortcut_spans_two_convolutions(original):
    for block in range(9):
        first, second = f"c{2 * block + 1:02d}", f"c{2 * block + 2:02d}"
        source = "stem_relu" if block == 0 else f"c{2 * block:02d}_relu"
        if first in ("c07", "c13"):
            source = f"{first}_shortcut_pad"
            assert original.get_layer(f"{first}_shortcut_subsample").strides == (2, 2)
        shortcut, branch = original.get_layer(f"{second}_add").input
        assert shortcut is original.get_layer(source).output
        assert branch is original.get_layer(f"{second}_conv_bn").output


@pytest.mark.parametrize("panel", STUDY)
def test_replaced_convolutions(panel):
    replaced = STUDY[panel]
    model = resnet20(replaced, drop_connect=0.2)
    assert trainable(model) == expected_parameters(replaced)
    names = [
        f"c{number:02d}_{role}"
        for number in replaced
        for role in ("expand", "depthwise", "project")
    ]
    assert list(faulty_layers(model)) == names
    for number, (channels, filters) in CONVOLUTIONS.items():
        present = any(layer.name == f"c{number:02d}_conv" for layer in model.layers)
        assert present == (number not in replaced)
        if number in replaced:
            depthwise = model.get_layer(f"c{number:02d}_depthwise")
            assert depthwise.strides == ((2, 2) if number in (7, 13) else (1, 1))
            assert depthwise.kernel.shape == (3, 3, 6 * channels, 1)
            batch_normalization = model.get_layer(f"c{number:02d}_bn")
            assert batch_normalization.output.shape[-1] == filters


def test_projection_shortcuts():
    model = resnet20(shortcut="projection", drop_connect=0.2, scope="shortcut")
    assert list(faulty_layers(model)) == ["c07_shortcut", "c13_shortcut"]
    assert trainable(model) == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


@pytest.mark.parametrize(
    ("scope", "dropped"),
    [
        ("convolutions", lambda name: name != "head"),
        ("all", lambda name: True),
        ("depthwise", lambda name: name == "c03_depthwise"),
        ({"conv", "head"}, lambda name: name == "head" or name.endswith("_conv")),
    ],
)
def test_scope_selects_exactly_its_layers(scope, dropped):
    model = resnet20((3,), 0.2, scope, width=4, input_shape=(8, 8, 3), shortcut="projection")
    expected = [name for name in kernel_layers(model) if dropped(name)]
    assert list(faulty_layers(model)) == expected


def test_width_classes_and_expansion():
    model = resnet20((2,), expansion=3, width=8, classes=100, input_shape=(9, 12, 1), name="narrow")
    assert model.name == "narrow"
    assert model.get_layer("c02_expand").kernel.shape == (1, 1, 8, 24)
    assert model.get_layer("c18_relu").output.shape == (None, 3, 3, 32)
    assert model.output_shape == (None, 100)


def test_saved_model_is_the_same_with_its_faults(tmp_path):
    keras.utils.set_random_seed(0)
    model = resnet20((7, 10), 0.2, width=4, input_shape=(8, 8, 3))
    rng = np.random.default_rng(0)
    for layer in faulty_layers(model).values():
        for mask in layer.fault_masks.values():
            mask.assign(rng.random(mask.shape) > 0.3)
    x = rng.normal(size=(3, 8, 8, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(loaded(x)), keras.ops.convert_to_numpy(model(x))
    )


def test_training_reaches_every_kernel():
    keras.utils.set_random_seed(0)
    model = resnet20((7, 10), 0.2, width=4, input_shape=(8, 8, 3))
    before = [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]
    rng = np.random.default_rng(0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    model.fit(rng.normal(size=(16, 8, 8, 3)), rng.integers(10, size=16), epochs=1, verbose=0)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert not np.array_equal(keras.ops.convert_to_numpy(weight), old), weight.path


def test_the_default_scope_fits_the_network():
    dropped = faulty_layers(resnet20(drop_connect=0.2, width=4))
    assert set(dropped) == {f"c{number:02d}_conv" for number in range(1, 19)}
    dropped = faulty_layers(resnet20((7,), drop_connect=0.2, width=4))
    assert set(dropped) == {"c07_expand", "c07_depthwise", "c07_project"}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"replaced": (0,)}, r"integers from 1 to 18. Received: replaced=\(0,\)"),
        ({"replaced": (3, 19)}, r"\(3, 19\)"),
        ({"replaced": (3.5,)}, "3.5"),
        ({"replaced": (True,)}, "True"),
        ({"replaced": ("10",)}, "'10'"),
        ({"replaced": (4, 10, 4)}, r"each convolution once. Received: replaced=\(4, 10, 4\)"),
        ({"replaced": 10}, r"say \(10,\)"),
        ({"replaced": "10"}, r"say \(10,\)"),
        ({"shortcut": "B"}, r"`shortcut` must be one of \['A', 'projection'\].*'B'"),
        ({"width": 0}, "width=0"),
        ({"expansion": 1.5}, "expansion=1.5"),
        ({"classes": 0}, "classes=0"),
        ({"input_shape": (32, 3, 3)}, "at least 4 pixels"),
        ({"scope": ()}, "at least one role"),
        ({"drop_connect": 0.2, "scope": "blocks"}, "cannot take effect.*'resnet20'.*replaced="),
        ({"drop_connect": 0.0, "scope": "blocks"}, "cannot take effect"),
        ({"drop_connect": 0.2, "scope": "shortcut"}, "cannot take effect"),
    ],
)
def test_bad_arguments_are_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        resnet20(**arguments)
