"""Tests of `keras_rram.repair.patches`."""

import keras
import numpy as np
import pytest

from keras_rram import layers
from keras_rram.chips.unrolling import kernel_shape
from keras_rram.repair.patches import check_layer, from_matrices, matrices, patches, positions
from tests.helpers import to_numpy

IMAGE = (2, 7, 6, 4)
CASES = [
    (layers.DropConnectDense, (3, 5), {"units": 4}),
    (layers.DropConnectDense, (3, 2, 5), {"units": 4}),
    (layers.DropConnectConv1D, (2, 9, 4), {"filters": 6, "kernel_size": 3, "padding": "causal"}),
    (layers.DropConnectConv2D, IMAGE, {"filters": 6, "kernel_size": (3, 2), "strides": 2}),
    (layers.DropConnectConv2D, IMAGE, {"filters": 6, "kernel_size": 3, "padding": "same",
                                       "strides": 2}),
    (layers.DropConnectConv2D, IMAGE, {"filters": 6, "kernel_size": 3, "dilation_rate": 2,
                                       "padding": "same"}),
    (layers.DropConnectConv2D, IMAGE, {"filters": 6, "kernel_size": 2, "groups": 2}),
    (layers.DropConnectConv3D, (2, 5, 4, 3, 2), {"filters": 3, "kernel_size": 2}),
    (layers.DropConnectDepthwiseConv1D, (2, 9, 4), {"kernel_size": 3, "strides": 2}),
    (layers.DropConnectDepthwiseConv2D, IMAGE, {"kernel_size": 3, "depth_multiplier": 2,
                                                "padding": "same"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "shape", "options"), CASES, ids=str)
def test_products_with_the_matrices_are_what_the_layer_computes(kind, shape, options):
    layer = kind(**options, use_bias=False, drop_connect=0.1)
    inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected = to_numpy(layer(inputs))
    expected = expected.reshape(-1, expected.shape[-1])
    check_layer("it", layer)
    kernel = to_numpy(layer.kernels["kernel"])
    crossbar = kernel_shape(layer).crossbar
    weights = matrices(crossbar, kernel)
    np.testing.assert_array_equal(from_matrices(crossbar, weights), kernel)
    assert positions(layer, shape) == len(expected)
    chosen = np.random.default_rng(1).permutation(len(expected))[:20]
    found = np.einsum("ngr,grc->ngc", patches(layer, inputs, chosen), weights)
    np.testing.assert_allclose(
        found.reshape(len(chosen), -1), expected[chosen], rtol=1e-4, atol=1e-5
    )


def test_other_layers_are_refused():
    transposed = layers.DropConnectConv2DTranspose(2, 3, drop_connect=0.1)
    for layer in (transposed, layers.DropConnectLSTM(3, drop_connect=0.1)):
        with pytest.raises(ValueError, match="cannot unroll"):
            check_layer("it", layer)
    check_layer("it", keras.layers.Dense(2))
