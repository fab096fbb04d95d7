"""Families of `keras.applications`, some in small: to Drop-Connect layers, and on a chip."""

import keras
import numpy as np
import pytest
from keras.src.applications import (
    convnext,
    densenet,
    efficientnet,
    efficientnet_v2,
    nasnet,
    resnet,
)

from keras_rram import Chip, StuckAtZero, faulty_layers, to_drop_connect
from keras_rram.chips import audit
from tests.helpers import to_numpy

applications = keras.applications


def efficient_net(**options):
    return efficientnet.EfficientNet(0.3, 0.3, 32, dropout_rate=0.0, name="efficientnet", **options)


def efficient_net_v2(**options):
    return efficientnet_v2.EfficientNetV2(0.3, 0.3, 32, name="efficientnetv2-b0", **options)


def dense_net(**options):
    return densenet.DenseNet([1, 2, 2, 1], **options)


def nas_net(**options):
    return nasnet.NASNet(penultimate_filters=96, num_blocks=1, skip_reduction=False, **options)


def conv_next(**options):
    return convnext.ConvNeXt([1, 1, 2, 1], [8, 16, 24, 32], **options)


def res_net(**options):
    def blocks(x):
        x = resnet.stack_residual_blocks_v1(x, 8, 2, stride1=1, name="conv2")
        return resnet.stack_residual_blocks_v1(x, 16, 2, name="conv3")

    return resnet.ResNet(blocks, False, True, name="resnet", weights_name=None, **options)


def res_net_v2(**options):
    def blocks(x):
        x = resnet.stack_residual_blocks_v2(x, 8, 2, name="conv2")
        return resnet.stack_residual_blocks_v2(x, 16, 2, stride1=1, name="conv3")

    return resnet.ResNet(blocks, True, True, name="resnetv2", weights_name=None, **options)


FAST = {
    "MobileNet": (applications.MobileNet, 32, {"alpha": 0.25}),
    "ResNet": (res_net, 32, {}),
    "ConvNeXt": (conv_next, 32, {}),
}
SLOW = {
    "MobileNetV3Small": (applications.MobileNetV3Small, 32, {"alpha": 0.75}),
    "MobileNetV2": (applications.MobileNetV2, 32, {"alpha": 0.35}),
    "EfficientNet": (efficient_net, 32, {}),
    "EfficientNetV2": (efficient_net_v2, 32, {}),
    "ResNetV2": (res_net_v2, 32, {}),
    "DenseNet": (dense_net, 32, {}),
    "Xception": (applications.Xception, 71, {}),
    "InceptionV3": (applications.InceptionV3, 75, {}),
    "NASNet": (nas_net, 32, {}),
    "VGG16": (applications.VGG16, 32, {"include_top": False, "pooling": "avg"}),
}


@pytest.mark.parametrize(
    ("builder", "side", "options"),
    [
        *(pytest.param(*case, id=name) for name, case in FAST.items()),
        *(pytest.param(*case, id=name, marks=pytest.mark.slow) for name, case in SLOW.items()),
    ],
)
def test_a_family_of_keras_applications(builder, side, options):
    keras.utils.set_random_seed(0)
    shape = (side, side, 3)
    options = {"classes": 5, "classifier_activation": None, **options}
    model = builder(weights=None, input_shape=shape, **options)
    images = np.random.default_rng(0).uniform(size=(1, *shape)).astype("float32")

    twin = to_drop_connect(model, 0.0)
    healthy = to_numpy(model(images))
    # Filters of one channel each are computed in another way than by Keras.
    tolerance = 1e-5 if builder is conv_next else 0
    np.testing.assert_allclose(to_numpy(twin(images)), healthy, rtol=tolerance, atol=tolerance)

    layers = {layer.name: layer for layer in model._flatten_layers() if not layer._layers}
    matrices = {
        name
        for name, layer in layers.items()
        if any(len(weight.shape) > 1 for weight in layer.weights)
    }
    assert set(faulty_layers(twin)) == matrices
    assert not audit(twin).clean

    chip = Chip(StuckAtZero(0.3), seed=1)
    chip.program(twin)
    for name, fault in chip.faults(twin).items():
        layer, slot = name.rsplit("/", 1)
        kernel = getattr(layers[layer], slot)
        kernel.assign(to_numpy(kernel) * fault.mask)
        matrices.discard(layer)
    assert not matrices
    found, expected = to_numpy(twin(images)), to_numpy(model(images))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    assert (to_numpy(twin(images)) != healthy).any()
