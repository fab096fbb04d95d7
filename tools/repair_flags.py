"""`--repair`: what is done to each chip before it is evaluated or exported, as text."""

from typing import Any

from absl import flags

from . import cli

flags.disclaim_key_flags()

FLAGS = flags.FLAGS


@cli.section("repair")
def define() -> None:
    """Defines `--repair` and `--help_repairs`."""
    flags.DEFINE_string(
        "repair",
        "none",
        "What is done to each chip first, NAME:KEY=VALUE,KEY=VALUE; several in turn are joined by "
        "'+'. images= is how many training images it gets. Names and keys: --help_repairs.",
    )
    flags.DEFINE_bool("help_repairs", False, "Print the repairs with their keys, and end.")


def print_help() -> None:
    """Prints names, access tiers, keys and defaults of the repairs."""
    from keras_rram.repair import text

    print("Repairs, NAME:KEY=VALUE,KEY=VALUE, with the defaults of the keys:")
    for line in text.describe().splitlines():
        print(f"  {line}")
    print(
        "Tier B: unlabelled images on the chip; tier C: the chip's map, or labels.\nExamples:\n"
        "  --repair=batch_norm:images=64\n  --repair=remap+least_squares"
    )


def plan() -> Any:
    """Returns the plan of `--repair`, or None; checked before anything is loaded."""
    from keras_rram.repair import parse

    return None if FLAGS.repair == "none" else cli.parsed("repair", parse)


def given(dataset: Any) -> Any:
    """Returns the repair of `--repair` with training images of a data set, or None."""
    found = plan()
    return None if found is None else on(found, dataset)


def on(found: Any, dataset: Any) -> Any:
    """Returns the repair of a plan with training images of a data set.

    The images are drawn without a look at their labels; fewer are a part of more. They are as in
    training, augmented if those were.
    """
    import numpy as np

    count = len(dataset.train_labels)
    if found.images > count:
        raise ValueError(
            f"--repair={found}: expected {found.images:,} images. The data set has "
            f"{count:,} training images."
        )
    chosen = np.random.default_rng(0).permutation(count)[: found.images]
    labels = dataset.train_labels[chosen] if found.needs_labels else None
    return found.on(dataset.as_in_training(dataset.train_images[chosen]), labels)
