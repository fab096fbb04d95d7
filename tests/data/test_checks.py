import keras
import numpy as np
import pytest

from keras_rram.data import check_images, check_labels


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((None, 4, 1))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))


def test_images_that_fit_come_back_as_float32(model):
    images = np.random.default_rng(0).normal(size=(3, 5, 4, 1))
    found = check_images(model, images)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, images.astype(np.float32))
    assert check_images(model, found) is found
    assert check_images(keras.layers.Flatten(), images).shape == images.shape


def test_samples_of_any_type_and_rank_go_in_as_keras_takes_them(model):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 5, 4, 1), np.uint8)
    for images in (pixels, pixels[..., 0], pixels[..., None], pixels.astype(np.float64)):
        found = check_images(model, images)
        assert found.dtype == np.float32 and found.shape == pixels.shape
        np.testing.assert_allclose(model(found), model(images), rtol=1e-6)
    inputs = keras.Input((6,), dtype="int32")
    tokens = keras.Model(inputs, keras.layers.Embedding(50, 2)(inputs))
    words = rng.integers(0, 50, (4, 6))
    assert check_images(tokens, words).dtype == np.int32
    np.testing.assert_array_equal(check_images(tokens, words), words)
    two = keras.Model([inputs, keras.Input((6,))], keras.layers.Flatten()(inputs))
    with pytest.raises(ValueError, match="a model with one input.*2"):
        check_images(two, words)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.ones((3, 5)), r"`mine` must be .*\('n', None, 4, 1\).*\(3, 5\)"),
        (np.ones((3, 5, 3, 1)), r"\(3, 5, 3, 1\)"),
        (np.ones((0, 5, 4, 1)), "non-empty"),
        (np.ones((3, 5, 4, 1), str), "`mine` must be numbers"),
        (np.full((3, 5, 4, 1), np.nan), "`mine` must be finite"),
    ],
)
def test_images_that_do_not_fit_are_refused(model, images, message):
    with pytest.raises(ValueError, match=message):
        check_images(model, images, "mine")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"3 integers, one for each image.*\(2,\)"),
        (np.eye(3, dtype=int), "argmax"),
        ([0.0, 1.0, 2.0], "float64"),
        ([0, -1, 2], "from 0. Received: -1"),
    ],
)
def test_labels_are_one_class_for_each_image(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels, 3)
    assert check_labels([0, 2, 1], 3).tolist() == [0, 2, 1]
