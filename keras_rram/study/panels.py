"""The study's panels as short records, each with a tiny, a short and a full version.

Source: "Exploration of Linear Bottleneck Architecture for RRAM Fault-tolerant Deep Learning"
(2024). What it reports is given here in the words of a table; where it shows a curve only, its
final value or plateau was read from the figure, to half a point on MNIST and a point on CIFAR-10.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_rram import models
from keras_rram.faults import StuckAtZero
from keras_rram.layers.drop_connect import DropConnect
from keras_rram.training.recipes import RECIPES, Recipe

PROTOCOLS = ("text", "published")
"""`text`: all kernels of the faulty blocks drop and every weight has one scale, as the study's text
says. `published`: as its code did, the depthwise kernels alone drop, and kept weights are scaled by
`1 / (1 - rate)` in training but not on a chip."""

SCALES = ("smoke", "short", "paper")
"""`smoke`: seconds, on the offline digits, to see that everything works. `short`: fits two CPU
cores. `paper`: the study's epochs, for a GPU."""


@dataclass(frozen=True)
class Panel:
    """One panel of the study: what was trained, what it reports, what we expect.

    Attributes:
        name: as in the study, "2B".
        title: what it shows, in a few words.
        dataset: "mnist" or "cifar10".
        networks: builders that it can be run with; the first is the default.
        options: arguments of the builder.
        drop_rate: drop rate in training.
        fault_rate: fault rate of the chips.
        reported: what the study reports.
        curve: the study's final accuracy or plateau, low to high, in [0, 1]; None if not shown.
        expectation: what we expect, and why.
        good: accuracy in [0, 1] that the yield is given at.
        scope: roles that drop, in the protocol `text`.
        short_epochs: epochs at scale `short`, by network.
        minutes: about how long training takes on two CPU cores at scale `short`, by network.
        explains_collapse: whether the 2 x 2 of evaluation scale and statistics is evaluated.
    """

    name: str
    title: str
    dataset: str
    networks: tuple[str, ...]
    options: Mapping[str, Any]
    drop_rate: float
    fault_rate: float
    reported: str
    curve: tuple[float, float] | None
    expectation: str
    good: float
    scope: str = "blocks"
    short_epochs: Mapping[str, int] = field(default_factory=dict)
    minutes: Mapping[str, float] = field(default_factory=dict)
    explains_collapse: bool = False


