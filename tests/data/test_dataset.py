"""Tests of `keras_rram.data.dataset`."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rram.data.augmentation import CropFlip
from keras_rram.data.dataset import Dataset
from keras_rram.data.normalization import Normalization
from keras_rram.data.sources import load

PLAIN = Normalization("mine", (0.0,), (1.0,))


def _numbered(count=50, classes=5, channels=2, size=4, **kwargs):
    """Images whose first pixel is their number, so that a batch shows which images it has."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    labels = np.arange(count) % classes
    how = Normalization("mine", (0.4, 0.5)[:channels], (0.2, 0.25)[:channels])
    return Dataset("numbered", classes, how, images, labels, images[:20], labels[:20], **kwargs)


def _numbers(dataset, images):
    """Reads the numbers back from normalized images."""
    done = dataset.normalization
    return np.rint((images[:, 0, 0, 0] * done.std[0] + done.mean[0]) * 255).astype(int)


def _epochs(dataset, batch_size, epochs, **kwargs):
    steps = dataset.steps_per_epoch(batch_size)
    batches = list(itertools.islice(dataset.batches(batch_size, seed=3, **kwargs), steps * epochs))
    return [batches[start : start + steps] for start in range(0, len(batches), steps)]


def test_normalize_equals_the_formula():
    dataset = _numbered()
    expected = (dataset.train_images / 255.0 - np.array([0.4, 0.5])) / np.array([0.2, 0.25])
    normalized = dataset.normalize(dataset.train_images)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, expected, rtol=1e-5, atol=1e-6)
    images, labels = dataset.arrays("test")
    np.testing.assert_allclose(images, expected[:20], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, dataset.test_labels)


def test_arrays_are_read_only():
    dataset = _numbered()
    with pytest.raises(ValueError, match="read-only"):
        dataset.train_images[0] = 0


def test_a_limit_is_fixed_stratified_and_nested():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    dataset = Dataset("uneven", 3, PLAIN, images, labels, images, labels)
    small_images, small_labels = dataset.arrays("train", limit=10)
    np.testing.assert_array_equal(np.bincount(small_labels), [6, 3, 1])
    again, _ = dataset.arrays("train", limit=10)
    np.testing.assert_array_equal(small_images, again)
    large_images, _ = dataset.arrays("train", limit=50)
    np.testing.assert_array_equal(large_images[:10], small_images)
    assert len(np.unique(large_images)) == 50
    # Image i has label labels[i]: the pairs stay together.
    np.testing.assert_array_equal(
        labels[np.rint(small_images[:, 0, 0, 0] * 255).astype(int)], small_labels
    )


def test_subset_takes_the_same_images_as_a_limit():
    dataset = _numbered(augmentation=CropFlip(1))
    small = dataset.subset(train=20, test=5)
    np.testing.assert_array_equal(small.arrays("train")[0], dataset.arrays("train", limit=20)[0])
    np.testing.assert_array_equal(small.arrays("test")[1], dataset.arrays("test", limit=5)[1])
    assert small.augmentation == dataset.augmentation
    assert small.fingerprint != dataset.fingerprint
    assert len(dataset.subset(test=5).train_labels) == 50


def test_a_validation_split_is_fixed_stratified_and_apart_from_the_rest():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    dataset = Dataset("uneven", 3, PLAIN, images, labels, images[:5], labels[:5])
    split, again = dataset.split(0.2), dataset.split(20)
    assert split.fingerprint == again.fingerprint != dataset.fingerprint
    np.testing.assert_array_equal(np.bincount(split.validation_labels), [12, 6, 2])
    np.testing.assert_array_equal(np.bincount(split.train_labels), [48, 24, 8])
    kept, aside = (set(a[:, 0, 0, 0]) for a in (split.train_images, split.validation_images))
    assert not kept & aside and kept | aside == set(range(100))
    np.testing.assert_array_equal(labels[sorted(aside)], split.validation_labels)
    np.testing.assert_array_equal(split.test_images, dataset.test_images)
    found, found_labels = split.arrays("validation")
    np.testing.assert_array_equal(found, dataset.normalize(split.validation_images))
    np.testing.assert_array_equal(found_labels, split.validation_labels)
    # What a limit takes of the whole is not what is set aside.
    assert not set(dataset.subset(train=80).train_images[:, 0, 0, 0]) & aside
    # Training on a part keeps its validation images.
    np.testing.assert_array_equal(split.subset(train=10).validation_images, split.validation_images)
    for bad in (0, 100, 0.0, 1.5, True, "0.1"):
        with pytest.raises(ValueError, match="`validation` must"):
            dataset.split(bad)
    with pytest.raises(ValueError, match="20 set aside before"):
        split.split(5)
    with pytest.raises(ValueError, match="has no validation images"):
        dataset.arrays("validation")


