"""Recurrent and attention layers: their kernels are in parts, and used many times in a call."""

import inspect
from unittest import mock

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

from keras_rram import Chip, StuckAtZero, bake, faulty_layers, layers, to_drop_connect
from keras_rram.chips import audit
from keras_rram.evaluation import evaluate_population
from tests.helpers import gradients, to_numpy

SEQUENCES = (2, 5, 3)
MOVIES = (2, 3, 5, 4, 2)
BACKEND = keras.backend.backend()


def case(plain, shape=SEQUENCES, **options):
    twin = layers.CONVERTIBLE[plain]
    text = ",".join(f"{key}={value}" for key, value in options.items())
    return pytest.param(twin, plain, shape, options, id=f"{plain.__name__}({text})")


CASES = [
    case(keras.layers.SimpleRNN, units=4),
    case(keras.layers.LSTM, units=4, return_sequences=True),
    case(keras.layers.GRU, units=4, go_backwards=True),
    case(keras.layers.MultiHeadAttention, num_heads=2, key_dim=3),
    case(keras.layers.GroupQueryAttention, head_dim=3, num_query_heads=4, num_key_value_heads=2),
]
if BACKEND == "tensorflow":
    CASES += [
        case(keras.layers.SimpleRNN, units=4, use_bias=False, unroll=True),
        case(keras.layers.LSTM, units=4, implementation=1, use_cudnn=False),
        case(keras.layers.GRU, units=4, reset_after=False, return_sequences=True),
        case(keras.layers.ConvLSTM1D, MOVIES[:-1], filters=2, kernel_size=2),
        case(keras.layers.ConvLSTM2D, MOVIES, filters=2, kernel_size=2, padding="same"),
        case(keras.layers.ConvLSTM3D, (2, 2, 3, 3, 3, 2), filters=2, kernel_size=2),
        case(keras.layers.MultiHeadAttention, num_heads=2, key_dim=3, value_dim=4, output_shape=2),
    ]
cases = pytest.mark.parametrize(("twin", "plain", "shape", "options"), CASES)
FIRST = list({param.values[1]: param for param in reversed(CASES)}.values())
each_layer = pytest.mark.parametrize(("twin", "plain", "shape", "options"), FIRST)


def is_attention(layer):
    return isinstance(layer, keras.layers.MultiHeadAttention | keras.layers.GroupQueryAttention)


def model_of(layer, shape):
    inputs = keras.Input(shape[1:], batch_size=shape[0])
    outputs = layer(inputs, inputs) if is_attention(layer) else layer(inputs)
    return keras.Model(inputs, outputs)


def pair(twin, plain, shape, options, drop_connect=0.0):
    """Returns models of the twin and of the plain layer with equal weights, and an input."""
    rng = np.random.default_rng(0)
    ours = model_of(twin(**options, drop_connect=drop_connect, name="layer"), shape)
    theirs = model_of(plain(**options), shape)
    for new, old in zip(ours.trainable_weights, theirs.trainable_weights, strict=True):
        value = rng.normal(size=old.shape)
        old.assign(value)
        new.assign(value)
    return ours, theirs, rng.normal(size=shape).astype("float32")


def kernels_of(model):
    return model.get_layer("layer").kernels


@cases
@pytest.mark.parametrize("training", [False, True])
def test_rate_zero_and_a_mask_of_ones_equal_the_plain_layer_exactly(
    twin, plain, shape, options, training
):
    ours, theirs, inputs = pair(twin, plain, shape, options)
    np.testing.assert_array_equal(
        to_numpy(ours(inputs, training=training)), to_numpy(theirs(inputs, training=training))
    )
    for our, their in zip(
        gradients(ours, inputs, training), gradients(theirs, inputs, training), strict=True
    ):
        np.testing.assert_array_equal(our, their)


@cases
def test_mask_and_offset_equal_a_plain_layer_with_that_kernel(twin, plain, shape, options):
    ours, theirs, inputs = pair(twin, plain, shape, options)
    layer = ours.get_layer("layer")
    plain_kernels = twin.kernels_in(theirs.layers[-1])
    layer.add_fault_offsets()
    assert set(layer.fault_masks) == set(plain_kernels) == set(layer.kernel_slots)
    rng = np.random.default_rng(3)
    for slot, variable in plain_kernels.items():
        mask = rng.integers(0, 2, variable.shape).astype("float32")
        offset = (1 - mask) * rng.normal(size=mask.shape).astype("float32")
        layer.fault_masks[slot].assign(mask)
        layer.fault_offsets[slot].assign(offset)
        variable.assign(to_numpy(variable) * mask + offset)
    np.testing.assert_allclose(to_numpy(ours(inputs)), to_numpy(theirs(inputs)), atol=1e-5)
    parts = sum(np.prod(kernel.shape) for kernel in plain_kernels.values())
    assert [row.weights for row in audit(ours).rows] == [parts]
    assert [row.weights for row in audit(theirs).rows] == [parts]
    assert audit(theirs).clean == (theirs.layers[-1].name,)


