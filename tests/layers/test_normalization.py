"""Tests of `keras_rram.layers.normalization`: plain Keras is the oracle."""

import keras
import numpy as np
import pytest

import keras_rram
from keras_rram.layers import fused_statistics
from keras_rram.layers.fused_statistics import neighbours_in_view
from keras_rram.layers.normalization import FusedBatchNormalization, can_fuse, normalize_by_batch
from tests.helpers import gradients, to_numpy

IMAGES = (6, 5, 4, 3)
# Neighbouring pixels are taken together: 16, 4 and 2 of them; in the last, one image alone.
VIEWED = ((3, 16, 32, 13), (5, 8, 8, 12), (1, 4, 16, 24))
CASES = [
    (IMAGES, {}),
    (IMAGES, {"momentum": 0.9, "epsilon": 1e-5}),
    (IMAGES, {"scale": False}),
    (IMAGES, {"center": False}),
    (IMAGES, {"scale": False, "center": False, "axis": 3}),
    (IMAGES, {"axis": 1}),
    (IMAGES, {"dtype": "mixed_bfloat16"}),
    (IMAGES, {"dtype": "float64"}),
    (IMAGES, {"trainable": False}),
    (IMAGES, {"gamma_regularizer": "l2"}),
    ((1, 1, 1, 3), {}),
    ((16, 3), {}),
    ((4, 7, 3), {}),
    *((shape, options) for shape in VIEWED for options in ({}, {"scale": False, "epsilon": 0.1})),
    (VIEWED[0], {"dtype": "mixed_bfloat16"}),
]
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def data(shape, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, size=shape).astype("float32")


def pair(shape, options):
    plain = keras.layers.BatchNormalization(**options)
    fused = FusedBatchNormalization(**options)
    rng = np.random.default_rng(1)
    for layer in (plain, fused):
        layer.build(shape)
    values = [rng.uniform(0.5, 2, size=weight.shape) for weight in plain.weights]
    plain.set_weights(values)
    fused.set_weights(values)
    return plain, fused


def assert_alike(found, expected, tolerance=2e-5):
    for one, other in zip(found, expected, strict=True):
        assert to_numpy(one).dtype == to_numpy(other).dtype
        one, other = np.float64(to_numpy(one)), np.float64(to_numpy(other))
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_equals_keras_over_several_steps(shape, options):
    plain, fused = pair(shape, options)
    tolerance = 1e-2 if "bfloat16" in str(options) else 2e-5
    for step in range(4):
        inputs = data(shape, step)
        outputs = [layer(inputs, training=True) for layer in (fused, plain)]
        assert_alike(outputs[:1], outputs[1:], tolerance)
        assert_alike(fused.weights, plain.weights)
    outputs = [layer(data(shape, 9), training=False) for layer in (fused, plain)]
    assert_alike(outputs[:1], outputs[1:], tolerance)


class Training(keras.layers.Layer):
    """Calls a layer in one mode, for `gradients`."""

    def __init__(self, layer, training):
        super().__init__()
        self.layer, self.training = layer, training
        self.built = True

    def call(self, inputs):
        return self.layer(inputs, training=self.training)


