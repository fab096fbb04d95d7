import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, layers
from keras_rram.faults import Composed, RowFaults
from keras_rram.hardware.arrays import Analog, convert, to_analog
from keras_rram.layers import faulty_layers
from tests.helpers import tiny_images, tiny_model, to_numpy

ROWS = 4


def code(partial, limit, bits):
    """What a converter reads, in float64."""
    codes = 2 ** (bits - 1) - 1
    step = limit / codes
    return step * np.clip(np.round(partial / step), -codes, codes)


def windows(images, size):
    """Images (n, h, w, c) -> (n, h - size + 1, w - size + 1, size, size, c)."""
    found = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    return np.moveaxis(found, 3, 5)


def tiled(patches, matrix, limit, bits, rows=ROWS):
    """Sum over tiles of rows of the converted partial sums: patches (..., r), matrix (r, c)."""
    parts = range(0, len(matrix), rows)
    return sum(code(patches[..., i : i + rows] @ matrix[i : i + rows], limit, bits) for i in parts)


def largest(patches, matrix, rows=ROWS):
    parts = range(0, len(matrix), rows)
    return max(np.abs(patches[..., i : i + rows] @ matrix[i : i + rows]).max() for i in parts)


def integers(rng, shape, scale=1.0):
    """Small integers: all their sums of products are exact in float32."""
    return (rng.integers(-8, 9, shape) * scale).astype("float32")


def model_of(layer, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


def analog_of(layer, images, bits, **options):
    model = model_of(layer, images.shape[1:])
    for kernel in layer.kernels.values():
        kernel.assign(integers(np.random.default_rng(3), kernel.shape))
    analog = to_analog(model, Analog(bits, tile_rows=ROWS, **options), images)
    return model, analog, next(iter(faulty_layers(analog).values()))


@pytest.mark.parametrize("bits", [2, 4, 9])
def test_a_dense_layer_equals_numpy_exactly(bits):
    images = integers(np.random.default_rng(0), (5, 11))
    layer = layers.DropConnectDense(6, drop_connect=0.0, bias_initializer="ones")
    model, analog, twin = analog_of(layer, images, bits)
    chip = Chip(StuckAtZero(0.3), seed=1)
    kernel = to_numpy(layer.kernels["kernel"])
    limit = largest(images, kernel)
    assert to_numpy(twin.adc_ranges["kernel"]) == limit
    with chip.program(analog):
        found = to_numpy(analog(images))
    held = next(iter(chip.faults(model).values())).apply(kernel)
    # The steps of the converter are not exact in float32, its codes are.
    wanted = tiled(images.astype(float), held, np.float64(limit), bits) + 1
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-5)
    step = limit / (2 ** (bits - 1) - 1)
    np.testing.assert_array_equal(np.round((found - 1) / step), np.round((wanted - 1) / step))