@dataclass(frozen=True)
class Setup:
    """How a panel is run at one scale.

    Attributes:
        dataset: name of the dataset, see `keras_rram.data.sources.load`.
        train_images: training images, a stratified part; None for all.
        recipe: how to train.
        builder: name of the builder in `keras_rram.models`.
        options: its arguments.
        validation_chips: chips that are followed after each epoch; the first one alone is what the
            study plots.
        validation_images: test images for it; None for all.
        chips: chips of the final population.
        images: test images for each; None for all.
        repair_images: unlabelled training images for the recalibration of batch normalization.
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


def _mnist(
    name: str,
    bottlenecks: int,
    rate: float,
    reported: str,
    curve: tuple[float, float],
    expectation: str,
    explains_collapse: bool = False,
) -> Panel:
    plural = "s" if bottlenecks > 1 else ""
    return Panel(
        name=name,
        title=f"{bottlenecks} bottleneck{plural}, {rate:.0%} drop",
        dataset="mnist",
        networks=("strided", "published"),
        options={"bottlenecks": bottlenecks},
        drop_rate=rate,
        fault_rate=rate,
        reported=reported,
        curve=curve,
        expectation=expectation,
        good=0.95,
        short_epochs={"strided": 20, "published": 5},
        minutes={"strided": 5 + bottlenecks, "published": 1.5 * bottlenecks},
        explains_collapse=explains_collapse,
    )


def _cifar(
    name: str,
    title: str,
    replaced: tuple[int, ...],
    rate: float,
    reported: str,
    curve: tuple[float, float] | None,
    expectation: str,
    epochs: int = 8,
    **others: Any,
) -> Panel:
    return Panel(
        name=name,
        title=title,
        dataset="cifar10",
        networks=("resnet20",),
        options={"replaced": replaced},
        drop_rate=rate,
        fault_rate=rate,
        reported=reported,
        curve=curve,
        expectation=expectation,
        good=0.8,
        short_epochs={"resnet20": epochs},
        minutes={"resnet20": epochs * (1.5 + 0.3 * len(replaced))},
        **others,
    )


def _architecture(network: str, title: str, rate: float) -> Panel:
    kind = "Drop-Connect" if rate else "plain"
    return Panel(
        name=f"1-{network}-{'dropconnect' if rate else 'plain'}",
        title=f"{title}, {kind} training, 30% of all weights faulty",
        dataset="cifar10",
        networks=(network,),
        options={},
        drop_rate=rate,
        fault_rate=0.3,
        reported="Drop-Connect recovers most of the loss; MobileNetV2 the most of all networks",
        curve=None,
        expectation="plain training falls to chance, Drop-Connect does not",
        good=0.8,
        scope="all",
        short_epochs={network: 8 if network == "resnet20" else 4},
        minutes={network: 12.0 if network == "resnet20" else 15.0},
    )


_SMOKE_OPTIONS: dict[str, dict[str, Any]] = {
    "resnet20": {"width": 4},
    "mobilenet_v2": {"alpha": 0.1},
}
_SHORT_OPTIONS: dict[str, dict[str, Any]] = {"mobilenet_v2": {"alpha": 0.35}}
_SIX = (4, 6, 10, 12, 16, 18)
_NEARLY_ALL = (2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18)
_CLEAN = "as reported: nothing is faulty"
_COLLAPSE = "most of the collapse is statistics and scale, and recalibration undoes it"

PANELS: dict[str, Panel] = {
    panel.name: panel
    for panel in (
        _mnist("2A", 2, 0.0, "98% after 3 epochs", (0.973, 0.982), _CLEAN),
        _mnist("2B", 2, 0.1, "around 94%, fluctuating", (0.900, 0.971), "as reported"),
        _mnist("2C", 4, 0.1, "about 97% after 5 epochs", (0.910, 0.973), "better than 2B"),
        _mnist("3A", 2, 0.2, "87% on average, 80 to 95%", (0.800, 0.947), "as reported"),
        _mnist("3B", 6, 0.2, "around 96%", (0.880, 0.969), "better than 3A"),
        _mnist("3C", 7, 0.2, "worse again", (0.860, 0.964), "no worse than 3B beyond chance"),
        _mnist("S1A", 2, 0.3, "not stable beyond 80%", (0.650, 0.650), _COLLAPSE, True),
        _mnist("S1B", 3, 0.3, "declining", (0.680, 0.680), _COLLAPSE, True),
        _mnist("S1C", 4, 0.3, "a catastrophic dip", (0.640, 0.640), _COLLAPSE, True),
        _mnist("S1D", 5, 0.3, "not stable beyond 80%", (0.805, 0.805), _COLLAPSE, True),
        _mnist("S1E", 6, 0.3, "not stable beyond 80%", (0.620, 0.620), _COLLAPSE, True),
        _cifar(
            "4A",
            "ResNet20, nothing dropped",
            (),
            0.0,
            "93% after 100 epochs",
            (0.923, 0.923),
            _CLEAN,
            epochs=40,
            scope="convolutions",
        ),
        _cifar(
            "4B",
            "one convolution replaced, nothing dropped",
            (10,),
            0.0,
            "no loss",
            (0.920, 0.920),
            _CLEAN,
        ),
        _cifar(
            "4C",
            "six replaced, 20% drop",
            _SIX,
            0.2,
            "around 90%, fluctuating",
            (0.88, 0.89),
            "as reported, with a spread over chips that the study could not see",
        ),
        _cifar(
            "4D",
            "all but three replaced, 20% drop",
            _NEARLY_ALL,
            0.2,
            "about 80% from epoch 100 on",
            (0.75, 0.79),
            "worse than 4C",
        ),
        _cifar(
            "4E",
            "three replaced, 30% drop",
            (4, 10, 16),
            0.3,
            "fluctuates significantly",
            (0.905, 0.905),
            "better than 4F",
        ),
        _cifar(
            "4F",
            "six replaced, 30% drop",
            _SIX,
            0.3,
            "as 4D",
            (0.82, 0.85),
            _COLLAPSE,
            explains_collapse=True,
        ),
        _cifar(
            "all",
            "ResNet20, all convolutions dropped at 20%",
            (),
            0.2,
            "near 80%",
            None,
            "as good as 4D: bottlenecks alone are not what makes a network tolerant",
            scope="convolutions",
        ),
        _architecture("resnet20", "ResNet20", 0.0),
        _architecture("resnet20", "ResNet20", 0.3),
        _architecture("mobilenet_v2", "MobileNetV2", 0.0),
        _architecture("mobilenet_v2", "MobileNetV2", 0.3),
    )
}

GROUPS: dict[str, tuple[str, ...]] = {
    "mnist": tuple(name for name, panel in PANELS.items() if panel.dataset == "mnist"),
    "cifar10": tuple(name for name in PANELS if name[0] == "4" or name == "all"),
    "architectures": tuple(name for name in PANELS if name.startswith("1-")),
    "all_panels": tuple(PANELS),
}
"""Names for several panels at once."""


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
    epochs = panel.short_epochs[network]
    short = paper if is_mnist else RECIPES["cifar10_short"]
    recipe = dataclasses.replace(short, epochs=epochs)
    return Setup(
        dataset=panel.dataset,
        train_images=None,
        recipe=recipe,
        builder=builder,
        options=options,
        validation_chips=5,
        validation_images=1_000,
        chips=100 if is_mnist else 50,
        images=None if network == "strided" or not panel.fault_rate else 2_000,
        repair_images=512,
        hardware="2 CPU cores",
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
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
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
