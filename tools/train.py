r"""Trains a network with Drop-Connect and follows its accuracy on faulty chips.

It is followed on training images that are set aside (`--validation_images`), never on test images.

A mini-MobileNet on the offline digits, in about a minute:

  python -m tools.train --out=runs/digits

The study's 2-bottleneck network on the full MNIST at 10% drop, and a ResNet20 with six
convolutions replaced by bottlenecks on CIFAR-10 at 20%:

  python -m tools.train --data=mnist --variant=published --drop_rate=0.1 --out=runs/2b
  python -m tools.train --model=resnet20 --replaced=4,6,10,12,16,18 --drop_rate=0.2 \
      --data=cifar10 --out=runs/4c

Followed on chips with other faults than weights at zero (`--help_faults` has the names and keys);
and trained with more than Drop-Connect: noise in every step, or a new chip every few steps:

  python -m tools.train --fault_model=column_faults --fault_rate=0.1 --validation_chips=5 \
      --out=runs/columns
  python -m tools.train --noise=lognormal_variation:sigma=0.2 --out=runs/varied
  python -m tools.train --fresh_chips=row_faults:rate=0.1 --fresh_every=4 --out=runs/rows

Each batch has eight masks, each for a part of it, so that one model serves every chip with batch
normalization too; with one mask, as the study trains:

  python -m tools.train --model=resnet20 --scope=convolutions --data=cifar10 --drop_rate=0.2 \
      --masks=1 --out=runs/as_the_study

One model for every fault rate up to 30%, and one for cells that are stuck on:

  python -m tools.train --data=mnist --recipe=mnist_short --drop_rate=0.3 --drop_rates=uniform \
      --out=runs/rates
  python -m tools.train --data=mnist --recipe=mnist_short --drop_rate=0 --fault_rate=0.1 \
      --noise=differential_pair:stuck_on=0.1 --fault_model=differential_pair:stuck_on=0.1 \
      --out=runs/stuck_on

The folder `--out` gets `model.keras`, `config.json`, which the other tools read, `history.csv`,
`history.png`, TensorBoard logs in `logs/`, and `checkpoint.npz`, from which `--resume` with the
same flags goes on exactly.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli, fault_flags, inputs, number_flags, report

FLAGS = flags.FLAGS

flags.DEFINE_enum("model", "mini_mobilenet", ["mini_mobilenet", "resnet20"], "Network.")
number_flags.define_whole(
    "bottlenecks", None, "Bottlenecks of a mini_mobilenet (default 2).", "[1, 8]"
)
flags.DEFINE_enum(
    "variant", None, ["strided", "published"], "Kind of mini_mobilenet (default strided)."
)
flags.DEFINE_list("replaced", None, "Convolutions of a resnet20 (1 to 18) that are bottlenecks.")
flags.DEFINE_enum("shortcut", None, ["A", "projection"], "Shortcuts of a resnet20 (default A).")
number_flags.define_whole(
    "width", None, "Channels of a resnet20's first stage (default 16).", "[1, 4096]"
)
number_flags.define("drop_rate", 0.1, "Drop rate in [0, 1).", "[0, 1)")
flags.DEFINE_bool(
    "rescale", False, "Scale kept weights by 1 / (1 - rate), in training and on chips."
)
number_flags.define_whole(
    "masks",
    None,
    "Masks in each batch, each for a part of it; default: 8 where weights drop.",
    "[1, 1024]",
)
flags.DEFINE_list(
    "scope", "blocks", "Which roles drop: blocks, depthwise, convolutions, all, or roles."
)
inputs.define_source(default="digits")
number_flags.define_whole(
    "train_images",
    None,
    "Use this many training images, a stratified part.",
    number_flags.IMAGES,
)
flags.DEFINE_string("recipe", None, "Recipe by name; default: by dataset. See keras_rram.training.")
number_flags.define_whole("epochs", None, "Epochs, instead of the recipe's.", "[1, 100000]")
number_flags.define_whole("batch_size", None, "Batch size, instead of the recipe's.", "[1, 1e6]")
number_flags.define("learning_rate", None, "Learning rate, instead of the recipe's.", "(0, inf)")
number_flags.define(
    "gradient_clip", None, "Longest gradient, instead of the recipe's (0: any).", "[0, inf)"
)
flags.DEFINE_enum(
    "drop_rates",
    None,
    ["constant", "uniform"],
    "Drop rate of each step: --drop_rate, or drawn from [0, --drop_rate].",
)
number_flags.define_whole(
    "drop_ramp_epochs", None, "Epochs in which the drop rate rises from 0.", "[0, 100000]"
)
number_flags.define_whole(
    "statistics_epochs", None, "Last epochs, on fixed statistics.", "[0, 100000]"
)
flags.DEFINE_enum(
    "normalization",
    None,
    ["batch", "instance", "group"],
    "Normalization of channels (default: instance for a mini_mobilenet, batch for a resnet20).",
)
flags.DEFINE_bool("centered_inputs", False, "Centre the inputs of faulty layers.")
number_flags.define_whole(
    "seed", 0, "Seed of the weights, the order of the images and the masks.", number_flags.SEEDS
)
number_flags.define_whole(
    "validation_chips", 1, "Chips to evaluate after each epoch.", "[1, 100000]"
)
number_flags.define(
    "fault_rate",
    None,
    "Fault rate of these chips. Default: that of --fault_model, or else the drop rate.",
    "[0, 1)",
)
fault_flags.define()
number_flags.define_whole(
    "validation_images",
    None,
    "Training images set aside for it; default: a tenth.",
    number_flags.IMAGES,
)
flags.DEFINE_string(
    "noise",
    None,
    "What else changes the weights in each step: a fault model that varies or fails single cells, "
    "or a number, the sd of Gaussian noise as a share of a layer's largest weight.",
)
flags.DEFINE_string(
    "fresh_chips", None, "Train on a new chip of this fault model every --fresh_every steps."
)
number_flags.define_whole("fresh_every", 1, "Steps that such a chip stays.", "[1, 1e9]")
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("resume", False, "Go on from the checkpoint in --out, or begin if there is none.")

_MASKS = 8
# What suits each network, see docs/robust_training.md.
_NORMALIZATION = {"mini_mobilenet": "instance", "resnet20": "batch"}
_RECIPE_FLAGS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "gradient_clip",
    "drop_rates",
    "drop_ramp_epochs",
    "statistics_epochs",
)
_OPTIONS = {
    "mini_mobilenet": ("bottlenecks", "variant"),
    "resnet20": ("replaced", "shortcut", "width"),
}


def main(argv: Sequence[str]) -> None:
    """Trains as the flags say and writes the results."""
    del argv
    cli.check_output_folder()
    import keras

    from keras_rram import DropConnect, models, plots
    from keras_rram.faults import spec
    from keras_rram.files import written_whole
    from keras_rram.files.schemas import TRAINING
    from keras_rram.hardware import summary_table
    from keras_rram.training import ChipValidation, FreshChips, train

    recipe = _recipe()
    options = _model_options()
    normalization = FLAGS.normalization or _NORMALIZATION[FLAGS.model]
    noise = cli.parsed("noise", _noise)
    are_masks = bool(FLAGS.drop_rate) or noise is not None
    masks = FLAGS.masks or (_MASKS if are_masks else 1)
    if masks > 1 and not are_masks:
        raise ValueError("--masks needs a --drop_rate or --noise: all masks would be the same.")
    drop_connect = DropConnect(FLAGS.drop_rate, FLAGS.rescale, FLAGS.seed, noise, masks)
    fault_model = fault_flags.at(FLAGS.fault_rate, otherwise=FLAGS.drop_rate)
    fresh_chips = cli.parsed(
        "fresh_chips", lambda text: FreshChips(text, FLAGS.fresh_every, FLAGS.seed)
    )
    if FLAGS["fresh_every"].present and fresh_chips is None:
        raise ValueError("--fresh_every goes with --fresh_chips.")
    whole = _data()
    how = whole.normalization
    dataset = whole.split(FLAGS.validation_images or 0.1)
    if FLAGS.train_images:
        dataset = dataset.subset(train=FLAGS.train_images)
    dataset.steps_per_epoch(recipe.batch_size)
    images, labels = dataset.arrays("validation")
    print(inputs.describe(dataset, images, "validation"))
    keras.utils.set_random_seed(FLAGS.seed)
    model = getattr(models, FLAGS.model)(
        drop_connect=drop_connect,
        scope=FLAGS.scope,
        input_shape=dataset.input_shape,
        classes=dataset.classes,
        normalization=normalization,
        centered_inputs=FLAGS.centered_inputs,
        **options,
    )
    folder = cli.output_folder(FLAGS.out, FLAGS.resume)
    checkpoint = folder / "checkpoint.npz"
    if checkpoint.exists():
        _check_same_chips(folder / "config.json", spec(fault_model))

    print(summary_table(model))
    config = {
        "command": cli.command(),
        "commit": cli.commit(),
        "model": model.name,
        "options": options,
        "scope": FLAGS.scope,
        "normalization": normalization,
        "centered_inputs": FLAGS.centered_inputs,
        "drop_connect": drop_connect.get_config(),
        "fresh_chips": FLAGS.fresh_chips,
        "fault_model": spec(fault_model),
        "fault_rate": fault_model.rate,
        "validation_chips": FLAGS.validation_chips,
        "data": {
            "source": FLAGS.data,
            "fingerprint": whole.fingerprint,
            "normalization": {"name": "none"} if how is None else how.describe(),
        },
        "train_images": len(dataset.train_labels),
        "validation_images": len(labels),
        "recipe": dataclasses.asdict(recipe),
        "seed": FLAGS.seed,
        "backend": keras.backend.backend(),
    }
    callbacks: list[keras.callbacks.Callback] = [
        # Once it is sure that a checkpoint is of this training: another one's record stays.
        keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: TRAINING.write(folder / "config.json", config)
        ),
        *filter(None, [fresh_chips]),
        ChipValidation(images, labels, fault_model, FLAGS.validation_chips, FLAGS.seed),
    ]
    if keras.backend.backend() == "tensorflow":
        callbacks.append(keras.callbacks.TensorBoard(folder / "logs", write_graph=False))
    result = train(
        model,
        dataset,
        recipe,
        seed=FLAGS.seed,
        callbacks=callbacks,
        checkpoint=checkpoint,
        resume=FLAGS.resume and checkpoint.exists(),
        verbose=2,  # a line for each epoch, in a file too
    )
    with written_whole(folder / "model.keras") as temporary:
        model.save(temporary)
    if result.history:
        rows = report.table(result.history)
        report.write(folder / "history.csv", rows.to_csv(index=False, lineterminator="\n"))
        plots.training_curves(result.history, folder / "history.png")
    done = "Interrupted" if result.interrupted else "Done"
    print(f"{done} after {result.epochs} epochs and {result.seconds:.0f} s.", end=" ")
    if result.history:
        accuracy = result.history[-1]["val_chip_accuracy"]
        print(
            f"Accuracy on {FLAGS.validation_chips} chip(s), {fault_flags.label(fault_model)}: "
            f"{accuracy:.2%}.",
            end=" ",
        )
    print(f"Results: {folder}/")


def _check_same_chips(config: pathlib.Path, fault_model: str) -> None:
    """Raises ValueError if the epochs before a resumption were followed on other chips."""
    from keras_rram.files.schemas import TRAINING

    held = TRAINING.read(config).get("fault_model") if config.exists() else None
    if held not in (None, fault_model):
        raise ValueError(
            f"--resume: the chips of '{config.parent}' are of --fault_model={held}, and one curve "
            f"must not mix two. Received: {fault_model} (give the flags of that run)"
        )


def _data() -> Any:
    """Returns the data set, with a normalization: our networks have none of their own."""
    from keras_rram import data

    source = FLAGS.data
    how = FLAGS.normalize or (None if source in ("digits", "mnist", "cifar10") else "standard")
    dataset = data.load(source, FLAGS.data_dir, FLAGS.download, how)
    if dataset.classes is None or len(dataset.input_shape) != 3:
        raise ValueError(
            f"expected images (n, height, width, channels) and classes in --data={source}. "
            f"Received: shape {dataset.train_images.shape}, labels {dataset.train_labels.dtype}"
        )
    return dataset


def _noise(text: str) -> Any:
    from keras_rram import NoiseInjection, WeightNoise

    try:
        return WeightNoise(float(text))
    except ValueError:
        return NoiseInjection(text)


def _recipe() -> Any:
    from keras_rram.training.recipes import RECIPES

    name = FLAGS.recipe or (FLAGS.data if FLAGS.data in RECIPES else "digits")
    if name not in RECIPES:
        raise ValueError(f"--recipe must be one of {sorted(RECIPES)}. Received: {name!r}")
    recipe = RECIPES[name]
    given = {
        field: value for field in _RECIPE_FLAGS if (value := getattr(FLAGS, field)) is not None
    }
    if "epochs" in given and recipe.milestones:
        # A shorter run keeps the shape of the schedule.
        given["milestones"] = tuple(
            round(epoch * given["epochs"] / recipe.epochs) for epoch in recipe.milestones
        )
    return dataclasses.replace(recipe, **given)


def _model_options() -> dict[str, Any]:
    """Returns the options of the network; one that belongs to another network is an error."""
    for model, names in _OPTIONS.items():
        for name in names:
            if model != FLAGS.model and FLAGS[name].present:
                raise ValueError(f"--{name} belongs to --model={model}, not to {FLAGS.model}.")
    options = {
        name: value for name in _OPTIONS[FLAGS.model] if (value := getattr(FLAGS, name)) is not None
    }
    if "replaced" in options:
        options["replaced"] = tuple(cli.numbers("replaced", "[1, 18]", whole=True))
    return options


if __name__ == "__main__":
    cli.run(main)
