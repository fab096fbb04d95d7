"""Tests of `keras_rram.data.augmentation`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rram.data.augmentation import CropFlip


def _slow_crop_flip(image, padding, row, column, mirrored):
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    cropped = padded[row : row + height, column : column + width]
    return np.fliplr(cropped) if mirrored else cropped


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(1, 3),
    st.integers(0, 4),
    st.integers(0, 2**31),
)
def test_apply_equals_pad_crop_and_mirror_one_by_one(count, height, width, channels, padding, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    crop_flip = CropFlip(padding)
    draws = crop_flip.draw(count, rng)
    expected = [
        _slow_crop_flip(image, padding, *draw) for image, draw in zip(images, draws, strict=True)
    ]
    augmented = crop_flip.apply(images, draws)
    assert augmented.dtype == np.uint8
    np.testing.assert_array_equal(augmented, expected)


def test_apply_leaves_its_input_alone():
    images = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    before = images.copy()
    crop_flip = CropFlip(1)
    crop_flip.apply(images, crop_flip.draw(2, np.random.default_rng(0)))
    np.testing.assert_array_equal(images, before)


def test_draws_are_uniform_and_reproducible():
    draws = CropFlip(4).draw(90_000, np.random.default_rng(0))
    for column, values in enumerate((9, 9, 2)):
        counts = np.bincount(draws[:, column], minlength=values)
        assert len(counts) == values
        # Six standard deviations of a binomial count.
        expected = 90_000 / values
        assert np.abs(counts - expected).max() < 6 * expected**0.5
    again = CropFlip(4).draw(90_000, np.random.default_rng(0))
    np.testing.assert_array_equal(draws, again)


def test_without_flip_nothing_is_mirrored():
    assert CropFlip(4, flip=False).draw(1000, np.random.default_rng(0))[:, 2].max() == 0


@pytest.mark.parametrize(
    "arguments",
    [{"padding": -1}, {"padding": 1.5}, {"padding": True}, {"padding": 0, "flip": False}],
)
def test_bad_arguments_raise(arguments):
    with pytest.raises(ValueError, match=r"padding|None"):
        CropFlip(**arguments)


def test_bad_types_and_shapes_raise():
    with pytest.raises(TypeError, match="flip"):
        CropFlip(4, flip="yes")
    with pytest.raises(ValueError, match="draws"):
        CropFlip(4).apply(np.zeros((2, 4, 4, 1), np.uint8), np.zeros((3, 3), int))
