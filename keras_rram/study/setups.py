"""How a panel is run: its scale, its protocol, its network, its untrained model."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_rram import models
from keras_rram.faults import StuckAtZero
from keras_rram.layers.drop_connect import DropConnect
from keras_rram.study.panels import Panel
from keras_rram.training.recipes import RECIPES, Recipe

PROTOCOLS = ("text", "published")
"""`text`: all kernels of the faulty blocks drop and every weight has one scale, as the study's text
says. `published`: as its code did, the depthwise kernels alone drop, and kept weights are scaled by
`1 / (1 - rate)` in training but not on a chip."""

EPOCHS = {
    "brief": {"strided": 8, "published": 3, "resnet20": 8, "mobilenet_v2": 8, "vgg13": 8},
    "short": {"strided": 20, "published": 5, "resnet20": 20, "mobilenet_v2": 20, "vgg13": 20},
    "long": {"strided": 60, "published": 20, "resnet20": 80, "mobilenet_v2": 80, "vgg13": 80},
}
"""Epochs by scale and network: the same for all panels of a network, so that they compare."""

SCALES = ("smoke", *EPOCHS, "paper")
"""`smoke`: seconds, on the offline digits, to see that everything works. `brief`: half an hour
a panel on two CPU cores, to compare panels. `short`: an hour. `long`: their night. `paper`: the
study's epochs, for a GPU."""

_SMOKE_OPTIONS: dict[str, dict[str, Any]] = {
    "resnet20": {"width": 4},
    "mobilenet_v2": {"alpha": 0.1},
}
_SHORT_OPTIONS: dict[str, dict[str, Any]] = {"mobilenet_v2": {"alpha": 0.35}}


@dataclass(frozen=True)
class Setup:
    """How a panel is run at one scale.

    Attributes:
        dataset: name of the dataset, see `keras_rram.data.load`.
        train_images: training images, a stratified part; None for all.
        recipe: how to train.
        builder: name of the builder in `keras_rram.models`.
        options: its arguments.
        validation_chips: chips that are followed after each epoch; the first one alone is what the
            study plots.
        validation_images: test images for it; None for all.
        chips: chips of the final population.
        images: test images for each; None for all.
        repair_images: unlabelled training images, augmented as in training, for the recalibration
            of batch normalization.
        repaired_chips: chips of the recalibrated populations, from the first on; None for `chips`.
        repaired_images: test images for each of those; None for `images`.
        hardware: what it is meant for.
    """

    dataset: str
    train_images: int | None
    recipe: Recipe
    builder: str
    options: Mapping[str, Any]
    validation_chips: int
    validation_images: int | None
    chips: int
    images: int | None
    repair_images: int
    hardware: str
    repaired_chips: int | None = None
    repaired_images: int | None = None


def setup(panel: Panel, scale: str, protocol: str = "text", network: str | None = None) -> Setup:
    """Returns how a panel is run.

    Args:
        panel: one of `PANELS`.
        scale: one of `SCALES`.
        protocol: one of `PROTOCOLS`.
        network: one of the panel's networks; default: its first, at scale `paper` the study's own.

    Raises:
        ValueError: for an unknown name.

    Example:

    ```python
    how = setup(PANELS["2B"], "short")
    model = build(PANELS["2B"], how, "text", seed=0)
    train(model, data.load(how.dataset), how.recipe, seed=0)
    ```
    """
    for name, value, known in (("scale", scale, SCALES), ("protocol", protocol, PROTOCOLS)):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}")
    network = network or default_network(panel, scale)
    if network not in panel.networks:
        raise ValueError(
            f"Panel {panel.name} can be run with {panel.networks}. Received: network={network!r}"
        )
    is_mnist = panel.dataset == "mnist"
    options = dict(panel.options)
    if is_mnist:
        options["variant"] = network
        # The study's code added the shortcut of the first bottleneck by broadcasting its input.
        options["broadcast_shortcut"] = protocol == "published" and network == "published"
    builder = "mini_mobilenet" if is_mnist else network
    paper = RECIPES["mnist" if is_mnist else "cifar10"]
    if scale == "smoke":
        recipe = dataclasses.replace(RECIPES["digits"], epochs=2)
        options |= _SMOKE_OPTIONS.get(builder, {})
        return Setup(
            "digits", 256, recipe, builder, options, 2, 40, 3, 40, 64, "any machine, seconds"
        )
    if scale == "paper":
        return Setup(
            panel.dataset, None, paper, builder, options, 5, None, 100, None, 1024, "one GPU"
        )
    options |= _SHORT_OPTIONS.get(builder, {})
    short = paper if is_mnist else RECIPES["cifar10_short"]
    recipe = dataclasses.replace(short, epochs=EPOCHS[scale][network])
    # Whether each chip answers all test images, or a part, where that takes too long.
    is_slow = network == "published" or (not is_mnist and scale == "brief")
    is_whole = not is_slow or not panel.fault_rate
    return Setup(
        dataset=panel.dataset,
        train_images=None,
        recipe=recipe,
        builder=builder,
        options=options,
        validation_chips=5,
        validation_images=1_000,
        chips=100 if is_mnist else 50,
        images=None if is_whole else 2_000,
        repair_images=512,
        hardware="2 CPU cores",
        # Chips hardly differ once they are recalibrated, and each costs ten times as much.
        repaired_chips=20 if is_whole and not is_mnist else None,
        repaired_images=2_000 if is_whole and not is_mnist else None,
    )


def default_network(panel: Panel, scale: str) -> str:
    """Returns the network that a panel is run with unless one is named."""
    return "published" if scale == "paper" and "published" in panel.networks else panel.networks[0]


def build(
    panel: Panel,
    how: Setup,
    protocol: str,
    seed: int,
    rescale: bool | None = None,
    input_shape: tuple[int, ...] = (28, 28, 1),
    classes: int | None = 10,
) -> keras.Model:
    """Returns a panel's untrained model.

    Args:
        panel: one of `PANELS`.
        how: its setup.
        protocol: one of `PROTOCOLS`.
        seed: seed of the weights and of the masks in training.
        rescale: whether kept and healthy weights are scaled by `1 / (1 - rate)`; default: as the
            protocol trains. Built with the other value and given the same weights, the model is
            evaluated at the other scale.
        input_shape: `(height, width, channels)`.
        classes: number of classes.
    """
    published = protocol == "published"
    rescale = published if rescale is None else rescale
    scope = "depthwise" if published and panel.scope == "blocks" else panel.scope
    keras.utils.set_random_seed(seed)
    return getattr(models, how.builder)(
        **how.options,
        drop_connect=DropConnect(panel.drop_rate, rescale=rescale, seed=seed),
        scope=scope,
        input_shape=input_shape,
        classes=classes,
    )


def fault_model(panel: Panel) -> StuckAtZero:
    """Returns what the chips of a panel are drawn from."""
    return StuckAtZero(panel.fault_rate)
