"""Labelled samples in memory: fixed subsets, and seeded training batches."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keras_rram.data.augmentation import CropFlip
from keras_rram.data.normalization import Normalization

SPLITS = ("train", "validation", "test")
# Subsets are drawn with a fixed generator: every user gets the same images.
_SUBSET_SEED = 0
_AUGMENTED_ONCE_SEED = 0


def _check_integer(value: Any, name: str, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"`{name}` must be an integer >= {minimum}. Received: {name}={value!r}")
    return int(value)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples of a training and a test split, in memory as read-only arrays.

    Samples are images, series, tokens, whatever a model takes; make a dataset with `load` or
    `from_arrays`.

    Args:
        name: what it is called in results.
        classes: number of classes; None where labels are no classes.
        normalization: what samples go through on their way to a model; None: they go as they are.
        train_images: array of shape `(n, ...)`.
        train_labels: int64 array of shape `(n,)`, values in `[0, classes)`; or any `(n, ...)`.
        test_images: like `train_images`.
        test_labels: like `train_labels`.
        augmentation: what `batches` does to training images, or None.
        validation_images: like `train_images`; none, until `split` sets some aside.
        validation_labels: like `train_labels`.

    Example:

    ```python
    dataset = keras_rram.data.load("digits").split(0.1)
    model.fit(
        dataset.batches(64, seed=0),
        steps_per_epoch=dataset.steps_per_epoch(64),
        epochs=2,
        validation_data=dataset.arrays("validation"),
    )
    model.evaluate(*dataset.arrays("test"))
    ```
    """

    name: str
    classes: int | None
    normalization: Normalization | Callable[[np.ndarray], np.ndarray] | None
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    augmentation: CropFlip | None = None
    validation_images: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    validation_labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        """Makes the arrays read-only: they are shared by everyone who loads the dataset."""
        for split in SPLITS:
            for name in (f"{split}_images", f"{split}_labels"):
                view = getattr(self, name).view()
                view.setflags(write=False)
                object.__setattr__(self, name, view)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a sample: height, width and channels of an image."""
        return self.train_images.shape[1:]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of everything that training and evaluation read."""
        done = self.normalization
        how: tuple[Any, ...] = (done,)
        if isinstance(done, Normalization):
            how = (done.mean, done.std)
        digest = hashlib.sha256(repr((self.classes, *how, self.augmentation)).encode())
        arrays = [self.train_images, self.train_labels, self.test_images, self.test_labels]
        if len(self.validation_labels):
            arrays += [self.validation_images, self.validation_labels]
        for array in arrays:
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def normalize(self, samples: np.ndarray) -> np.ndarray:
        """Returns samples as a model is fed with them."""
        return samples if self.normalization is None else self.normalization(samples)

    def as_in_training(self, samples: np.ndarray) -> np.ndarray:
        """Returns raw samples as a model is fed with them in training: augmented once, normalized.

        Statistics belong to such images: a model that only ever saw cropped ones, with their black
        borders, loses accuracy where it is recalibrated with whole ones
        (docs/robust_training.md). The draws are always the same; without an `augmentation`, this is
        `normalize`.
        """
        if self.augmentation is None:
            return self.normalize(samples)
        draws = self.augmentation.draw(len(samples), np.random.default_rng(_AUGMENTED_ONCE_SEED))
        return self.normalize(self.augmentation.apply(samples, draws))

    def arrays(
        self, split: str, limit: int | None = None, augmented: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns one split, normalized, for `evaluate` or `predict`.

        Args:
            split: "train", "validation" (see `split`) or "test".
            limit: take only this many images. The subset is fixed and stratified (each class
                keeps its share), and a smaller one is part of a larger one.
            augmented: whether the images are as in training, see `as_in_training`.

        Returns:
            Samples of shape `(n, ...)`, float32 after a `Normalization`; labels of shape `(n,)`.

        Raises:
            ValueError: if `split` is unknown or empty, or has fewer than `limit` images.
        """
        if split not in SPLITS:
            raise ValueError(f"`split` must be one of {SPLITS}. Received: split={split!r}")
        images, labels = self._raw_arrays(split, limit)
        return (self.as_in_training if augmented else self.normalize)(images), labels

    def split(self, validation: float | int) -> "Dataset":
        """Returns the dataset with some of its training images set aside for validation.

        Whatever is chosen or followed in training is to look at these: test images are for final
        numbers. The images are always the same ones, and stratified.

        Args:
            validation: share of the training images in (0, 1), or how many, at least 1.

        Raises:
            ValueError: if no training image would be left, or if some are set aside already.
        """
        count = len(self.train_labels)
        if isinstance(validation, float) and 0 < validation < 1:
            validation = max(1, round(count * validation))
        held = _check_integer(validation, "validation", 1)
        if held >= count or len(self.validation_labels):
            raise ValueError(
                f"`validation` must leave some of the {count} training images, once. Received: "
                f"validation={held}, with {len(self.validation_labels)} set aside before"
            )
        # The end of the order: `subset(train=n)` and `arrays("train", n)` take its beginning.
        order = _stratified_order(self.train_labels)
        kept, aside = np.sort(order[:-held]), np.sort(order[-held:])
        return replace(
            self,
            train_images=self.train_images[kept],
            train_labels=self.train_labels[kept],
            validation_images=self.train_images[aside],
            validation_labels=self.train_labels[aside],
        )

    def indices(self, split: str, limit: int | None = None) -> np.ndarray:
        """Returns which images of a split `arrays(split, limit)` takes, in their order."""
        labels = getattr(self, f"{split}_labels")
        return np.arange(len(labels)) if limit is None else _stratified_order(labels)[:limit]

    def subset(self, train: int | None = None, test: int | None = None) -> "Dataset":
        """Returns a smaller dataset, by the rule of `arrays(limit=...)`; None keeps a split."""
        train_images, train_labels = self._raw_arrays("train", train)
        test_images, test_labels = self._raw_arrays("test", test)
        return replace(
            self,
            train_images=train_images,
            train_labels=train_labels,
            test_images=test_images,
            test_labels=test_labels,
        )

    def _raw_arrays(self, split: str, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
        images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
        if not len(labels):
            raise ValueError(
                f"'{self.name}' has no {split} images (`Dataset.split` sets some aside)"
            )
        if limit is None:
            return images, labels
        limit = _check_integer(limit, "limit", 1)
        if limit > len(labels):
            raise ValueError(
                f"The {split} split of '{self.name}' has {len(labels)} images. Received: "
                f"limit={limit} (use at most {len(labels)}, or None for all)"
            )
        chosen = self.indices(split, limit)
        return images[chosen], labels[chosen]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of whole batches of `batch_size` images in the training split."""
        batch_size = _check_integer(batch_size, "batch_size", 1)
        steps = len(self.train_labels) // batch_size
        if not steps:
            raise ValueError(
                f"Dataset '{self.name}' has {len(self.train_labels)} training images, fewer than "
                f"one batch. Received: batch_size={batch_size} (make it smaller)"
            )
        return steps

    def batches(
        self,
        batch_size: int,
        seed: int,
        first_epoch: int = 0,
        augment: bool | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields training batches for ever, `steps_per_epoch(batch_size)` of them an epoch.

        Order and augmentation of an epoch depend on `(seed, epoch)` alone: training that resumes
        with `first_epoch=e` and `fit(..., initial_epoch=e)` sees the batches that uninterrupted
        training would have seen. The images left over at the end of an epoch are not used in it.

        Args:
            batch_size: images in one batch, over all shards.
            seed: integer >= 0.
            first_epoch: the epoch to begin with, from 0.
            augment: None applies the dataset's `augmentation` if it has one, True insists on it,
                False leaves the images as they are.
            shard: `(index, count)` for process `index` out of `count` in distributed training.
                It gets its own `batch_size / count` images of each batch; the shards' parts, put
                together in order, are the batch that a single process would have seen.

        Returns:
            Python generator of samples `(batch_size / count, ...)`, normalized, and labels
            `(batch_size / count,)`.

        Raises:
            ValueError: if the split is smaller than one batch, if `batch_size` does not divide
                into the shards, or if `augment=True` and the dataset has no augmentation.
        """
        steps = self.steps_per_epoch(batch_size)
        seed = _check_integer(seed, "seed", 0)
        first_epoch = _check_integer(first_epoch, "first_epoch", 0)
        index, count = shard
        if not 0 <= index < count:
            raise ValueError(
                "`shard` must be (index, count) with 0 <= index < count. "
                f"Received: shard=({index}, {count})"
            )
        if batch_size % count:
            raise ValueError(
                f"`batch_size` must be a multiple of the {count} shards. "
                f"Received: batch_size={batch_size}"
            )
        if augment and self.augmentation is None:
            raise ValueError(
                f"Dataset '{self.name}' has no augmentation. Received: augment=True (set one with "
                "`dataclasses.replace(dataset, augmentation=CropFlip())`)"
            )
        augmentation = None if augment is False else self.augmentation
        part = batch_size // count
        return self._stream(batch_size, steps, seed, first_epoch, augmentation, index * part, part)

    def _stream(
        self,
        batch_size: int,
        steps: int,
        seed: int,
        epoch: int,
        augmentation: CropFlip | None,
        offset: int,
        part: int,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        count = len(self.train_labels)
        while True:
            order = np.random.default_rng([seed, epoch, 0]).permutation(count)
            if augmentation is not None:
                # For the whole epoch at once, so that shards see what a single process sees.
                draws = augmentation.draw(count, np.random.default_rng([seed, epoch, 1]))
            for step in range(steps):
                start = step * batch_size + offset
                chosen = order[start : start + part]
                images = self.train_images[chosen]
                if augmentation is not None:
                    images = augmentation.apply(images, draws[start : start + part])
                yield self.normalize(images), self.train_labels[chosen]
            epoch += 1

    def as_tf_data(
        self,
        batch_size: int,
        seed: int,
        first_epoch: int = 0,
        augment: bool | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Any:
        """Returns what `batches` yields as an infinite `tf.data.Dataset`.

        Use it instead of the generator under `tf.distribute`, where `fit` opens its data twice
        and would lose batches of a generator. The arguments are those of `batches`.
        """
        import tensorflow as tf

        def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return self.batches(batch_size, seed, first_epoch, augment, shard)

        batches()  # raises here what it would raise in the graph
        part = batch_size // shard[1]
        example = self.normalize(self.train_images[:1])
        dataset = tf.data.Dataset.from_generator(
            batches,
            output_signature=(
                tf.TensorSpec((part, *example.shape[1:]), example.dtype),
                tf.TensorSpec((part, *self.train_labels.shape[1:]), self.train_labels.dtype),
            ),
        )
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)


def _stratified_order(labels: np.ndarray) -> np.ndarray:
    """Returns a fixed order of all images in which each class keeps its share of any beginning."""
    rng = np.random.default_rng(_SUBSET_SEED)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        return rng.permutation(len(labels))  # no classes
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[rng.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")