@pytest.mark.parametrize("shape", [IMAGES, *VIEWED])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "epsilon": 0.1}])
def test_gradients_equal_those_of_keras(options, training, shape):
    plain, fused = pair(shape, options)
    expected = gradients(Training(plain, training), data(shape), training=training)
    found = gradients(Training(fused, training), data(shape), training=training)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "neighbours"),
    [
        ((None, 32, 32, 64), 1),
        ((None, 32, 32, 78), 8),
        ((None, 16, 16, 13), 16),
        ((None, 16, 16, 24), 2),
        ((None, 17, 17, 24), 1),  # pixels in no pairs
        ((None, 2, 2, 24), 1),  # too few for it to pay
        ((None, None, 32, 78), 1),
    ],
)
def test_neighbours_make_channels_a_multiple_of_16(shape, neighbours):
    assert neighbours_in_view(shape) == neighbours


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the operation is TensorFlow's")
@pytest.mark.parametrize("shape", [IMAGES, *VIEWED])
@pytest.mark.parametrize("is_by_onednn", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_neighbours_are_taken_together_in_training_alone(
    training, is_by_onednn, shape, monkeypatch
):
    """A reshape before the operation would keep converters from folding it into a convolution."""
    import tensorflow as tf

    monkeypatch.setattr(fused_statistics, "_is_by_onednn", lambda: is_by_onednn)
    layer = FusedBatchNormalization()
    layer.build(shape)
    run = tf.function(lambda x: layer(x, training=training), autograph=False)
    graph = run.get_concrete_function(tf.TensorSpec(shape)).graph
    is_viewed = "Reshape" in {operation.type for operation in graph.get_operations()}
    assert is_viewed == (training and is_by_onednn and shape in VIEWED)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the operation is TensorFlow's")
def test_a_gpu_or_another_processor_takes_no_detour(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(fused_statistics.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    assert fused_statistics._is_by_onednn()
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert not fused_statistics._is_by_onednn()
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    monkeypatch.setattr(fused_statistics.platform, "machine", lambda: "arm64")
    assert not fused_statistics._is_by_onednn()


def test_moving_variance_is_not_corrected():
    layer = FusedBatchNormalization(momentum=0.75)
    images = data((2, 2, 1, 3))
    layer(images, training=True)
    expected = 0.75 + 0.25 * np.float64(images).var((0, 1, 2))
    np.testing.assert_allclose(to_numpy(layer.moving_variance), expected, rtol=1e-5)


def test_masks_are_left_to_keras():
    shape = (3, 4, 2, 3)
    mask = np.random.default_rng(2).random(shape[:3]) < 0.5
    plain, fused = pair(shape, {})
    outputs = [layer(data(shape), training=True, mask=mask) for layer in (fused, plain)]
    assert_alike(outputs[:1], outputs[1:])
    assert_alike(fused.weights, plain.weights)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the operation is TensorFlow's")
def test_the_operation_is_used_on_images_and_nowhere_else():
    import tensorflow as tf

    def operations(shape, **options):
        layer = FusedBatchNormalization(**options)
        layer.build(shape)
        run = tf.function(lambda x: layer(x, training=True), autograph=False)
        graph = run.get_concrete_function(tf.TensorSpec([None, *shape[1:]])).graph
        return {operation.type for operation in graph.get_operations()}

    assert "FusedBatchNormV3" in operations(IMAGES)
    assert "FusedBatchNormV3" not in operations((16, 3))
    assert "FusedBatchNormV3" not in operations(IMAGES, axis=2)
    assert "FusedBatchNormV3" not in operations(IMAGES, synchronized=True)


def test_other_backends_never_fuse():
    layer = FusedBatchNormalization()
    layer.build(IMAGES)
    assert can_fuse(layer, data(IMAGES)) == ON_TENSORFLOW


@pytest.mark.parametrize("kind", [FusedBatchNormalization, keras.layers.BatchNormalization])
@pytest.mark.parametrize("shape", [IMAGES, VIEWED[0], (16, 3)])
def test_normalize_by_batch_is_training_without_the_update(kind, shape):
    layer = kind()
    layer.build(shape)
    before = layer.get_weights()
    outputs, mean, variance = normalize_by_batch(layer, data(shape))
    assert_alike([outputs], [keras.layers.BatchNormalization()(data(shape), training=True)])
    axes = tuple(range(len(shape) - 1))
    assert_alike([mean, variance], [data(shape).mean(axes), data(shape).var(axes)])
    for one, other in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def network(kind):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 5, 2)),
            keras.layers.Conv2D(4, 3, use_bias=False, name="conv"),
            kind(momentum=0.8, name="norm"),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, name="head"),
        ]
    )


def trained(kind):
    model = network(kind)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    labels = np.random.default_rng(3).integers(0, 3, 48)
    model.fit(data((48, 6, 5, 2)), labels, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return model


def test_training_equals_keras_and_repeats_exactly():
    fused, again = trained(FusedBatchNormalization), trained(FusedBatchNormalization)
    for one, other in zip(fused.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    plain = trained(keras.layers.BatchNormalization)
    for one, other in zip(fused.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_saved_models_and_exchanged_weights(tmp_path):
    fused, plain = trained(FusedBatchNormalization), network(keras.layers.BatchNormalization)
    images = data((4, 6, 5, 2))
    expected = to_numpy(fused(images))
    fused.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("norm")) is FusedBatchNormalization
    assert loaded.get_layer("norm").momentum == 0.8
    np.testing.assert_allclose(to_numpy(loaded(images)), expected, rtol=1e-6)
    plain.set_weights(fused.get_weights())
    np.testing.assert_allclose(to_numpy(plain(images)), expected, rtol=1e-4, atol=1e-5)


def test_baked_models_hold_the_keras_layer():
    fused = trained(FusedBatchNormalization)
    baked = keras_rram.bake(keras_rram.to_drop_connect(fused, 0.0))
    assert type(baked.get_layer("norm")) is keras.layers.BatchNormalization
    images = data((4, 6, 5, 2))
    np.testing.assert_allclose(
        to_numpy(baked(images)), to_numpy(fused(images)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.skipif(not ON_TENSORFLOW, reason="only the TensorFlow backend exports")
def test_the_converter_folds_it_into_the_convolution():
    from keras_rram.export.convert import convert
    from keras_rram.export.litert_model import LiteRTModel
    from keras_rram.export.reading import summarize

    fused, plain = trained(FusedBatchNormalization), network(keras.layers.BatchNormalization)
    plain.set_weights(fused.get_weights())
    files = [convert(model, "float32") for model in (fused, plain)]
    found, expected = (dict(summarize(file).operators) for file in files)
    assert found == expected
    assert not {"MUL", "SUB", "RSQRT"} & set(found)
    images = data((4, 6, 5, 2))
    outputs = LiteRTModel(files[0]).predict(images)
    np.testing.assert_allclose(outputs, to_numpy(fused(images)), rtol=1e-4, atol=1e-5)
