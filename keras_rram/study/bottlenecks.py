"""Is a linear bottleneck more tolerant than a basic block? Two ResNet20 of equal cost.

The study compares a ResNet20 with one whose convolutions are replaced by bottlenecks of the same
width, which have 1.6 times as many weights. Here the network of its panel 4D, all but three
convolutions replaced, is narrowed to 13 filters: then it has as many parameters (-0.6%), as many
weights on faulty hardware (-4.9%) and as many multiply-accumulates (+0.9%) as the plain one, so
that one network is matched in all three ways. In both, all convolutions are on faulty hardware.
"""

from keras_rram.study.panels import GROUPS, PANELS, Panel

RATES = (0.1, 0.2, 0.3)
MATCHED_WIDTH = 13


def _panel(kind: str, title: str, rate: float) -> Panel:
    basic = PANELS["all"]
    replaced = PANELS["4D"].options["replaced"]
    is_basic = kind == "basic"
    return Panel(
        name=f"{kind}-{100 * rate:.0f}",
        title=f"{title}, all convolutions dropped at {rate:.0%}",
        dataset=basic.dataset,
        networks=basic.networks,
        options={} if is_basic else {"replaced": replaced, "width": MATCHED_WIDTH},
        drop_rate=rate,
        fault_rate=rate,
        reported="not measured there at equal cost",
        curve=None,
        expectation="open",
        good=basic.good,
        minutes={"resnet20": 1.5 if is_basic else 4.5},
        scope="convolutions",
    )


MATCHED: dict[str, Panel] = {
    panel.name: panel
    for rate in RATES
    for panel in (
        _panel("basic", "basic blocks", rate),
        _panel("bottlenecks", "linear bottlenecks of equal cost", rate),
    )
}
"""By name: `basic-10` to `basic-30`, `bottlenecks-10` to `bottlenecks-30`."""

ALL_PANELS: dict[str, Panel] = PANELS | MATCHED
"""The study's panels, and those of this comparison."""

ALL_GROUPS: dict[str, tuple[str, ...]] = GROUPS | {"linear_bottlenecks": tuple(MATCHED)}
"""Names for several panels at once."""
