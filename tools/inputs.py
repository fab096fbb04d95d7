"""The model and the data of a tool: their flags, and what the model's folder says of them."""

import os
import pathlib
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags

from . import cli, number_flags

flags.disclaim_key_flags()

FLAGS = flags.FLAGS

_MOST_HEALTHY = 500


@cli.section("model")
def define_model(convert: bool = False) -> None:
    """Defines `--model`, and `--convert` and `--where` if the tool takes plain models."""
    flags.DEFINE_string("model", None, "Trained model, a .keras file.")
    if convert:
        flags.DEFINE_bool("convert", False, "Put the weights of a plain Keras model on a chip.")
        flags.DEFINE_list(
            "where",
            None,
            "With --convert: scope or roles on it; default: as trained, or all.",
        )


@cli.section("data")
def define_source(default: str | None = None) -> None:
    """Defines `--data`, with or without a default, `--data_dir` and `--download`."""
    flags.DEFINE_string(
        "data",
        default,
        "digits (offline, 5,000 of MNIST's training digits), mnist, cifar10, tfds:NAME, or an .npz "
        "file of x_train, y_train, x_test, y_test."
        + ("" if default else " Default: what the model was trained on, by the file beside it."),
    )
    flags.DEFINE_string(
        "normalize",
        None,
        "What samples go through: none, standard (by the training samples), mnist, cifar10, or "
        "MODULE:FUNCTION. Default: "
        + ("the data set's own, or standard." if default else "as the model was trained, or none."),
    )
    define_data_dir()


@cli.section("data")
def define_data_dir() -> None:
    """Defines `--data_dir` and `--download`."""
    flags.DEFINE_string("data_dir", None, "Folder of tensorflow-datasets.")
    flags.DEFINE_bool("download", False, "Download the dataset if it is not in --data_dir.")


@cli.section("data")
def define_data(images: int | None = None, calibration: int = 0) -> None:
    """Defines the flags of `define_source`, `--images`, and `--calibration_images` if wanted.

    Args:
        images: how many test images; None: all.
        calibration: how many training images, of tools that need some.
    """
    define_source()
    number_flags.define_whole(
        "images", images, "Test images, a stratified part.", number_flags.IMAGES
    )
    if calibration:
        number_flags.define_whole(
            "calibration_images",
            calibration,
            "Training images for calibration.",
            number_flags.IMAGES,
        )


@dataclass(frozen=True)
class Training:
    """How a model was trained, as the file beside it says; None where it does not.

    The file is `config.json` of `tools.train`, or `record.json` of `tools.reproduce`. `data` is
    what `--data` was, `fingerprint` that of the images and their normalization, `normalization`
    as `describe` gives it, and `scope` what was on faulty hardware. `validation_images` is how many
    training images were set aside. The command is without the folder of the data.
    """

    name: str | None = None
    command: str | None = None
    commit: str | None = None
    seed: int | None = None
    drop_rate: float | None = None
    data: str | None = None
    fingerprint: str | None = None
    normalization: dict[str, Any] | None = None
    scope: str | tuple[str, ...] | None = None
    validation_images: int | None = None

    @classmethod
    def beside(cls, model: str | os.PathLike[str]) -> "Training":
        """Reads the file in the folder of a model; without one, nothing is known.

        Raises:
            ValueError: if it is damaged.
        """
        from keras_rram.files.schemas import PANEL, TRAINING

        for name in ("config.json", "record.json"):
            place = pathlib.Path(model).parent / name
            if place.is_file():
                held = (TRAINING if name == "config.json" else PANEL).read(place)
                break
        else:
            return cls()
        data = held.get("data", held.get("dataset"))
        if not isinstance(data, dict):
            data = {"source": data}
        scope = held.get("scope")
        return cls(
            held.get("model", held.get("network")),
            cli.without_paths(held["command"]) if held.get("command") else None,
            held.get("commit"),
            held.get("seed"),
            held.get("drop_rate", (held.get("drop_connect") or {}).get("rate")),
            data.get("source"),
            data.get("fingerprint"),
            data.get("normalization"),
            tuple(scope) if isinstance(scope, list) else scope,
            held.get("validation_images", 0 if name == "record.json" else None),
        )

    def origin(self) -> dict[str, Any] | None:
        """Returns command, commit, seed, drop rate and name for a file of results."""
        names = ("command", "commit", "seed", "drop_rate", "name")
        return {name: getattr(self, name) for name in names} if self.command else None


def load_model(path: str | None) -> Any:
    """Returns the Keras model of a `.keras` file.

    Raises:
        ValueError: if the file is missing or holds no model.
    """
    if not path:
        raise ValueError("--model is missing: name a .keras file.")
    if not pathlib.Path(path).is_file():
        raise ValueError(f"--model='{path}': there is no such file.")
    import keras

    from keras_rram.files import check_zip
    from keras_rram.layers import check_weights

    try:
        if zipfile.is_zipfile(path):
            check_zip(path)
        model = keras.models.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(f"--model='{path}' cannot be loaded: {error}") from error
    try:
        check_weights(model)
    except ValueError as error:
        raise ValueError(f"--model='{path}': {error}") from None
    return model


def faulty_model(path: str | None) -> Any:
    """Returns a model with Drop-Connect layers: those of the file, or with `--convert` their twins.

    Raises:
        ValueError: if it has none, or has them and is to be converted.
    """
    convert, where = FLAGS.convert, FLAGS.where
    if where is not None and not convert:
        raise ValueError("--where goes with --convert.")
    model = load_model(path)
    from keras_rram import faulty_layers, to_drop_connect

    if convert:
        return to_drop_connect(model, 0.0, where or Training.beside(str(path)).scope)
    if not faulty_layers(model):
        raise ValueError(
            f"'{path}' has no Drop-Connect layer that faults could go to. Give --convert to put "
            "its weights on faulty hardware (--where=blocks for a part of them)."
        )
    return model