@each_layer
def test_dropped_weights_have_no_gradient_though_used_in_every_step(twin, plain, shape, options):
    ours, _, inputs = pair(twin, plain, shape, options, drop_connect=0.5)
    state = keras.random.SeedGenerator(0)
    state.state.assign(ours.get_layer("layer").seed_generator.state)
    found = dict(
        zip(
            (weight.path for weight in ours.trainable_weights),
            gradients(ours, inputs, training=True),
            strict=False,
        )
    )
    for _ in range(2):  # `gradients` calls the model once before
        kept = {
            slot: to_numpy(keras.random.uniform(kernel.shape, seed=state)) >= 0.5
            for slot, kernel in kernels_of(ours).items()
        }
    for slot, kernel in kernels_of(ours).items():
        assert not found[kernel.path][~kept[slot]].any(), slot
    assert np.mean([(found[k.path] != 0).any() for k in kernels_of(ours).values()]) > 0.5


def test_one_mask_for_a_whole_sequence_by_hand():
    layer = layers.DropConnectSimpleRNN(
        4, activation=None, use_bias=False, return_sequences=True, drop_connect=0.4
    )
    inputs = np.random.default_rng(1).normal(size=(2, 6, 3)).astype("float32")
    layer.build(inputs.shape)
    state = keras.random.SeedGenerator(0)
    state.state.assign(layer.seed_generator.state)
    masks = {
        slot: to_numpy(keras.random.uniform(kernel.shape, seed=state)) >= np.float32(0.4)
        for slot, kernel in layer.kernels.items()
    }
    by_input, by_state = (to_numpy(layer.kernels[slot]) * masks[slot] for slot in masks)
    expected, hidden = [], np.zeros((2, 4), "float32")
    for step in range(inputs.shape[1]):
        hidden = inputs[:, step] @ by_input + hidden @ by_state
        expected.append(hidden)
    outputs = to_numpy(layer(inputs, training=True))
    np.testing.assert_allclose(outputs, np.stack(expected, axis=1), atol=1e-5)


@each_layer
def test_saved_and_loaded_with_a_chip(twin, plain, shape, options, tmp_path):
    ours, _, inputs = pair(twin, plain, shape, options, drop_connect=0.2)
    Chip(StuckAtZero(0.4), seed=2).program(ours)
    ours.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(inputs)), to_numpy(ours(inputs)))
    layer = loaded.get_layer("layer")
    assert layer.get_config() == ours.get_layer("layer").get_config()
    assert layer.drop_connect.rate == 0.2
    baked = bake(ours)
    assert type(baked.get_layer("layer")) is plain
    np.testing.assert_allclose(to_numpy(baked(inputs)), to_numpy(ours(inputs)), atol=1e-5)


@each_layer
def test_keras_layer_harness(twin, plain, shape, options):
    if BACKEND != "tensorflow":
        pytest.skip("a minute elsewhere")
    TestCase().run_layer_test(
        twin,
        init_kwargs={**options, "drop_connect": 0.3},
        input_shape={"query_shape": shape, "value_shape": shape}
        if is_attention(twin(**options))
        else shape,
        # That of Drop-Connect and, not counting attention's dropout layer, that of the cell.
        expected_num_seed_generators=1 if is_attention(twin(**options)) else 2,
        supports_masking=True,
        run_training_check=False,
        run_mixed_precision_check="ConvLSTM" not in plain.__name__,
    )


@each_layer
def test_call_and_build_take_the_arguments_of_the_plain_layer(twin, plain, shape, options):
    for method in ("call", "build"):
        ours, theirs = (inspect.signature(getattr(kind, method)) for kind in (twin, plain))
        assert list(ours.parameters) == list(theirs.parameters), method