@pytest.mark.parametrize("bits", [3, 6])
def test_a_convolution_equals_numpy(bits):
    images = integers(np.random.default_rng(0), (2, 6, 5, 3))
    layer = layers.DropConnectConv2D(4, 3, drop_connect=0.0)
    _, analog, _ = analog_of(layer, images, bits)
    matrix = to_numpy(layer.kernels["kernel"]).reshape(27, 4)
    patches = windows(images, 3).reshape(2, 4, 3, 27)
    wanted = tiled(patches.astype(float), matrix, largest(patches, matrix), bits)
    np.testing.assert_allclose(to_numpy(analog(images)), wanted, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("bits", [3, 6])
def test_a_depthwise_convolution_equals_numpy(bits):
    images = integers(np.random.default_rng(0), (2, 6, 5, 3))
    layer = layers.DropConnectDepthwiseConv2D(3, depth_multiplier=2, drop_connect=0.0)
    _, analog, twin = analog_of(layer, images, bits)
    # The block diagonal, as a user would write it: row = channel * 9 + place in the window.
    kernel = to_numpy(layer.kernels["kernel"])
    matrix = np.zeros((27, 6))
    for channel in range(3):
        block = kernel[:, :, channel].reshape(9, 2)
        matrix[9 * channel : 9 * channel + 9, 2 * channel : 2 * channel + 2] = block
    patches = np.moveaxis(windows(images, 3), -1, 3).reshape(2, 4, 3, 27)
    wanted = tiled(patches.astype(float), matrix, largest(patches, matrix), bits)
    np.testing.assert_allclose(to_numpy(analog(images)), wanted, rtol=1e-6, atol=1e-4)
    assert to_numpy(twin.adc_ranges["kernel"]) == largest(patches, matrix)


def test_exact_partial_sums_give_the_model_back():
    model = tiny_model()
    images, _ = tiny_images()
    chip = Chip(Composed((StuckAtZero(0.2), RowFaults(0.1, tile=(8, 8)))), seed=2)
    analog = to_analog(model, Analog(adc_bits=None, tile_rows=5))
    with chip.program(model), chip.program(analog):
        np.testing.assert_allclose(to_numpy(analog(images)), to_numpy(model(images)), atol=2e-6)
    np.testing.assert_allclose(to_numpy(analog(images)), to_numpy(model(images)), atol=2e-6)


def test_many_bits_come_close_and_few_do_not():
    model = tiny_model()
    images, _ = tiny_images()
    exact = to_numpy(model(images))

    def error(bits):
        analog = to_analog(model, Analog(bits, tile_rows=16), images)
        return np.abs(to_numpy(analog(images)) - exact).max()

    errors = [error(bits) for bits in (3, 8, 16)]
    assert errors[0] > 3 * errors[1] > 30 * errors[2]


def test_coverage_narrows_the_range():
    images = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
    layer = layers.DropConnectDense(3, drop_connect=0.0)
    model = model_of(layer, (8,))
    sums = np.abs(images @ to_numpy(layer.kernels["kernel"]))
    for coverage in (1.0, 0.9):
        (twin,) = faulty_layers(to_analog(model, Analog(8, 8, 0.0, coverage), images)).values()
        found = to_numpy(twin.adc_ranges["kernel"])
        np.testing.assert_allclose(found, np.quantile(sums, coverage), rtol=1e-5)


def test_read_noise_has_the_spread_of_noisy_weights():
    rng = np.random.default_rng(0)
    images = np.repeat(rng.normal(size=(1, 10)).astype("float32"), 4000, axis=0)
    layer = layers.DropConnectDense(2, drop_connect=0.0)
    model = model_of(layer, (10,))
    analog = to_analog(model, Analog(None, tile_rows=4, read_noise=0.05))
    errors = to_numpy(analog(images)) - to_numpy(model(images))
    kernel = to_numpy(layer.kernels["kernel"])
    spread = 0.05 * np.abs(kernel).max() * np.linalg.norm(images[0])
    # 8,000 draws: the standard error of a standard deviation is 0.8%.
    assert abs(errors.std() / spread - 1) < 0.04
    assert abs(errors.mean()) < 5 * spread / 8000**0.5
    assert abs(np.corrcoef(errors.T)[0, 1]) < 0.08
    assert np.abs(to_numpy(analog(images)) - to_numpy(analog(images))).max() > 0


def test_an_analog_model_is_saved_with_its_ranges(tmp_path):
    images, _ = tiny_images()
    analog = to_analog(tiny_model(), Analog(5, tile_rows=6), images)
    analog.save(tmp_path / "analog.keras")
    revived = keras.models.load_model(tmp_path / "analog.keras")
    np.testing.assert_array_equal(to_numpy(revived(images)), to_numpy(analog(images)))


def test_the_converter_keeps_zero_and_clips():
    found = to_numpy(convert(keras.ops.array([0.0, 0.2, -0.9, 5.0, -5.0]), 1.0, 3))
    np.testing.assert_allclose(found, [0, 1 / 3, -1, 1, -1], atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"adc_bits": 1}, {"adc_bits": 8.0}, {"tile_rows": 0}, {"read_noise": -1}, {"coverage": 0}],
)
def test_refuses_values_out_of_range(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Analog(**options)


def test_refuses_what_it_cannot_compute():
    with pytest.raises(ValueError, match="expected `images`"):
        to_analog(tiny_model())
    with pytest.raises(ValueError, match="no Drop-Connect layer"):
        to_analog(tiny_model(None), Analog(None))
