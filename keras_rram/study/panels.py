"""The study's panels as short records; how they are run is in `setups`.

Source: "Exploration of Linear Bottleneck Architecture for RRAM Fault-tolerant Deep Learning"
(2024). What it reports is given here in the words of a table; where it shows a curve only, its
final value or plateau was read from the figure, to half a point on MNIST and a point on CIFAR-10.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
        minutes: about how long an epoch takes on two CPU cores, by network.
        scope: roles that drop, in the protocol `text`.
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
    minutes: Mapping[str, float]
    scope: str = "blocks"
    explains_collapse: bool = False


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
        minutes={"strided": 0.25 + 0.05 * bottlenecks, "published": 0.3 * bottlenecks},
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
        minutes={"resnet20": 1.5 + 0.3 * len(replaced)},
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
        minutes={network: {"resnet20": 1.5, "mobilenet_v2": 3.75, "vgg13": 6.0}[network]},
    )


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
        _architecture("vgg13", "VGG13", 0.0),
        _architecture("vgg13", "VGG13", 0.3),
    )
}

GROUPS: dict[str, tuple[str, ...]] = {
    "mnist": tuple(name for name, panel in PANELS.items() if panel.dataset == "mnist"),
    "cifar10": tuple(name for name in PANELS if name[0] == "4" or name == "all"),
    "architectures": tuple(name for name in PANELS if name.startswith("1-")),
    "all_panels": tuple(PANELS),
}
"""Names for several panels at once."""
