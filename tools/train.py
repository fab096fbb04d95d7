r"""Trains a network with Drop-Connect and follows its accuracy on faulty chips.

A mini-MobileNet on the offline digits, in about a minute:

  python -m tools.train --out=runs/digits

The study's 2-bottleneck network on the full MNIST at 10% drop, and a ResNet20 with six
convolutions replaced by bottlenecks on CIFAR-10 at 20%:

  python -m tools.train --data=mnist --variant=published --drop_rate=0.1 --out=runs/2b
  python -m tools.train --model=resnet20 --replaced=4,6,10,12,16,18 --drop_rate=0.2 \
      --data=cifar10 --out=runs/4c

Followed on chips with other faults than weights at zero (`--help` has the names and keys):

  python -m tools.train --fault_model=column_faults --fault_rate=0.1 --validation_chips=5 \
      --out=runs/columns

The folder `--out` gets `model.keras`, `config.json`, `history.csv`, `history.png`, TensorBoard logs
in `logs/`, and `checkpoint.npz`, from which `--resume` with the same flags goes on exactly.
"""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from . import cli

FLAGS = flags.FLAGS

flags.DEFINE_enum("model", "mini_mobilenet", ["mini_mobilenet", "resnet20"], "Network.")
flags.DEFINE_integer("bottlenecks", None, "Bottlenecks of a mini_mobilenet, 1 to 8 (default 2).")
flags.DEFINE_enum(
    "variant", None, ["strided", "published"], "Kind of mini_mobilenet (default strided)."
)
flags.DEFINE_list("replaced", None, "Convolutions of a resnet20 (1 to 18) that are bottlenecks.")
flags.DEFINE_enum("shortcut", None, ["A", "projection"], "Shortcuts of a resnet20 (default A).")
flags.DEFINE_integer("width", None, "Channels of a resnet20's first stage (default 16).")
flags.DEFINE_float("drop_rate", 0.1, "Drop rate in [0, 1).")
flags.DEFINE_bool(
    "rescale", False, "Scale kept weights by 1 / (1 - rate), in training and on chips."
)
flags.DEFINE_list(
    "scope", "blocks", "Which roles drop: blocks, depthwise, convolutions, all, or roles."
)
flags.DEFINE_string("data", "digits", "digits (offline), mnist, cifar10, or an .npz file.")
flags.DEFINE_string("data_dir", None, "Folder of tensorflow-datasets.")
flags.DEFINE_bool("download", False, "Download the dataset if it is not in --data_dir.")
flags.DEFINE_integer("train_images", None, "Use this many training images, a stratified part.")
flags.DEFINE_string(
    "recipe", None, "Recipe by name; default: by dataset. See keras_rram.training.recipes."
)
flags.DEFINE_integer("epochs", None, "Epochs, instead of the recipe's.")
flags.DEFINE_integer("batch_size", None, "Batch size, instead of the recipe's.")
flags.DEFINE_float("learning_rate", None, "Learning rate, instead of the recipe's.")
flags.DEFINE_integer("seed", 0, "Seed of the weights, the order of the images and the masks.")
flags.DEFINE_integer("validation_chips", 1, "Chips to evaluate after each epoch.")
flags.DEFINE_float(
    "fault_rate",
    None,
    "Fault rate of these chips. Default: that of --fault_model, or else the drop rate.",
)
cli.define_fault_model()
flags.DEFINE_integer("validation_images", None, "Test images for it; default: all.")
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("resume", False, "Go on from the checkpoint in --out, or begin if there is none.")

_RECIPE_OF_DATA = {"digits": "digits", "mnist": "mnist", "cifar10": "cifar10"}
_OPTIONS = {
    "mini_mobilenet": ("bottlenecks", "variant"),
    "resnet20": ("replaced", "shortcut", "width"),
}