def test_the_fingerprint_depends_on_content_only():
    dataset = _numbered()
    assert dataset.fingerprint == dataclasses.replace(dataset, name="other").fingerprint
    changed = dataset.train_images.copy()
    changed[7, 1, 1, 1] ^= 1
    others = [
        dataclasses.replace(dataset, train_images=changed),
        dataclasses.replace(dataset, augmentation=CropFlip()),
        dataclasses.replace(dataset, normalization=PLAIN),
        dataclasses.replace(dataset, normalization=None),
    ]
    assert len({dataset.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_an_epoch_has_every_image_at_most_once_with_its_label():
    dataset = _numbered(count=50)
    for epoch in _epochs(dataset, 8, 3):
        assert len(epoch) == 6
        numbers = np.concatenate([_numbers(dataset, images) for images, _ in epoch])
        labels = np.concatenate([labels for _, labels in epoch])
        assert len(set(numbers)) == 48
        np.testing.assert_array_equal(dataset.train_labels[numbers], labels)


def test_epochs_and_seeds_differ():
    dataset = _numbered()
    first, second = _epochs(dataset, 50, 2)
    assert not np.array_equal(first[0][0], second[0][0])
    other, _ = next(dataset.batches(50, seed=4))
    assert not np.array_equal(first[0][0], other)


@pytest.mark.parametrize("augmentation", [None, CropFlip(2)])
def test_an_epoch_depends_on_seed_and_number_alone(augmentation):
    dataset = _numbered(augmentation=augmentation)
    straight = _epochs(dataset, 16, 4)
    resumed = _epochs(dataset, 16, 2, first_epoch=2)
    for expected, received in zip(
        itertools.chain(*straight[2:]), itertools.chain(*resumed), strict=True
    ):
        np.testing.assert_array_equal(expected[0], received[0])
        np.testing.assert_array_equal(expected[1], received[1])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.booleans())
def test_the_shards_make_up_the_batches_of_a_single_process(count, part, augmented):
    dataset = _numbered(augmentation=CropFlip(1) if augmented else None)
    batch_size = count * part
    whole = _epochs(dataset, batch_size, 2)
    shards = [_epochs(dataset, batch_size, 2, shard=(index, count)) for index in range(count)]
    for epoch, parts in zip(whole, zip(*shards, strict=True), strict=True):
        for batch, pieces in zip(epoch, zip(*parts, strict=True), strict=True):
            for position in (0, 1):
                joined = np.concatenate([piece[position] for piece in pieces])
                np.testing.assert_array_equal(joined, batch[position])


def test_augmentation_is_applied_to_the_pixels_before_normalization():
    crop_flip = CropFlip(2)
    dataset = _numbered(augmentation=crop_flip)
    ((images, _),) = _epochs(dataset, 50, 1)[0]
    order = np.random.default_rng([3, 0, 0]).permutation(50)
    draws = crop_flip.draw(50, np.random.default_rng([3, 0, 1]))
    expected = crop_flip.apply(dataset.train_images[order], draws)
    np.testing.assert_array_equal(images, dataset.normalize(expected))


def test_augment_can_be_turned_off_and_insisted_on():
    plain = _numbered()
    augmented = _numbered(augmentation=CropFlip(2))
    expected, _ = next(plain.batches(16, seed=3))
    off, _ = next(augmented.batches(16, seed=3, augment=False))
    np.testing.assert_array_equal(off, expected)
    on, _ = next(augmented.batches(16, seed=3, augment=True))
    default, _ = next(augmented.batches(16, seed=3))
    np.testing.assert_array_equal(on, default)
    assert not np.array_equal(on, expected)
    with pytest.raises(ValueError, match="no augmentation"):
        plain.batches(16, seed=3, augment=True)


def test_as_tf_data_gives_the_same_batches():
    dataset = _numbered(augmentation=CropFlip(1))
    arguments = {"first_epoch": 1, "shard": (1, 2)}
    expected = itertools.islice(dataset.batches(16, 3, **arguments), 7)
    received = dataset.as_tf_data(16, 3, **arguments).take(7).as_numpy_iterator()
    for (images, labels), (tf_images, tf_labels) in zip(expected, received, strict=True):
        np.testing.assert_array_equal(images, tf_images)
        np.testing.assert_array_equal(labels, tf_labels)
    with pytest.raises(ValueError, match="batch_size=51"):
        dataset.as_tf_data(51, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 51}, "50 training images.*batch_size=51"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"first_epoch": -1}, "first_epoch"),
        ({"shard": (2, 2)}, "shard"),
        ({"shard": (0, 3)}, "multiple of the 3 shards"),
    ],
)
def test_bad_arguments_raise_before_the_first_batch(arguments, message):
    with pytest.raises(ValueError, match=message):
        _numbered().batches(**{"batch_size": 10, "seed": 0, **arguments})


def test_bad_splits_and_limits_raise():
    dataset = _numbered()
    with pytest.raises(ValueError, match="`split` must be one of"):
        dataset.arrays("development")
    with pytest.raises(ValueError, match="at most 20"):
        dataset.arrays("test", limit=21)
    with pytest.raises(ValueError, match="limit"):
        dataset.arrays("test", limit=0)


def test_images_as_in_training_are_augmented_the_same_way_each_time():
    """The oracle: every one is a window of the padded image, mirrored or not."""
    dataset = dataclasses.replace(load("digits").subset(train=20, test=10), normalization=None)
    dataset = dataclasses.replace(dataset, augmentation=CropFlip(1))
    found, labels = dataset.arrays("train", 12, augmented=True)
    raw, same = dataset.arrays("train", 12)
    assert np.array_equal(labels, same) and not np.array_equal(found, raw)
    assert np.array_equal(found, dataset.as_in_training(raw))
    for image, original in zip(found, raw, strict=True):
        padded = np.pad(original, ((1, 1), (1, 1), (0, 0)))
        windows = [padded[i : i + 28, j : j + 28] for i in range(3) for j in range(3)]
        assert any(np.array_equal(image, one[:, ::step]) for one in windows for step in (1, -1))
    plain = dataclasses.replace(dataset, augmentation=None)
    assert np.array_equal(plain.arrays("train", 12, augmented=True)[0], raw)