@each_layer
def test_constraint_and_missing_drop_connect(twin, plain, shape, options):
    layer = twin(**options, kernel_constraint=layers.mixin.DropConnect(0.2))
    assert layer.drop_connect.rate == 0.2
    model = model_of(twin(**options), shape)
    assert not faulty_layers(model)
    assert len(model.weights) == len(model_of(plain(**options), shape).weights)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_fused_kernels_of_keras_get_the_effective_kernels(kind):
    """Those of cuDNN: a recurrent layer's own, and one for both directions."""
    ours, _, inputs = pair(*layer_classes(kind), SEQUENCES, {"units": 4, "return_sequences": True})
    Chip(StuckAtZero(0.5)).program(ours)
    layer = ours.get_layer("layer")
    expected = [to_numpy(layer.effective_kernel(slot)) for slot in layer.kernels]
    name = f"keras.src.backend.{kind.lower()}"
    with mock.patch(name, side_effect=NotImplementedError) as fused:
        outputs = to_numpy(layer(inputs))
    given = fused.call_args.kwargs
    for slot, kernel in zip(layer.kernels, expected, strict=True):
        np.testing.assert_array_equal(to_numpy(given[slot]), kernel)
    np.testing.assert_allclose(to_numpy(layer(inputs)), outputs, atol=1e-6)

    wrapper = keras.layers.Bidirectional(layers.CONVERTIBLE[layer_classes(kind)[1]](4))
    plain = keras.layers.Bidirectional(layer_classes(kind)[1](4))
    both = f"keras.src.backend.bidirectional_{kind.lower()}"
    for bidirectional, calls in ((wrapper, 1), (plain, 1)):
        bidirectional(inputs)
        with mock.patch(both, side_effect=NotImplementedError) as fused:
            bidirectional(inputs)
        assert fused.call_count == calls
    model = keras.Sequential([keras.Input(SEQUENCES[1:]), plain])
    converted = to_drop_connect(model, 0.2)
    with mock.patch(both, side_effect=NotImplementedError) as fused:
        converted(inputs)
    assert not fused.called


def layer_classes(kind):
    plain = getattr(keras.layers, kind)
    return layers.CONVERTIBLE[plain], plain


def test_low_rank_adaptation_of_attention_is_in_the_effective_kernel():
    twin, plain = layer_classes("MultiHeadAttention")
    ours, theirs, inputs = pair(twin, plain, SEQUENCES, {"num_heads": 2, "key_dim": 3})
    for model in (ours, theirs):
        dense = model.layers[-1].query_dense
        dense.enable_lora(1)
        dense.lora_kernel_a.assign(np.full(dense.lora_kernel_a.shape, 0.5))
        dense.lora_kernel_b.assign(np.full(dense.lora_kernel_b.shape, 0.25))
    np.testing.assert_array_equal(to_numpy(ours(inputs)), to_numpy(theirs(inputs)))
    ours.get_layer("layer").fault_masks["query_kernel"].assign(
        np.zeros(ours.get_layer("layer").fault_masks["query_kernel"].shape)
    )
    effective = ours.get_layer("layer").effective_kernel("query_kernel")
    assert not to_numpy(effective).any()


def test_masks_dropout_and_state_are_those_of_the_plain_layer():
    sequences = np.random.default_rng(0).normal(size=SEQUENCES).astype("float32")
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    twin, plain = layer_classes("LSTM")
    options = {"dropout": 0.5, "recurrent_dropout": 0.3, "seed": 5, "return_state": True}
    ours, theirs = twin(4, **options, drop_connect=0.0), plain(4, **options)
    for layer in (ours, theirs):
        layer.build(SEQUENCES)
    for new, old in zip(ours.trainable_weights, theirs.trainable_weights, strict=True):
        new.assign(old)
    for training in (False, True):
        for our, their in zip(
            ours(sequences, mask=mask, training=training),
            theirs(sequences, mask=mask, training=training),
            strict=True,
        ):
            np.testing.assert_array_equal(to_numpy(our), to_numpy(their))


def test_quantized_attention_refuses_instead_of_losing_the_faults():
    twin, plain = layer_classes("MultiHeadAttention")
    ours, _, inputs = pair(twin, plain, SEQUENCES, {"num_heads": 2, "key_dim": 3})
    ours.get_layer("layer").query_dense.quantize("int8")
    with pytest.raises(NotImplementedError, match="bake"):
        ours.get_layer("layer")(inputs, inputs)


def test_a_population_of_a_sequence_classifier(caplog):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 4))
    x = keras.layers.LSTM(6, return_sequences=True, name="lstm")(inputs)
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = to_drop_connect(keras.Model(inputs, keras.layers.Dense(3, name="head")(x)), 0.0)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(40, 6, 4)).astype("float32"), rng.integers(0, 3, 40)
    result = evaluate_population(model, StuckAtZero(0.4), data, chips=2, seed=3)
    for index, accuracy in enumerate(result.accuracies):
        with Chip(StuckAtZero(0.4), seed=3, index=index).program(model):
            right = to_numpy(model(data[0])).argmax(-1) == data[1]
        assert accuracy == pytest.approx(right.mean(), abs=0.026)
