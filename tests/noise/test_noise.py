"""Noise in training and in reads, against numpy fed with the same draws."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_rram
from keras_rram import Chip, DropConnect, NoiseInjection, StuckAtZero, WeightNoise, read_noise
from keras_rram.faults import (
    BitSlices,
    CentredPair,
    Composed,
    DifferentialPair,
    Drift,
    Fault,
    FiniteOnOff,
    LognormalVariation,
    ReferenceColumn,
    RowFaults,
    SameCells,
    StuckAtValues,
    StuckCells,
)
from keras_rram.faults.composed import in_turn
from keras_rram.layers import DropConnectDense
from keras_rram.noise.cells import on_cells
from tests.helpers import tiny_images, tiny_model, to_numpy

SEED = 11
MAPPINGS = [DifferentialPair(), CentredPair(g_min=0.0), ReferenceColumn(g_max=5e-5)]


@pytest.fixture(scope="module")
def kernel():
    kernel = np.random.default_rng(0).normal(size=(40, 30)).astype("float32")
    kernel[0] = 0.0
    return kernel


def uniform(shape, generator):
    return to_numpy(keras.random.uniform(shape, seed=generator))


def normal(shape, generator):
    return to_numpy(keras.random.normal(shape, seed=generator))


def stuck(model, shape, generator):
    draws = uniform(shape, generator)
    off, on = draws < model.stuck_off, (draws >= model.stuck_off) & (draws < model.rate)
    low = model.mapping.g_min if model.off_conductance is None else model.off_conductance
    return (~(off | on)).astype("float32"), np.float32(low) * off + model.mapping.g_max * on


def values(model, shape, generator):
    broken = uniform(shape, generator) < model.rate
    chosen = keras.random.randint(shape, 0, len(model.values), seed=generator)
    return (~broken).astype("float32"), np.array(model.values)[to_numpy(chosen)] * broken


def lognormal(model, shape, generator):
    return np.exp(model.sigma * normal(shape, generator)), np.zeros(shape)


def drift(model, shape, generator):
    exponents = model.nu + model.nu_sd * normal(shape, generator)
    return (model.seconds / model.start) ** -exponents, np.zeros(shape)


CASES = [
    (StuckCells(0.1, 0.05), stuck),
    (StuckCells(0.1, 0.05, off_conductance=0.0), stuck),
    (StuckAtValues(0.2, values=(0.0, 3e-5, 2e-4)), values),
    (LognormalVariation(0.3), lognormal),
    (Drift(1e5, nu=0.05, nu_sd=0.02), drift),
]


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize(
    ("model", "draw"), CASES, ids=["stuck", "open", "values", "lognormal", "drift"]
)
def test_cells_in_a_step_equal_numpy_with_the_same_draws(kernel, model, draw, mapping):
    model = type(model)(**{**model.__dict__, "mapping": mapping})
    found = on_cells(model, kernel, keras.random.SeedGenerator(SEED), kernel).apply(kernel)
    shape = (mapping.cells_per_weight, *kernel.shape)
    gain, offset = draw(model, shape, keras.random.SeedGenerator(SEED))
    fault = mapping.fault(kernel, gain.astype("float32"), offset.astype("float32"))
    expected = kernel * fault.mask + fault.offset
    np.testing.assert_allclose(to_numpy(found), expected, atol=2e-6 * np.abs(kernel).max())
    assert np.abs(to_numpy(found) - kernel).max() > 0.1


def test_a_floor_of_conductances_draws_nothing(kernel):
    model = FiniteOnOff(8.0, mapping=DifferentialPair(g_min=0.0))
    fault = model.sample(kernel.shape, np.random.default_rng(0), kernel)
    found = on_cells(model, kernel, keras.random.SeedGenerator(SEED), kernel).apply(kernel)
    np.testing.assert_allclose(to_numpy(found), kernel * fault.mask + fault.offset, atol=2e-6)


def test_the_same_cells_vary_and_then_are_stuck(kernel):
    """A stuck cell no longer varies, and the mean of the others' logarithms is zero."""
    mapping = ReferenceColumn()
    parts = (LognormalVariation(0.2, mapping=mapping), StuckCells(0.3, mapping=mapping))
    fault = on_cells(SameCells(parts), kernel, keras.random.SeedGenerator(1), kernel)
    found = to_numpy(fault.apply(kernel))
    scale = np.abs(kernel).max()
    off = np.isclose(found, -scale, atol=1e-5)
    assert abs(off.mean() - 0.3) < 4 * (0.21 / off.size) ** 0.5
    healthy = mapping.conductances(found[~off], np.float32(scale))
    ratio = np.log(healthy / mapping.conductances(kernel[~off], np.float32(scale)))
    assert abs(ratio.std() / 0.2 - 1) < 0.08
    assert abs(ratio.mean()) < 0.03


