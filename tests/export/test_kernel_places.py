import keras
import numpy as np
import pytest

from keras_rram import layers
from keras_rram.export import LiteRTModel, PatchableModel, UnmappableError, convert
from keras_rram.export.kernel_places import find_places
from keras_rram.export.kernels import kernels_of
from tests import export_models


def places_of(model, quantization="float32", calibration=None):
    return find_places(kernels_of(model), convert(model, quantization, calibration))


def drop_dense(units, name):
    return layers.DropConnectDense(units, drop_connect=0.2, name=name)


def drop_conv(filters, size, name, **options):
    return layers.DropConnectConv2D(filters, size, drop_connect=0.2, name=name, **options)


def folded_scale(model, norm):
    gamma, _, _, variance = (np.asarray(w) for w in model.get_layer(norm).get_weights())
    return gamma / np.sqrt(variance + model.get_layer(norm).epsilon)


def test_every_kernel_of_every_kind_has_one_place():
    for quantization in ("float32", "int8", "float16", "dynamic", "int16x8"):
        places = export_models.patchable(quantization).places
        assert set(places) == set(kernels_of(export_models.model()))
        assert {len(found) for found in places.values()} == {1}


def test_float_factor_is_the_folded_batch_normalization():
    model, places = export_models.model(), export_models.patchable("float32").places
    np.testing.assert_allclose(
        places["stem/kernel"][0].channel_factors,
        folded_scale(model, "batch_normalization"),
        rtol=1e-5,
    )
    # Folded into the part that the batch normalization follows, and only there.
    np.testing.assert_allclose(
        places["separable/pointwise_kernel"][0].channel_factors,
        folded_scale(model, "batch_normalization_3"),
        rtol=1e-5,
    )
    for name in ("separable/depthwise_kernel", "head/kernel", "multiplied/kernel"):
        np.testing.assert_allclose(places[name][0].channel_factors, 1, rtol=1e-5)


def test_int8_factor_joins_folding_and_step():
    model, place = (
        export_models.model(),
        export_models.patchable("int8").places["depthwise/kernel"][0],
    )
    scale = folded_scale(model, "batch_normalization_1")
    np.testing.assert_allclose(place.channel_factors * place.tensor.scales, scale, rtol=1e-4)


@pytest.mark.parametrize("name", ["depthwise/kernel", "grouped/kernel", "hidden/kernel"])
def test_restore_inverts_transpose(name):
    place = export_models.patchable("float32").places[name][0]
    values = place.kernel.values
    np.testing.assert_array_equal(place.restore(place.transpose(values)), values)
    held = place.restore(place.view(export_models.patchable("float32").tflite))
    np.testing.assert_allclose(
        held, values * place.restore(np.broadcast_to(place.factor, place.shape)), rtol=1e-5
    )