def main(argv: Sequence[str]) -> None:
    """Trains as the flags say and writes the results."""
    del argv
    import keras

    from keras_rram import DropConnect, data, models
    from keras_rram.faults import spec
    from keras_rram.files import written_whole
    from keras_rram.hardware import summary_table
    from keras_rram.training.loop import train
    from keras_rram.training.on_chips import ChipValidation

    recipe = _recipe()
    options = _model_options()
    drop_connect = DropConnect(FLAGS.drop_rate, rescale=FLAGS.rescale, seed=FLAGS.seed)
    fault_model = cli.fault_model_at(FLAGS.fault_rate, otherwise=FLAGS.drop_rate)
    dataset = data.load(FLAGS.data, FLAGS.data_dir, FLAGS.download)
    if FLAGS.train_images:
        dataset = dataset.subset(train=FLAGS.train_images)
    dataset.steps_per_epoch(recipe.batch_size)
    images, labels = dataset.arrays("test", FLAGS.validation_images)
    keras.utils.set_random_seed(FLAGS.seed)
    model = getattr(models, FLAGS.model)(
        drop_connect=drop_connect,
        scope=FLAGS.scope,
        input_shape=dataset.input_shape,
        classes=dataset.classes,
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
        "drop_connect": drop_connect.get_config(),
        "fault_model": spec(fault_model),
        "fault_rate": fault_model.rate,
        "validation_chips": FLAGS.validation_chips,
        "data": dataset.name,
        "train_images": len(dataset.train_labels),
        "recipe": dataclasses.asdict(recipe),
        "seed": FLAGS.seed,
        "backend": keras.backend.backend(),
    }
    with written_whole(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")
    callbacks: list[keras.callbacks.Callback] = [
        ChipValidation(images, labels, fault_model, FLAGS.validation_chips, FLAGS.seed)
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
    )
    with written_whole(folder / "model.keras") as temporary:
        model.save(temporary)
    if result.history:
        _write_history(folder, result.history)
    done = "Interrupted" if result.interrupted else "Done"
    print(f"{done} after {result.epochs} epochs and {result.seconds:.0f} s.", end=" ")
    if result.history:
        accuracy = result.history[-1]["val_chip_accuracy"]
        print(
            f"Accuracy on {FLAGS.validation_chips} chip(s), {cli.faults_label(fault_model)}: "
            f"{accuracy:.2%}.",
            end=" ",
        )
    print(f"Results: {folder}/")


def _check_same_chips(config: pathlib.Path, fault_model: str) -> None:
    """Raises ValueError if the epochs before a resumption were followed on other chips."""
    held = json.loads(config.read_text()).get("fault_model") if config.exists() else None
    if held not in (None, fault_model):
        raise ValueError(
            f"--resume: the chips of '{config.parent}' are of --fault_model={held}, and one curve "
            f"must not mix two. Received: {fault_model} (give the flags of that run)"
        )


def _recipe() -> Any:
    from keras_rram.training.recipes import RECIPES

    name = FLAGS.recipe or _RECIPE_OF_DATA.get(FLAGS.data, "digits")
    if name not in RECIPES:
        raise ValueError(f"--recipe must be one of {sorted(RECIPES)}. Received: {name!r}")
    recipe = RECIPES[name]
    given = {
        field: value
        for field in ("epochs", "batch_size", "learning_rate")
        if (value := getattr(FLAGS, field)) is not None
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
        try:
            options["replaced"] = tuple(int(number) for number in options["replaced"])
        except ValueError:
            raise ValueError(
                f"--replaced must be numbers from 1 to 18. Received: {FLAGS.replaced}"
            ) from None
    return options


def _write_history(folder: pathlib.Path, history: Sequence[Mapping[str, float]]) -> None:
    from keras_rram.files import written_whole
    from keras_rram.plots import populations as plots

    with written_whole(folder / "history.csv") as temporary, temporary.open("w") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    plots.training_curves(history, folder / "history.png")


if __name__ == "__main__":
    cli.run(main)
