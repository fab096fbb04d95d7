"""What the study concludes, as statements that populations of chips can confirm or refute."""

import dataclasses

from keras_rram.study.bottlenecks import PAIRS


@dataclasses.dataclass(frozen=True)
class Finding:
    """One statement: the mean accuracy of a panel's chips against another's, or against a value.

    Attributes:
        statement: in words.
        panel: the panel that it is about.
        other: the panel that it is compared with; None where `value` is given.
        margin: the statement says `mean(panel) - mean(other) > margin`, or, with `is_below`, `<`.
        value: accuracy in [0, 1] that the mean is compared with.
        is_below: whether the statement is that it is less.
        any_method: whether the page opens with its verdicts for every way of training; else with
            those for the study's alone.
    """

    statement: str
    panel: str
    other: str | None = None
    margin: float = 0.0
    value: float | None = None
    is_below: bool = False
    any_method: bool = False


FINDINGS = (
    Finding("Two bottlenecks without drops reach 98% (2A)", "2A", value=0.98),
    Finding("Four bottlenecks do better than two at 10% (2C against 2B)", "2C", "2B"),
    Finding("Six bottlenecks do better than two at 20% (3B against 3A)", "3B", "3A"),
    Finding("Seven do worse than six (3C against 3B)", "3C", "3B", is_below=True),
    *(
        Finding(
            f"{count} bottlenecks stay below 80% at 30% ({name})", name, value=0.8, is_below=True
        )
        for name, count in (("S1A", 2), ("S1B", 3), ("S1C", 4), ("S1D", 5), ("S1E", 6))
    ),
    Finding("ResNet20 reaches 91% (4A)", "4A", value=0.91),
    Finding("One bottleneck costs less than a point (4B against 4A)", "4B", "4A", margin=-0.01),
    Finding("Six at 20% cost less than 5 points (4C against 4A)", "4C", "4A", margin=-0.05),
    Finding("All but three cost more than six (4D against 4C)", "4D", "4C", is_below=True),
    Finding("Three do better than six at 30% (4E against 4F)", "4E", "4F"),
    Finding(
        "Six at 30% fall as low as 4D, within 5 points (4F against 4D)",
        "4F",
        "4D",
        margin=0.05,
        is_below=True,
    ),
    Finding(
        "Bottlenecks tolerate more than plain convolutions (4D against all)", "4D", "all", 0.02
    ),
    *(
        Finding(
            f"Bottlenecks tolerate more at equal cost ({bottlenecks} against {basic})",
            bottlenecks,
            basic,
            any_method=True,
        )
        for bottlenecks, basic in PAIRS.items()
    ),
    *(
        Finding(
            f"Drop-Connect beats plain training by 10 points ({title}, 30% faults)",
            f"1-{network}-dropconnect",
            f"1-{network}-plain",
            margin=0.1,
        )
        for network, title in (
            ("resnet20", "ResNet20"),
            ("mobilenet_v2", "MobileNetV2"),
            ("vgg13", "VGG13"),
        )
    ),
)
