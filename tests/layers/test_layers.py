import inspect

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

from keras_rram import layers
from keras_rram.layers import DropConnectConv2D, DropConnectDense, faulty_layers, set_drop_rate
from keras_rram.layers.convolution import is_depthwise_convolution
from keras_rram.layers.drop_connect import DropConnect
from tests.helpers import (
    CASES,
    IMAGE,
    LayerCase,
    gradients,
    pair,
    skip_unsupported,
    tiny_images,
    tiny_model,
    to_numpy,
)

FIRST_OF_EACH_LAYER = list({case.values[0].twin: case for case in reversed(CASES)}.values())


@pytest.mark.parametrize("case", CASES)
def test_keras_layer_harness(case, drop_connect=0.3):
    skip_unsupported(case)
    # TensorFlow has neither XLA's nor half precision's channels_first convolutions on a CPU.
    TestCase().run_layer_test(
        case.twin,
        init_kwargs={**case.options, "drop_connect": drop_connect},
        input_shape=case.shape,
        run_training_check=not case.channels_first,
        run_mixed_precision_check=not case.channels_first,
    )


@pytest.mark.parametrize("case", FIRST_OF_EACH_LAYER)
def test_keras_layer_harness_without_drop_connect(case):
    test_keras_layer_harness(case, drop_connect=None)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [False, True])
