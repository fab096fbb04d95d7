import keras
import numpy as np
import pytest

from keras_rram import faulty_layers
from keras_rram.hardware import summary_table
from keras_rram.layers.normalization import FusedBatchNormalization
from keras_rram.layers.roles import role_of
from keras_rram.models import mobilenet_v2
from tests.helpers import to_numpy


def trainable(model):
    return sum(np.prod(w.shape, dtype=int) for w in model.trainable_weights)


@pytest.fixture(scope="module")
def cifar():
    return mobilenet_v2(drop_connect=0.3)


def test_cifar_form_has_the_known_parameter_count_and_image_sizes(cifar):
    # That of torchvision's `mobilenet_v2(num_classes=10)`, which strides do not change.
    assert trainable(cifar) == 2_236_682
    sides = {
        name: cifar.get_layer(f"{name}_bn").output.shape[1]
        for name in ("stem", "block3_depthwise", "block4_depthwise", "block17_project")
    }
    assert sides == dict(zip(sides, (32, 32, 16, 4), strict=True))


@pytest.mark.parametrize(
    ("alpha", "millions", "macs"), [(1.0, 3.504872, 300.8e6), (0.5, 1.968680, 97e6)]
)
def test_imagenet_form_is_that_of_the_paper(alpha, millions, macs):
    """300M multiply-adds (table 4), 97M at half the width; parameters those of torchvision."""
    ours = mobilenet_v2(alpha, "imagenet", input_shape=(224, 224, 3), classes=1000)
    theirs = keras.applications.MobileNetV2(alpha=alpha, weights=None)
    assert trainable(ours) == trainable(theirs)
    assert trainable(ours) == pytest.approx(millions * 1e6, abs=0.5)
    assert summary_table(ours).macs == pytest.approx(macs, rel=0.01)


def test_equals_the_network_of_keras_on_the_same_weights():
    """At 65 pixels, where both pad the same."""
    ours = mobilenet_v2(0.35, "imagenet", input_shape=(65, 65, 3), classes=7)
    theirs = keras.applications.MobileNetV2(
        (65, 65, 3), 0.35, weights=None, classes=7, classifier_activation=None
    )
    rng = np.random.default_rng(0)
    for new, old in zip(ours.weights, theirs.weights, strict=True):
        assert new.shape == old.shape
        value = rng.uniform(0.1, 0.5, old.shape) - (0.3 if len(old.shape) > 1 else 0)
        old.assign(value)
        new.assign(value)
    for layer in ours.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 1e-3  # theirs
    images = rng.normal(size=(2, 65, 65, 3)).astype("float32")
    np.testing.assert_allclose(
        to_numpy(ours(images)), to_numpy(theirs(images)), rtol=1e-3, atol=1e-4
    )


def test_roles_scopes_and_normalization(cifar):
    roles = [role_of(layer) for layer in faulty_layers(cifar).values()]
    assert {role: roles.count(role) for role in set(roles)} == {
        "expand": 16,
        "depthwise": 17,
        "project": 17,
    }
    assert len(faulty_layers(mobilenet_v2(0.1, drop_connect=0.3, scope="all"))) == 53
    norms = [x for x in cifar.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 52
    assert all(isinstance(layer, FusedBatchNormalization) for layer in norms)


def test_reads_other_images_and_classes():
    model = mobilenet_v2(0.1, input_shape=(28, 28, 1), classes=4, name="digits")
    assert model.output_shape == (None, 4)
    assert model.name == "digits"
    assert to_numpy(model(np.zeros((1, 28, 28, 1), "float32"))).shape == (1, 4)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"alpha": 0}, "alpha=0"),
        ({"alpha": True}, "alpha=True"),
        ({"variant": "tiny"}, "variant"),
        ({"classes": 0}, "classes"),
        ({"input_shape": (4, 4, 3)}, "strides multiply to 8"),
        ({"drop_connect": 0.2, "scope": "shortcut"}, "cannot take effect"),
    ],
)
def test_bad_arguments_are_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        mobilenet_v2(**{"alpha": 0.1, **arguments})
