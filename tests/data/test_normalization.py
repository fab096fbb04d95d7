import numpy as np
import pytest

from keras_rram import data
from keras_rram.data.normalization import KNOWN, Function, normalization

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 4, 5, 3), np.uint8)


def halves(samples):
    return samples / 2


def first(samples):
    return samples[:1]


def test_bytes_are_pixels_and_other_numbers_are_themselves():
    for samples, scale in ((PIXELS, 255), (PIXELS.astype(np.float64), 1), (PIXELS / 255, 1)):
        found = normalization("standard", samples)
        axes = (0, 1, 2)
        np.testing.assert_allclose(found.mean, (samples / scale).mean(axes), rtol=1e-12)
        np.testing.assert_allclose(found.std, (samples / scale).std(axes), rtol=1e-12)
        done = found(samples)
        assert done.dtype == np.float32
        expected = (PIXELS - PIXELS.mean(axes)) / PIXELS.std(axes)
        np.testing.assert_allclose(done, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(30, 6), (30, 7, 6), (30, 2, 3, 4, 6)])
def test_samples_of_any_rank_are_normalized_by_their_last_axis(shape):
    samples = RNG.normal(3, 2, shape)
    axes = tuple(range(len(shape) - 1))
    expected = (samples - samples.mean(axes)) / samples.std(axes)
    np.testing.assert_allclose(normalization("standard", samples)(samples), expected, atol=1e-5)


def test_a_description_is_enough_to_repeat_it():
    for which in ("standard", "mnist", f"{__name__}:halves"):
        found = normalization(which, PIXELS)
        # Other samples: the numbers are those of the training.
        assert normalization(found.describe(), PIXELS[:3]) == found
    assert normalization("none", PIXELS) is None and normalization({"name": "none"}, PIXELS) is None


def test_a_function_of_ones_own():
    found = normalization(f"{__name__}:halves", PIXELS)
    assert found == Function(f"{__name__}:halves")
    np.testing.assert_array_equal(found(PIXELS), PIXELS / 2)
    dataset = data.load("digits", normalize=f"{__name__}:halves")
    images, _ = dataset.arrays("test", 10)
    assert images.max() == 127.5
    assert next(dataset.batches(8, seed=0))[0].dtype == np.float64
    with pytest.raises(ValueError, match="one value of .* for each of 20 samples. Received: 1"):
        normalization(f"{__name__}:first", PIXELS)(PIXELS)


def test_channels_must_fit():
    with pytest.raises(ValueError, match="samples of 3 channels for the normalization cifar10"):
        normalization("cifar10", PIXELS[..., :1])
    assert normalization("mnist", PIXELS) is KNOWN["mnist"]


def test_no_samples_are_none():
    found = normalization("mnist", PIXELS[..., :1])
    assert found(np.zeros((0, 28, 28, 1), np.uint8)).shape == (0, 28, 28, 1)
