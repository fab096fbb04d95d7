"""Which layers bear faults: each group of layers alone, and all but it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import keras
from scipy import stats

from keras_rram.evaluation.statistics.intervals import Interval
from keras_rram.hardware import summary_table
from keras_rram.layers import faulty_layers
from keras_rram.layers.roles import role_of
from keras_rram.placement.bench import HEALTHY, Bench
from keras_rram.placement.walk import Placement

if TYPE_CHECKING:
    import pandas as pd

GROUPINGS = ("layer", "place", "role")
"""How layers are grouped: each by itself; by what comes before the role in their names, which is
a bottleneck or a convolution of a network of ours; by role."""


@dataclass(frozen=True)
class GroupSensitivity:
    """What one group of layers costs.

    Attributes:
        group: its name.
        layers: its layers.
        macs_share: its part of the model's multiply-accumulates, in `[0, 1]`.
        alone: accuracy lost, against the model without faults, where it alone is faulty.
        all_but: accuracy lost, likewise, where all candidates but it are.
        gain: accuracy that making it exact gives back, where all candidates are faulty.
    """

    group: str
    layers: tuple[str, ...]
    macs_share: float
    alone: Interval
    all_but: Interval
    gain: Interval


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivities of a model's groups of layers, in the order of the network.

    Attributes:
        rows: one for each group.
        fault_free: accuracy with nothing faulty.
        all_faulty: accuracy with every candidate faulty.
        statistics: where normalizations have their statistics from, see `Bench`.
        tier: access tier.
        chips: number of chips.
        images: images of each chip.
    """

    rows: tuple[GroupSensitivity, ...]
    fault_free: Interval
    all_faulty: Interval
    statistics: str
    tier: str
    chips: int
    images: int

    @property
    def widest(self) -> float:
        """Length of the longest interval of a difference."""
        return max(
            2 * found.half_width
            for row in self.rows
            for found in (row.alone, row.all_but, row.gain)
        )

    def to_frame(self) -> "pd.DataFrame":
        """Returns a row for each group; accuracies and shares in `[0, 1]`."""
        import pandas as pd

        rows = []
        for row in self.rows:
            values: dict[str, Any] = {
                "group": row.group,
                "layers": " ".join(row.layers),
                "macs_share": row.macs_share,
                "statistics": self.statistics,
                "tier": self.tier,
            }
            for name in ("alone", "all_but", "gain"):
                found = getattr(row, name)
                values |= {
                    name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high
                }  # fmt: skip
            rows.append(values)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON, but for the rows."""
        held = {name: value for name, value in vars(self).items() if name != "rows"}
        return {
            name: asdict(value) if isinstance(value, Interval) else value
            for name, value in held.items()
        } | {"widest": self.widest}


def measure_sensitivity(
    bench: Bench,
    groups: Mapping[str, Sequence[str]],
    progress: Callable[[], object] | None = None,
) -> Sensitivity:
    """Measures what each group of layers costs, alone and as the only exact one.

    Args:
        bench: the model, its chips and images.
        groups: name -> layers, from `group_layers`; together they are the candidates.
        progress: called after each chip.

    Raises:
        ValueError: if there is no group, or a layer is in two.

    Example:

    ```python
    network = StagedNetwork(model)
    bench = Bench(network, population(StuckAtZero(0.2), 50), data, images_per_chip=200)
    print(measure_sensitivity(bench, group_layers(model)).to_frame())
    ```
    """
    named: dict[str, Placement] = {name: frozenset(layers) for name, layers in groups.items()}
    everything: Placement = frozenset().union(*named.values())
    if not named or sum(map(len, named.values())) > len(everything):
        raise ValueError(f"expected groups that share no layer, at least one. Received: {groups}")
    wanted = [HEALTHY, everything]
    for layers in named.values():
        wanted += [layers, everything - layers]
    answers = bench.answers(wanted, progress=progress)
    healthy, whole = answers[HEALTHY], answers[everything]
    shares = macs_shares(bench.network.model)
    rows = tuple(
        GroupSensitivity(
            name,
            tuple(groups[name]),
            sum(shares[layer] for layer in layers),
            bench.interval(healthy, answers[layers]),
            bench.interval(healthy, answers[everything - layers]),
            bench.interval(answers[everything - layers], whole),
        )
        for name, layers in named.items()
    )
    return Sensitivity(
        rows,
        bench.interval(healthy),
        bench.interval(whole),
        bench.statistics,
        bench.tier,
        len(bench.chips),
        len(bench.folds[0]),
    )


def group_layers(
    model: keras.Model, by: str = "layer", keep: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Returns the Drop-Connect layers of a model in groups, in the order of the model.

    Args:
        model: built model.
        by: one of `GROUPINGS`.
        keep: layers or roles that stay exact and are in no group.

    Raises:
        ValueError: if `by` is unknown, `keep` names nothing of the model, or no layer is left.
    """
    if by not in GROUPINGS:
        raise ValueError(f"expected groups by one of {GROUPINGS}. Received: {by!r}")
    layers = faulty_layers(model)
    roles = {name: role_of(layer) for name, layer in layers.items()}
    if unknown := sorted(set(keep) - set(layers) - set(roles.values())):
        raise ValueError(
            f"expected layers or roles of the model to keep, out of {list(layers)}. Received: "
            f"{unknown}"
        )
    found: dict[str, list[str]] = {}
    for name, role in roles.items():
        if name in keep or role in keep:
            continue
        place = name.removesuffix(f"_{role}") or name
        found.setdefault({"layer": name, "place": place, "role": role}[by], []).append(name)
    if not found:
        raise ValueError(f"expected a layer that may fail. Received: keep={list(keep)}, of all")
    return {name: tuple(part) for name, part in found.items()}


def macs_shares(model: keras.Model) -> dict[str, float]:
    """Returns each Drop-Connect layer's part of the model's multiply-accumulates."""
    table = summary_table(model)
    return {row.name: row.macs / table.macs for row in table.rows if row.faulty}


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Returns Spearman's rank correlation; None of fewer than three, or where all are equal."""
    if len(one) < 3 or len(set(one)) == 1 or len(set(other)) == 1:
        return None
    return float(stats.spearmanr(one, other).statistic)
