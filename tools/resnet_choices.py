"""Networks to choose from: each convolution of a ResNet20 kept, replaced or widened, or faulty."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from . import cli, fault_flags, number_flags, short_trainings

flags.disclaim_key_flags()

FLAGS = flags.FLAGS

CONVOLUTIONS = 18


@cli.section("networks")
def define() -> None:
    """Defines `--width` and `--recipe`."""
    number_flags.define_whole("width", 16, "Channels of the first stage.", "[1, 1e9]")
    flags.DEFINE_string("recipe", "cifar10_short", "Recipe by name, see keras_rram.training.")


def task() -> tuple[Any, Any, Any, Any]:
    """Returns recipe, fault model, the whole data set and that of the trainings, as flags say."""
    from keras_rram import data

    recipe = short_trainings.recipe(FLAGS.recipe)
    fault_model = fault_flags.at(FLAGS.fault_rate, otherwise=0.2)
    whole = data.load(FLAGS.data, FLAGS.data_dir, FLAGS.download, FLAGS.normalize)
    return recipe, fault_model, whole, short_trainings.dataset(whole)


def choices() -> dict[str, tuple[str, ...]]:
    """Returns what each convolution may be."""
    each = ("exact", "faulty", "bottleneck")
    return {
        f"c{number:02d}": (*each, "wide") if number % 2 else each
        for number in range(1, CONVOLUTIONS + 1)
    }


def network(chosen: Mapping[str, str], dataset: Any, rate: float, seed: int) -> Any:
    """Returns a new network, what is faulty in it on Drop-Connect layers."""
    import keras

    from keras_rram import DropConnect, models, to_drop_connect

    kinds = {int(name[1:]): kind for name, kind in chosen.items()}
    keras.utils.set_random_seed(seed)
    plain = models.resnet20(
        replaced=[number for number, kind in kinds.items() if kind == "bottleneck"],
        widened=[number for number, kind in kinds.items() if kind == "wide"],
        width=FLAGS.width,
        input_shape=dataset.input_shape,
        classes=dataset.classes,
    )
    faulty = {f"c{number:02d}" for number, kind in kinds.items() if kind != "exact"}
    if not faulty:
        return to_drop_connect(plain, 0.0)
    return to_drop_connect(
        plain, DropConnect(rate, seed=seed), lambda layer: layer.name[:3] in faulty
    )


def judge(
    chosen: Mapping[str, str],
    dataset: Any,
    recipe: Any,
    fault_model: Any,
    seed: int,
    statistics: Sequence[str],
    chips_seed: int = 0,
) -> dict[str, Any]:
    """Trains a network, and returns its `share` on faulty hardware and its chips' accuracies.

    Args:
        chosen: what each convolution is.
        dataset: see `short_trainings.dataset`.
        recipe: how to train.
        fault_model: what chips are drawn from; training drops at its rate.
        seed: seed of the weights and masks.
        statistics: of `Bench`, by which the accuracies are returned.
        chips_seed: seed of the chips.
    """
    from keras_rram.placement import macs_shares

    model = network(chosen, dataset, fault_model.rate, seed)
    is_faulty = set(chosen.values()) != {"exact"}
    found = short_trainings.judge(
        model, dataset, recipe, fault_model, seed, statistics, is_faulty, chips_seed
    )
    return {"share": sum(macs_shares(model).values()) if is_faulty else 0.0, **found}