def test_channels_with_gamma_zero_hold_nothing():
    inputs = keras.Input((6, 6, 2))
    x = drop_conv(3, 3, "partly", use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    y = drop_conv(3, 3, "wholly", padding="same", use_bias=False)(x)
    y = keras.layers.BatchNormalization(gamma_initializer="zeros")(y)
    outputs = drop_dense(4, "head")(keras.layers.Flatten()(keras.layers.Add()([x, y])))
    model = keras.Model(inputs, outputs)
    model.get_layer("norm").gamma.assign([1.0, 0.0, -2.0])
    places = places_of(model)
    factors = places["partly/kernel"][0].channel_factors
    np.testing.assert_array_equal(np.sign(factors), [1, 0, -1])
    assert not places["wholly/kernel"][0].is_live


def test_a_layer_called_twice_has_two_places():
    inputs = keras.Input((6, 6, 2))
    shared = drop_conv(2, 3, "shared", padding="same", use_bias=False)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(shared(inputs)))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(shared(x)))
    model = keras.Model(inputs, drop_dense(4, "head")(keras.layers.Flatten()(x)))
    norms = [layer for layer in model.layers if "normalization" in layer.name]
    norms[0].gamma.assign([2.0, 3.0])
    norms[1].gamma.assign([5.0, -1.0])
    places = places_of(model)["shared/kernel"]
    factors = sorted(place.channel_factors.tolist() for place in places)
    np.testing.assert_allclose(factors, np.array([[2, 3], [5, -1]]) / np.sqrt(1.001), rtol=1e-5)
    # Faults go to both places.
    chip = export_models.chip()
    patcher = PatchableModel.convert(model, "float32")
    images = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype(np.float32)
    with chip.program(model):
        expected = model.predict_on_batch(images)
    outputs = LiteRTModel(patcher.patch(chip.faults(model))).predict(images)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_one_weight_for_each_channel_is_told_by_the_layers_name():
    # Any such kernel is any other times one factor for each channel.
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.ReLU()(drop_conv(6, 1, "first")(inputs))
    x = keras.layers.ReLU()(
        layers.DropConnectDepthwiseConv2D(1, drop_connect=0.2, name="second")(x)
    )
    x = keras.layers.ReLU()(layers.DropConnectDepthwiseConv2D(1, drop_connect=0.2, name="third")(x))
    model = keras.Model(inputs, drop_dense(3, "head")(keras.layers.Flatten()(x)))
    places = places_of(model)
    for name in ("first", "second", "third"):
        assert name in places[f"{name}/kernel"][0].tensor.name
        np.testing.assert_allclose(places[f"{name}/kernel"][0].channel_factors, 1, rtol=1e-6)


def test_equal_layers_are_refused_by_name():
    inputs = keras.Input((6, 6, 2))
    left, right = drop_conv(3, 3, "left"), drop_conv(3, 3, "right")
    x = keras.layers.Concatenate()([left(inputs), keras.layers.ReLU()(right(inputs))])
    model = keras.Model(inputs, drop_dense(4, "head")(keras.layers.Flatten()(x)))
    right.set_weights(left.get_weights())
    with pytest.raises(UnmappableError, match="right"):
        places_of(model)


def test_bytes_shared_after_quantization_are_refused():
    # One weight for each channel: both become 127, and the converter keeps one copy.
    inputs = keras.Input((4, 4, 6))
    x = inputs
    for name in ("second", "third"):
        layer = layers.DropConnectDepthwiseConv2D(
            1, drop_connect=0.2, name=name, depthwise_initializer="ones"
        )
        x = keras.layers.ReLU()(layer(x))
    model = keras.Model(inputs, drop_dense(3, "head")(keras.layers.Flatten()(x)))
    model.get_layer("third").kernels["kernel"].assign(np.full((1, 1, 6, 1), 2.0))
    images = np.random.default_rng(0).normal(size=(8, 4, 4, 6)).astype(np.float32)
    with pytest.raises(UnmappableError, match="third"):
        places_of(model, "int8", images)


def test_a_batch_normalization_that_is_folded_in_from_in_front_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("keras_rram.export.prepare.exposed_layers", lambda model: set())
    inputs = keras.Input((6,))
    x = drop_dense(4, "behind")(keras.layers.BatchNormalization()(inputs))
    model = keras.Model(inputs, keras.layers.BatchNormalization()(x))
    export_models.set_batch_norm(model)
    with pytest.raises(UnmappableError, match="Layer 'behind'.*folded"):
        places_of(model)


def test_a_file_of_another_model_is_refused():
    model = keras.Sequential([keras.Input((7,)), drop_dense(3, "only")])
    with pytest.raises(UnmappableError, match="'only'.*no weight tensor of 21 elements"):
        PatchableModel(model, export_models.patchable("float32").tflite).patch({})
    other = export_models.build()
    other.get_layer("head").kernels["kernel"].assign(np.ones((16, 10)))
    with pytest.raises(UnmappableError, match="'head'.*another model"):
        PatchableModel(other, export_models.patchable("int8").tflite).patch({})
