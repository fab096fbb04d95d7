"""Is a linear bottleneck more tolerant than a basic block? Two ResNet20 of equal cost.

The study compares a ResNet20 with one whose convolutions are replaced by bottlenecks of the same
width, which have 1.6 times as many weights. Here the network of its panel 4D, all but three
convolutions replaced, is narrowed to 13 filters: then it has as many parameters (-0.6%), as many
weights on faulty hardware (-4.9%) and as many multiply-accumulates (+0.9%) as the plain one, so
that one network is matched in all three ways. In both, all convolutions are on faulty hardware.
The plain network at 20% is the study's own panel `all`.
"""

from keras_rram.study.panels import GROUPS, PANELS, Panel

MATCHED_WIDTH = 13

PAIRS = {"bottlenecks-10": "basic-10", "bottlenecks-20": "all", "bottlenecks-30": "basic-30"}
"""Panel of bottlenecks -> panel of basic blocks that it is compared with."""


_NAMES = tuple(name for bottlenecks, basic in PAIRS.items() for name in (basic, bottlenecks))


def _panel(name: str) -> Panel:
    kind, percent = name.split("-")
    basic, rate = PANELS["all"], int(percent) / 100
    is_basic = kind == "basic"
    title = "basic blocks" if is_basic else "linear bottlenecks of equal cost"
    bottlenecks = {"replaced": PANELS["4D"].options["replaced"], "width": MATCHED_WIDTH}
    return Panel(
        name=name,
        title=f"{title}, all convolutions dropped at {rate:.0%}",
        dataset=basic.dataset,
        networks=basic.networks,
        options=basic.options if is_basic else bottlenecks,
        drop_rate=rate,
        fault_rate=rate,
        reported="not measured there at equal cost",
        curve=None,
        expectation="open",
        good=basic.good,
        minutes={"resnet20": 1.3 if is_basic else 5.6},
        scope=basic.scope,
    )


MATCHED: dict[str, Panel] = {name: _panel(name) for name in _NAMES if name not in PANELS}
"""By name: the panels of `PAIRS` that the study has not."""

ALL_PANELS: dict[str, Panel] = PANELS | MATCHED
"""The study's panels, and those of this comparison."""

ALL_GROUPS: dict[str, tuple[str, ...]] = GROUPS | {"linear_bottlenecks": _NAMES}
"""Names for several panels at once."""