def load_data(training: Training | None = None) -> Any:
    """Returns the data set of `--data`, or else the one that the model was trained on.

    It is normalized as the model was trained, or as `--normalize` says, or else not at all.

    Raises:
        ValueError: if no data are known, or if they or their normalization are not the training's.
    """
    from keras_rram import data

    training = training or Training()
    source, how = FLAGS.data or training.data, FLAGS.normalize
    if source is None:
        raise ValueError(
            "--data is missing, and no config.json beside the model says what it was trained on: "
            "name digits, mnist, cifar10, tfds:NAME, or an .npz file."
        )
    recorded = training.normalization
    if recorded and how not in (None, recorded["name"]):
        raise ValueError(
            f"expected --normalize={recorded['name']}, which the model was trained with by the "
            f"file beside it, or none of that flag. Received: --normalize={how}"
        )
    if training.data is None:
        how = how or "none"
    dataset = data.load(source, FLAGS.data_dir, FLAGS.download, recorded or how)
    same = training.data in (None, source, dataset.name)
    if not same and dataset.fingerprint != training.fingerprint and FLAGS.normalize is None:
        raise ValueError(
            f"expected --data={training.data}, which the model was trained on by the file beside "
            f"it, or no --data. Received: --data={source}"
            + (" (MNIST's training digits)" if source == "digits" else "")
            + ". To score it on other data all the same, say --normalize too."
        )
    return dataset


def further_images(names: Sequence[str], dataset: Any) -> dict[str, tuple[Any, Any]]:
    """Returns the test images and labels of further data sets, by name.

    They are normalized as those of the model's own data set are: it is the same model.
    """
    from keras_rram import data

    how = dataset.normalization
    normalize = "none" if how is None else how.describe()
    return {name: data.load(name, normalize=normalize).arrays("test") for name in names}


def load(faulty: bool = True) -> tuple[Any, Any, tuple[Any, Any]]:
    """Returns the model, its data set, and `--images` test images with their labels.

    Args:
        faulty: whether the model must have layers on faulty hardware.

    Raises:
        ValueError: if the flags do not fit, or the images do not fit the model.
    """
    from keras_rram.data import check_images

    model = faulty_model(FLAGS.model) if faulty or FLAGS.convert else load_model(FLAGS.model)
    dataset = load_data(Training.beside(FLAGS.model))
    images, labels = dataset.arrays("test", image_count(dataset))
    images = check_images(model, images)
    print(describe(dataset, images))
    warn_of_chance(model, images[:_MOST_HEALTHY], labels[:_MOST_HEALTHY])
    return model, dataset, (images, labels)


def describe(dataset: Any, images: Any, split: str = "test") -> str:
    """Returns what a model is fed with, in a line: number, shape, type, range, mean."""
    done = dataset.normalization
    return (
        f"Data: {dataset.name}, {len(images):,} {split} samples of shape {images.shape[1:]}, "
        f"{images.dtype} from {images.min():.4g} to {images.max():.4g}, mean {images.mean():.4g} "
        f"(normalization: {'none' if done is None else done.name})."
    )


def warn_of_chance(model: Any, images: Any, labels: Any) -> None:
    """Warns loudly where a classifier without faults is hardly better than a guess."""
    import numpy as np

    from keras_rram.evaluation.measure import default_measure

    if labels.ndim != 1:
        return
    outputs = model.predict(images, batch_size=256, verbose=0)
    if not isinstance(outputs, np.ndarray) or outputs.ndim != 2:
        return
    try:
        measure = default_measure(model, outputs.shape, labels)
    except ValueError:
        return  # no classes
    right = outputs.argmax(-1) == labels if measure is None else measure(outputs, labels)
    found = float(np.mean(right))
    guess = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    if found - guess < 0.2 * (1 - guess):
        print(
            f"WARNING: without any fault the model is right on {found:.1%} of {len(labels)} "
            f"samples, where always the same class is on {guess:.1%}. {_why_no_better(model)}",
            file=sys.stderr,
        )


def _why_no_better(model: Any) -> str:
    """Returns what may be behind a model that is no better than a guess, the likeliest first."""
    from keras_rram.layers.network import faulty_layers
    from keras_rram.repair.batch_norm import normalizations

    preprocessing = (
        "Is the preprocessing that of the training? See the line above, and --normalize. (Or the "
        "labels have another order, or the model was not trained.)"
    )
    dropped = max((float(layer.drop_rate) for layer in faulty_layers(model).values()), default=0)
    if not dropped or not normalizations(model, required=False):
        return preprocessing
    return (
        f"In training it drops up to {dropped:.0%} of a layer's weights: statistics of batch "
        "normalization gathered so may not fit where no weight is faulty, which says nothing "
        f"about its chips (docs/robust_training.md). If they do no better: {preprocessing}"
    )


def image_count(dataset: Any) -> int | None:
    """Returns `--images`, or where it was not given no more than there are."""
    count = FLAGS.images
    return count if FLAGS["images"].present or not count else min(count, len(dataset.test_labels))


def calibration(dataset: Any) -> Any:
    """Returns `--calibration_images` training images, as in training: a stratified part."""
    count = min(FLAGS.calibration_images, len(dataset.train_labels))
    return dataset.arrays("train", count, augmented=True)[0]