@pytest.mark.parametrize(
    "model", [StuckCells(0.0, 0.0), LognormalVariation(0.0)], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda one: type(one).__name__)
def test_no_fault_is_the_kernel(kernel, model, mapping):
    model = type(model)(**{**model.__dict__, "mapping": mapping})
    found = on_cells(model, kernel, keras.random.SeedGenerator(SEED), kernel).apply(kernel)
    np.testing.assert_array_equal(to_numpy(found), kernel)
    zeros = np.zeros((3, 2), "float32")
    found = on_cells(model, zeros, None, zeros).apply(zeros)
    np.testing.assert_array_equal(to_numpy(found), zeros)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="takes a gradient tape")
@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda one: type(one).__name__)
def test_the_gradient_is_the_mask(kernel, mapping):
    import tensorflow as tf

    model = StuckCells(0.2, 0.1, mapping=mapping)
    weights = tf.Variable(kernel[1:])
    with tf.GradientTape() as tape:
        generator = keras.random.SeedGenerator(SEED)
        found = on_cells(model, weights, generator, weights).apply(weights)
    gain, offset = stuck(
        model, (mapping.cells_per_weight, *weights.shape), keras.random.SeedGenerator(SEED)
    )
    fault = mapping.fault(kernel[1:], gain, offset.astype("float32"))
    np.testing.assert_allclose(tape.gradient(found, weights).numpy(), fault.mask, atol=1e-6)


def dense(noise, rate=0.0, units=50):
    layer = DropConnectDense(
        units, use_bias=False, drop_connect=DropConnect(rate, seed=3, noise=noise)
    )
    layer.build((None, 60))
    return layer


def weights_seen(layer, training=True):
    return to_numpy(layer(np.eye(60, dtype="float32"), training=training))


def test_weight_noise_has_its_spread_and_is_fresh_in_each_step():
    layer = dense(WeightNoise(0.1))
    kernel = to_numpy(layer.kernels["kernel"])
    first, second = (weights_seen(layer) - kernel for _ in range(2))
    sigma = 0.1 * np.abs(kernel).max()
    # 3,000 draws: the standard error of a standard deviation is 1.3%.
    assert abs(first.std() / sigma - 1) < 0.06
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.08
    np.testing.assert_allclose(weights_seen(layer, training=False), kernel, rtol=1e-6)


@pytest.mark.parametrize(
    ("noise", "rate", "lost"),
    [("stuck_at_zero:rate=0.3", 0.2, 0.44), ("differential_pair:stuck_off=0.3", 0.2, 0.44)],
)
def test_injection_joins_drop_connect(noise, rate, lost):
    layer = dense(NoiseInjection(noise), rate)
    kernel = to_numpy(layer.kernels["kernel"])
    for _ in range(3):
        seen = weights_seen(layer)
        zero = np.isclose(seen, 0, atol=1e-7)
        assert abs(zero.mean() - lost) < 4 * (lost * (1 - lost) / seen.size) ** 0.5
        np.testing.assert_allclose(seen[~zero], kernel[~zero], rtol=1e-4, atol=1e-7)


