"""Short trainings of networks, judged on chips: what tools with training in the loop share."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from . import cli, number_flags, report

flags.disclaim_key_flags()

FLAGS = flags.FLAGS


@cli.section("short trainings")
def define(train_images: int = 5000, batch_size: int = 128) -> None:
    """Defines how networks are trained, and what judges them."""
    number_flags.define_whole("epochs", 2, "Epochs of each training.", "[1, 1e9]")
    number_flags.define_whole("batch_size", batch_size, "Batch size.", "[1, 1e9]")
    number_flags.define_whole(
        "train_images", train_images, "Training images, a stratified part.", "[2, 1e9]"
    )
    number_flags.define_whole("validation_images", 1000, "Training images that judge.", "[2, 1e9]")
    number_flags.define_whole(
        "calibration_images", 256, "Training images for statistics.", "[2, 1e9]"
    )
    number_flags.define_whole("search_chips", 8, "Chips that judge.", "[2, 1e9]")


HELD = ("epochs", "batch_size", "train_images", "validation_images", "calibration_images",
        "search_chips")  # fmt: skip
"""Flags of `define`, which a run that goes on must share."""


def dataset(whole: Any) -> Any:
    """Returns a data set's training images for the trainings, and those set aside that judge."""
    found = whole.split(FLAGS.validation_images).subset(train=FLAGS.train_images)
    found.steps_per_epoch(FLAGS.batch_size)
    return found


def recipe(name: str) -> Any:
    """Returns a recipe by its name, with --epochs and --batch_size."""
    from keras_rram.training import RECIPES

    if name not in RECIPES:
        raise ValueError(f"--recipe: expected one of {sorted(RECIPES)}. Received: {name}")
    return dataclasses.replace(RECIPES[name], epochs=FLAGS.epochs, batch_size=FLAGS.batch_size)


def judge(
    model: Any,
    data: Any,
    how: Any,
    fault_model: Any,
    seed: int,
    statistics: Sequence[str] = ("placement",),
    is_faulty: bool = True,
    chips_seed: int = 0,
) -> dict[str, list[float]]:
    """Trains a network and returns the accuracy of each chip on the images set aside.

    Args:
        model: a new network, what is to be faulty in it on Drop-Connect layers.
        data: see `dataset`.
        how: the recipe.
        fault_model: what chips are drawn from.
        seed: seed of the training.
        statistics: of `Bench`, one or more; by them the accuracies are returned.
        is_faulty: off: no layer is on faulty hardware.
        chips_seed: seed of the chips; the same for all trainings that are compared.
    """
    from keras_rram import population
    from keras_rram.placement import Bench, StagedNetwork
    from keras_rram.training import train

    train(model, data, how, seed, verbose=0)
    staged = StagedNetwork(model)
    everything = frozenset(staged.layers if is_faulty else ())
    calibration, _ = data.arrays("train", FLAGS.calibration_images, augmented=True)
    count = FLAGS.search_chips
    gathering = population(fault_model, count, chips_seed, stream="calibration")
    chips = population(fault_model, count, chips_seed, stream="validation")
    images, found = data.arrays("validation"), {}
    for one in statistics:
        given: Any = {
            "model": {},
            "placement": {"calibration": calibration, "gathering": gathering},
            "chip": {"calibration": calibration},
        }[one]
        bench = Bench(staged, chips, images, None, one, **given)  # type: ignore[arg-type]
        answers = bench.answers([everything])[everything]
        found[one] = [float(each.mean()) for each in answers]
    return found


def held(
    path: pathlib.Path, about: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns what a file holds of a training, computed and written if there is no such file.

    Raises:
        ValueError: if the file is about something else.
    """
    about = json.loads(json.dumps(dict(about)))
    if path.exists():
        found = json.loads(path.read_text("utf-8"))
        if differing := sorted(k for k in about if found.get(k) != about[k]):
            raise ValueError(
                f"expected '{path}' to be of this run. What differs is {', '.join(differing)} "
                "(name another folder)"
            )
        return found
    found = {**about, **compute()}
    path.parent.mkdir(exist_ok=True)
    report.write_json(path, found)
    return found
