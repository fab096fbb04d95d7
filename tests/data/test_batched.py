import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_rram.data import as_arrays

IMAGES = np.random.default_rng(0).normal(size=(10, 3, 2)).astype(np.float32)
LABELS = np.arange(10) % 3


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        chosen = slice(3 * index, 3 * index + 3)
        return IMAGES[chosen], LABELS[chosen]


PAIRS = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))


@pytest.mark.parametrize(
    "given",
    [
        (IMAGES, LABELS),
        [IMAGES.tolist(), LABELS.tolist()],
        PAIRS,
        PAIRS.batch(4),
        PAIRS.repeat().take(10).batch(3),
        Batches(),
        ((IMAGES[k : k + 1], LABELS[k : k + 1]) for k in range(10)),
    ],
    ids=["arrays", "lists", "tf.data", "batched", "taken", "PyDataset", "generator"],
)
def test_every_kind_gives_the_same_arrays(given):
    images, labels = as_arrays(given)
    np.testing.assert_array_equal(images.astype(np.float32), IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


VECTORS = np.eye(5, dtype=np.float32)[np.arange(10) % 5]
SINGLE = tf.data.Dataset.from_tensor_slices((IMAGES, VECTORS))


@pytest.mark.parametrize(
    "given",
    [SINGLE, SINGLE.batch(4), SINGLE.batch(5, drop_remainder=True)],
    ids=["single", "batched", "fixed"],
)
def test_labels_that_are_vectors(given):
    """A single sample of shape (3, 2) with its vector of 5 is no batch of 3 with 5 labels."""
    images, labels = as_arrays(given)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, VECTORS)


class Endless(Batches):
    @property
    def num_batches(self):
        return None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((IMAGES, LABELS, LABELS, LABELS), "Received: tuple of 4"),
        (IMAGES, "Received: ndarray"),
        (3, "Received: int"),
        (PAIRS.batch(2).repeat(), "repeats for ever"),
        (Endless(), "no `num_batches`"),
        (PAIRS.map(lambda image, label: image).batch(2), "pairs|batches of"),
        (PAIRS.map(lambda x, y: (x, y, y)).batch(2), "Received: tuple of 3"),
        (iter(()), "at least one batch"),
        (zip(IMAGES, VECTORS, strict=True), r"\(3, 2\) and labels of shape \(5,\).*data.batch"),
        (zip(IMAGES, LABELS, strict=True), r"labels of shape \(\).*data.batch"),
    ],
)
def test_what_is_no_data_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        as_arrays(given)