COMPOSED = [
    Composed((StuckAtZero(0.4), LognormalVariation(0.2))),
    Composed((LognormalVariation(0.5), StuckCells(0.2, 0.1))),
    Composed((StuckCells(0.1, 0.2), LognormalVariation(0.3, mapping="centred_pair"))),
]


@pytest.mark.parametrize(
    "composed", COMPOSED, ids=["lost, varied", "varied, stuck", "stuck, varied"]
)
def test_a_composition_in_a_step_is_its_parts_as_chips_join_them(kernel, composed):
    """Each part sees the kernel as stored, and the same rule joins them, with the same draws."""
    generator = keras.random.SeedGenerator(SEED)
    parts = []
    for model in composed.models:
        if isinstance(model, StuckAtZero):
            kept = uniform(kernel.shape, generator) >= np.float32(model.rate)
            parts.append(Fault(kept.astype("float32")))
            continue
        draw = stuck if isinstance(model, StuckCells) else lognormal
        shape = (model.mapping.cells_per_weight, *kernel.shape)
        gain, offset = (one.astype("float32") for one in draw(model, shape, generator))
        parts.append(model.mapping.fault(kernel, gain, offset))
    expected = in_turn(parts).apply(kernel)
    found = NoiseInjection(composed)(
        ops.convert_to_tensor(kernel), keras.random.SeedGenerator(SEED)
    )
    np.testing.assert_allclose(to_numpy(found), expected, atol=1e-5 * np.abs(kernel).max())
    # Beyond the range of the stored kernel, which is no clip for what varies.
    if composed is not COMPOSED[0]:
        assert np.abs(expected).max() > np.abs(kernel).max()


def test_a_lost_weight_of_a_composition_does_not_vary_in_a_step():
    layer = dense(NoiseInjection(COMPOSED[0]))
    seen, kernel = weights_seen(layer), to_numpy(layer.kernels["kernel"])
    lost = seen == 0
    assert abs(lost.mean() - 0.4) < 4 * (0.24 / seen.size) ** 0.5
    assert (seen[~lost] != kernel[~lost]).mean() > 0.99


def test_models_with_injection_train_and_are_saved(tmp_path):
    noise = NoiseInjection("differential_pair:stuck_off=0.05,stuck_on=0.01")
    model = tiny_model(DropConnect(0.1, noise=noise))
    images, labels = tiny_images()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(images, labels, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    model.save(tmp_path / "model.keras")
    revived = keras.models.load_model(tmp_path / "model.keras")
    (layer, *_) = keras_rram.faulty_layers(revived).values()
    assert layer.drop_connect.noise.fault_model == noise.fault_model
    np.testing.assert_array_equal(to_numpy(revived(images)), to_numpy(model(images)))


@pytest.mark.parametrize(
    "model",
    [
        RowFaults(0.1),
        StuckAtZero(0.1, exact=True),
        StuckCells(0.1, mapping=BitSlices(2)),
        StuckCells(0.1, mapping=DifferentialPair(scaling="channel")),
        Composed((StuckAtZero(0.1), RowFaults(0.1))),
    ],
    ids=["rows", "exact", "slices", "channels", "composed"],
)
def test_what_no_step_can_draw_names_the_way_out(model):
    with pytest.raises(ValueError, match="FreshChips"):
        NoiseInjection(model)


def test_read_noise_is_fresh_replayed_and_undone():
    model = tiny_model()
    images, _ = tiny_images()
    clean = to_numpy(model(images))

    def reads(seed):
        with Chip(StuckAtZero(0.1)).program(model), read_noise(model, 0.1, seed):
            return [to_numpy(model(images)) for _ in range(2)]

    first, second = reads(1), reads(1)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first[0] - first[1]).max() > 0
    assert np.abs(first[0] - reads(2)[0]).max() > 0
    np.testing.assert_array_equal(to_numpy(model(images)), clean)
    with (
        pytest.raises(ValueError, match="no Drop-Connect layer"),
        read_noise(tiny_model(None), 0.1),
    ):
        pass
