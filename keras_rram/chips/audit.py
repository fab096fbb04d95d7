"""Audit: which weights of a model a chip reaches, and which stay clean."""

import dataclasses

import keras
import numpy as np

from keras_rram.layers import CONVERTIBLE, DIGITAL, DropConnectMixin, weighted_layers
from keras_rram.layers.roles import role_of


@dataclasses.dataclass(frozen=True)
class AuditRow:
    """One layer of an audit.

    Attributes:
        layer: layer name.
        kind: class name.
        role: role of the layer in its network; `digital` for embeddings and other arrays that are
            no kernels; empty for layers without such an array.
        weights: number of kernel weights, or of all weights where there is no kernel.
        faulty: number of faulty weights in what is programmed now.
        programmable: whether a chip's faults can reach the layer.
    """

    layer: str
    kind: str
    role: str
    weights: int
    faulty: int
    programmable: bool

    @property
    def rate(self) -> float:
        """Achieved fault rate, in `[0, 1]`."""
        return self.faulty / self.weights if self.weights else 0.0


@dataclasses.dataclass(frozen=True)
class Audit:
    """All layers of a model that have weights; `print` it for a table."""

    rows: tuple[AuditRow, ...]

    @property
    def clean(self) -> tuple[str, ...]:
        """Names of the layers with kernels that no fault can reach."""
        return tuple(row.layer for row in self.rows if row.role and not row.programmable)

    @property
    def rate(self) -> float:
        """Achieved fault rate over all programmable weights, in `[0, 1]`."""
        programmable = [row for row in self.rows if row.programmable]
        weights = sum(row.weights for row in programmable)
        return sum(row.faulty for row in programmable) / weights if weights else 0.0

    def __str__(self) -> str:
        """Returns an aligned table with a total."""
        lines = [
            f"{'layer':<28} {'class':<30} {'role':<10} {'weights':>9} {'faulty':>9} {'rate':>7}"
        ]
        for row in self.rows:
            state = f"{row.rate:>7.2%}" if row.programmable else f"{'clean':>7}"
            lines.append(
                f"{row.layer:<28} {row.kind:<30} {row.role:<10} {row.weights:>9,} "
                f"{row.faulty:>9,} {state}"
            )
        reached = sum(row.weights for row in self.rows if row.programmable)
        total = sum(row.weights for row in self.rows)
        lines.append(
            f"{reached:,} of {total:,} weights are on faulty hardware, {self.rate:.2%} of them "
            "faulty."
        )
        return "\n".join(lines)


def audit(model: keras.Model) -> Audit:
    """Lists every layer with weights: its role, and what the programmed chip does to it.

    Recurrent and attention layers are one row each, with all their kernels.

    Faults that silently do not happen are the classic mistake of fault studies: a layer that was
    left clean shows here.

    Args:
        model: a built model, programmed or not.
    """
    return Audit(tuple(map(_row, weighted_layers(model))))


def _row(layer: keras.Layer) -> AuditRow:
    programmable = isinstance(layer, DropConnectMixin) and layer.drop_connect is not None
    if programmable:
        weights = sum(int(np.prod(kernel.shape)) for kernel in layer.kernels.values())
        faulty = sum(_faulty(layer, slot) for slot in layer.kernels)
        return AuditRow(
            layer.name, type(layer).__name__, role_of(layer), weights, faulty, programmable
        )
    kernels = _kernels(layer)
    counted = kernels or layer.weights
    role = "digital" if isinstance(layer, DIGITAL) else role_of(layer)
    return AuditRow(
        layer=layer.name,
        kind=type(layer).__name__,
        role=role if kernels else "",
        weights=sum(int(np.prod(weight.shape)) for weight in counted),
        faulty=0,
        programmable=False,
    )


def _kernels(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the kernels of a layer that is not programmable: of unknown ones, its matrices."""
    if isinstance(layer, DropConnectMixin):
        return list(layer.kernels.values())
    if type(layer) in CONVERTIBLE:
        return list(CONVERTIBLE[type(layer)].kernels_in(layer).values())
    return [weight for weight in layer.weights if len(weight.shape) > 1]


def _faulty(layer: DropConnectMixin, slot: str) -> int:
    mask = keras.ops.convert_to_numpy(layer.fault_masks[slot])
    # With `rescale` a healthy weight's factor is 1 / (1 - fault rate), and no stuck cell raises it.
    healthy = mask.max(initial=0) if layer.drop_connect.rescale else 1  # type: ignore[union-attr]
    faulty = (mask == 0) | (mask != healthy)
    if slot in layer.fault_offsets:
        faulty |= keras.ops.convert_to_numpy(layer.fault_offsets[slot]) != 0
    return int(np.sum(faulty))