def test_rate_zero_and_a_mask_of_ones_equal_the_plain_layer_exactly(case, training):
    twin, plain, inputs = pair(case)
    np.testing.assert_array_equal(
        to_numpy(twin(inputs, training=training)), to_numpy(plain(inputs))
    )
    for ours, theirs in zip(
        gradients(twin, inputs, training), gradients(plain, inputs, training), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("case", CASES)
def test_mask_and_offset_equal_a_plain_layer_with_that_kernel(case):
    twin, plain, inputs = pair(case)
    if "lora_rank" in case.options:
        pytest.skip("the plain layer's kernel is a sum of variables")
    rng = np.random.default_rng(3)
    twin.add_fault_offsets()
    for slot, mask in twin.fault_masks.items():
        values = rng.integers(0, 2, mask.shape).astype("float32")
        offset = (1 - values) * rng.normal(size=mask.shape).astype("float32")
        mask.assign(values)
        twin.fault_offsets[slot].assign(offset)
        variable = getattr(plain, f"_{slot}", getattr(plain, slot))
        variable.assign(to_numpy(variable) * values + offset)
    np.testing.assert_allclose(
        to_numpy(twin(inputs)), to_numpy(plain(inputs)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("multiplier", [1, 2])
def test_filters_of_one_channel_each_equal_the_grouped_convolution_of_keras(multiplier):
    """By another operation: not to the last bit, but on TensorFlow 25 times as fast."""
    options = {"filters": 4 * multiplier, "kernel_size": (5, 3), "groups": 4, "strides": 2}
    case = LayerCase(DropConnectConv2D, keras.layers.Conv2D, IMAGE, {**options, "padding": "same"})
    twin, plain, inputs = pair(case)
    assert is_depthwise_convolution(twin) and twin.kernel.shape == (5, 3, 1, 4 * multiplier)
    np.testing.assert_allclose(to_numpy(twin(inputs)), to_numpy(plain(inputs)), atol=1e-5)
    for ours, theirs in zip(
        gradients(twin, inputs, True), gradients(plain, inputs, True), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("twin", layers.CONVERTIBLE.values())
def test_the_only_new_argument_is_drop_connect(twin):
    parameters = inspect.signature(twin.__init__).parameters
    assert [name for name in parameters if name not in ("self", "args", "kwargs")] == [
        "drop_connect"
    ]


def test_dropped_weights_keep_their_value_and_have_no_gradient_in_that_step():
    layer = DropConnectDense(30, use_bias=False, drop_connect=DropConnect(0.3, seed=2))
    model = keras.Sequential([keras.Input((20,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = to_numpy(layer.kernel)
    # The layer's mask of the coming step, from a copy of its random state.
    state = keras.random.SeedGenerator(0)
    state.state.assign(layer.seed_generator.state)
    dropped = to_numpy(keras.random.uniform((20, 30), seed=state)) < np.float32(0.3)
    inputs = np.random.default_rng(0).normal(size=(8, 20)).astype("float32")
    model.fit(inputs, np.ones((8, 30), "float32"), epochs=1, verbose=0)
    after = to_numpy(layer.kernel)
    np.testing.assert_array_equal(after[dropped], before[dropped])
    assert (after[~dropped] != before[~dropped]).all()


def test_no_weight_is_lost_over_many_steps():
    layer = DropConnectDense(10, use_bias=False, drop_connect=0.3)
    model = keras.Sequential([keras.Input((10,)), layer])
    model.compile(keras.optimizers.SGD(0.001), "mse")
    model.fit(np.ones((64, 10)), np.ones((64, 10)), batch_size=1, verbose=0)
    assert (to_numpy(layer.kernel) != 0).all()


def test_every_training_step_draws_a_fresh_mask_and_inference_none():
    layer = DropConnectDense(20, use_bias=False, drop_connect=0.5, kernel_initializer="ones")
    inputs = np.eye(20, dtype="float32")
    first, second = (to_numpy(layer(inputs, training=True)) for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(to_numpy(layer(inputs)), np.ones((20, 20)))


def test_layers_that_share_a_seeded_drop_connect_draw_their_own_masks_replayably():
    def outputs():
        shared = DropConnect(0.5, seed=3)
        first, second = (DropConnectDense(9, drop_connect=shared, name=name) for name in "ab")
        eye = np.eye(9, dtype="float32")
        return [to_numpy(layer(eye, training=True)) != 0 for layer in (first, second)]

    one, again = outputs(), outputs()
    assert (one[0] != one[1]).any()
    np.testing.assert_array_equal(one, again)


def test_kernel_constraint_of_drop_connect_means_drop_connect():
    layer = DropConnectConv2D(4, 3, kernel_constraint=DropConnect(0.2))
    assert layer.drop_connect.rate == 0.2
    assert layer.kernel_constraint is None
    with pytest.raises(ValueError, match="two settings"):
        DropConnectConv2D(4, 3, kernel_constraint=DropConnect(0.2), drop_connect=0.3)


def test_another_kernel_constraint_keeps_its_keras_meaning():
    layer = DropConnectDense(5, drop_connect=0.2, kernel_constraint=keras.constraints.MaxNorm(0.1))
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 5)), np.ones((4, 5)), verbose=0)
    assert (np.linalg.norm(to_numpy(layer.kernel), axis=0) <= 0.1 + 1e-6).all()


def test_rate_changes_without_retracing():
    model = tiny_model(0.0)
    traces = []
    head = model.get_layer("head")
    original = type(head).call

    def counted(self, inputs, training=None):
        traces.append(training)
        return original(self, inputs, training=training)

    head.call = counted.__get__(head)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images, labels = tiny_images()
    model.fit(images, labels, verbose=0)
    traced = len(traces)
    set_drop_rate(model, 0.5)
    model.fit(images, labels, verbose=0)
    if keras.backend.backend() != "torch":
        assert len(traces) == traced
    assert float(to_numpy(head.drop_rate)) == 0.5


def test_set_drop_rate_refuses_a_model_without_drop_connect():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="has no Drop-Connect layer"):
        set_drop_rate(model, 0.1)


def test_faulty_layers_refuses_two_layers_of_one_name():
    class Twice(keras.Model):
        def __init__(self):
            super().__init__()
            self.a = DropConnectDense(3, drop_connect=0.1, name="same")
            self.b = DropConnectDense(3, drop_connect=0.1, name="same")

    with pytest.raises(ValueError, match="are named 'same'"):
        faulty_layers(Twice())


def test_keras_file_round_trip_with_a_mask_and_an_offset(tmp_path):
    model = tiny_model()
    rng = np.random.default_rng(0)
    for layer in faulty_layers(model).values():
        layer.add_fault_offsets()
        for slot, mask in layer.fault_masks.items():
            mask.assign(rng.integers(0, 2, mask.shape))
            layer.fault_offsets[slot].assign(rng.normal(size=mask.shape))
    set_drop_rate(model, 0.4)
    images, _ = tiny_images()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(images, verbose=0), loaded.predict(images, verbose=0)
    )
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs), err_msg=ours.path)

    model.save_weights(tmp_path / "model.weights.h5")
    fresh = keras.models.clone_model(model)
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(
        model.predict(images, verbose=0), fresh.predict(images, verbose=0)
    )


def test_without_drop_connect_the_weights_are_those_of_the_plain_layer():
    twin = keras.Sequential([keras.Input((3,)), DropConnectDense(2, name="dense")])
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    plain.set_weights(twin.get_weights())
    inputs = np.ones((1, 3), "float32")
    np.testing.assert_array_equal(to_numpy(twin(inputs)), to_numpy(plain(inputs)))


def test_works_in_a_subclassed_model():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = DropConnectDense(8, activation="relu", drop_connect=0.2)
            self.out = DropConnectDense(2, drop_connect=0.2)

        def call(self, inputs, training=None):
            return self.out(self.hidden(inputs, training=training), training=training)

    model = Subclassed()
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 2)), verbose=0)
    assert len(faulty_layers(model)) == 2


@pytest.mark.parametrize("jit_compile", [True, False])
def test_trains_with_and_without_xla(jit_compile):
    if keras.backend.backend() == "torch" and jit_compile:
        pytest.skip("torch.compile needs a C++ toolchain at run time")
    model = tiny_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=jit_compile)
    history = model.fit(*tiny_images(), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_mixed_precision_computes_in_half_and_stores_in_single():
    layer = DropConnectDense(4, drop_connect=0.2, dtype="mixed_float16")
    outputs = layer(np.ones((2, 3), "float32"), training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert {weight.dtype for weight in layer.weights} == {"float32"}


def test_quantize_refuses_instead_of_losing_the_faults():
    layer = DropConnectDense(4, drop_connect=0.2)
    layer.build((None, 3))
    with pytest.raises(NotImplementedError, match="bake"):
        layer.quantize("int8")


@pytest.mark.parametrize("value", ["0.2", [0.2], True])
def test_refuses_what_is_no_drop_connect(value):
    with pytest.raises(TypeError, match="`drop_connect` must be"):
        DropConnectDense(3, drop_connect=value)
