"""RepairStep by remapping: which weight goes to which place of a layer's crossbar."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from keras_rram.faults.crossbar import Crossbar
from keras_rram.repair.assignment import assign
from keras_rram.repair.hand import Hand, Response
from keras_rram.repair.patches import from_matrices, matrices
from keras_rram.repair.protocol import Tier
from keras_rram.repair.steps import RepairStep

_ROUNDS = 3
_CHUNK = 1 << 22
_MANY = 32
_FIELDS = ("positive", "negative", "offset", "limit")


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Where the weights of one kernel are on its crossbar.

    A kernel is a matrix for each of its groups (see `keras_rram.repair.patches`). Weight
    `[g, r, c]` is at the place `[groups[g], rows[g, r], columns[g, c]]`, and is written there times
    `signs[g, r, c]`; the periphery takes the inputs there, and brings the outputs, times the sign,
    back. So the function of the layer is what it was, whatever the layout.

    Attributes:
        groups: permutation `(groups,)`.
        rows: a permutation for each group, `(groups, rows)`.
        columns: likewise, `(groups, columns)`.
        signs: 1 or -1, `(groups, rows, columns)`, the same for all rows of a tile.
    """

    groups: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    signs: np.ndarray

    @classmethod
    def plain(cls, sizes: tuple[int, int, int]) -> "Layout":
        """Returns the layout in which every weight is where its indices say."""
        groups, rows, columns = sizes
        return cls(
            np.arange(groups),
            np.tile(np.arange(rows), (groups, 1)),
            np.tile(np.arange(columns), (groups, 1)),
            np.ones(sizes, np.int8),
        )

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The place of each weight, index arrays that broadcast to `(groups, rows, columns)`."""
        return self.groups[:, None, None], self.rows[:, :, None], self.columns[:, None, :]

    def written(self, kernel: np.ndarray) -> np.ndarray:
        """Returns the matrices that are written to the crossbar, `(groups, rows, columns)`."""
        found = np.empty_like(kernel)
        found[self.places] = kernel * self.signs
        return found

    def read(self, crossbar: np.ndarray) -> np.ndarray:
        """Returns what the weights of a crossbar mean to the layer: the inverse of `written`."""
        return crossbar[self.places] * self.signs

    def seen(self, response: Response, crossbar: Crossbar) -> Response:
        """Returns the response of a kernel's places as its weights meet it in this layout."""
        shape = response.positive.shape
        positive, negative, offset, limit = (
            matrices(crossbar, np.broadcast_to(getattr(response, name), shape))[self.places]
            for name in _FIELDS
        )
        swapped = self.signs < 0
        parts = (
            np.where(swapped, negative, positive),
            np.where(swapped, positive, negative),
            offset * self.signs,
            limit,
        )
        return Response(*(from_matrices(crossbar, part) for part in parts))


@dataclasses.dataclass(frozen=True, eq=False)
class Remapping(RepairStep):
    """Permutes each layer's weights over its crossbar, so that faults meet those that matter least.

    Access tier C: it needs the chip's map. Rows and columns of the matrix that a kernel is unrolled
    into are permuted, channels of a depthwise kernel and groups too; the periphery brings inputs to
    their rows and outputs back, so that without faults the function is the same. The cost of a
    weight at a place is the squared distance from the weight to what the place can hold
    (`Response.low`, `Response.high`), relative to the energy of its output channel. Rows and
    columns are assigned in turn, `rounds` times, each by the Hungarian method (more than 512 of
    them to the cheapest places of each, see `keras_rram.repair.assignment`).

    Then each weight is written as close to its value as its place allows. That alone makes up for
    much where weights are pairs of cells: a cell stuck on is worth the largest weight, but its
    partner can be set against it, so that all weights of its sign are still held exactly.

    With `polarity`, the bit lines of the pairs of an output channel can be swapped in a tile, its
    weights written negated and its sum subtracted: a pair holds positive weights where it held
    negative ones.

    Reference: Chen et al., "Accelerator-friendly neural-network training: learning variations and
    defects in RRAM crossbar", [DATE 2017](https://doi.org/10.23919/DATE.2017.7926952), who permute
    by bipartite matching; Xia et al., "Fault-tolerant training with on-line fault detection for
    RRAM-based neural computing systems", [DAC 2017](https://doi.org/10.1145/3061639.3062248).

    Attributes:
        rounds: how often rows and columns are assigned, `>= 0`; 0 moves nothing.
        polarity: whether pairs can be swapped. Of faults that are the same for both signs, a swap
            changes nothing.
        tile_rows: word lines of a tile, in which one sign of each output channel holds.

    Example:

    ```python
    with chip.program(model), Remapping()(model, chip):
        model.evaluate(test_images, test_labels)
    ```
    """

    name: ClassVar[str] = "remap"
    access_tier: ClassVar[Tier] = "C"

    rounds: int = _ROUNDS
    polarity: bool = True
    tile_rows: int = 128

    def __post_init__(self) -> None:
        """Checks the options."""
        for name, least in (("rounds", 0), ("tile_rows", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"`{name}` must be an integer >= {least}. Received: {name}={value!r}"
                )

    def apply(self, hand: Hand) -> None:
        """Moves the weights of each kernel, and writes them."""
        for name, response in hand.responses.items():
            kernel = hand.kernel(name)
            layout = self.layout(kernel, response, hand.crossbar(name))
            hand.responses[name] = layout.seen(response, hand.crossbar(name))
            hand.write(name, hand.responses[name].write(kernel))

    def layout(self, kernel: np.ndarray, response: Response, crossbar: Crossbar) -> Layout:
        """Returns the layout of a kernel on a chip whose places respond so."""
        weights = matrices(crossbar, kernel)
        layout = Layout.plain(weights.shape)
        places = [
            matrices(crossbar, np.broadcast_to(one, kernel.shape))
            for one in (response.low, response.high)
        ]
        worth = 1 / np.maximum((weights**2).sum(1, keepdims=True), 1e-30)
        cost = functools.partial(self._cost, weights, worth, places)
        best, least = layout, cost(layout).sum()
        for _ in range(self.rounds):
            layout = self._assigned(weights, worth, places, layout)
            found = cost(layout).sum()
            if found >= least:
                break
            best, least = layout, found
        return best

    def _assigned(self, weights: Any, worth: Any, places: Any, layout: Layout) -> Layout:
        """Returns a layout after one assignment of groups, rows, columns and signs."""
        low, high = places
        count = len(weights)
        groups, rows, columns = layout.groups, layout.rows.copy(), layout.columns.copy()
        if count > 1:
            # As if rows and columns of all groups were where they are in their own.
            plain = (weights * layout.signs).reshape(count, -1)
            scale = np.broadcast_to(worth, weights.shape).reshape(count, -1)
            costs = _pairwise(plain, scale, low.reshape(count, -1), high.reshape(count, -1))
            groups = assign(costs)
        signs = layout.signs
        for group in range(count):
            lower, upper = low[groups[group]], high[groups[group]]
            signed = weights[group] * signs[group]
            scale = np.broadcast_to(worth[group], signed.shape)
            at = columns[group]
            costs = _pairwise(signed, scale, lower[:, at], upper[:, at])
            rows[group] = assign(costs)
            at = rows[group]
            costs = _pairwise(signed.T, scale.T, lower[at].T, upper[at].T)
            columns[group] = assign(costs)
        layout = Layout(groups, rows, columns, signs)
        return self._signed(weights, places, layout) if self.polarity else layout

    def _signed(self, weights: Any, places: Any, layout: Layout) -> Layout:
        """Returns a layout with the better sign of each output channel in each tile."""
        low, high = (part[layout.places] for part in places)
        signs = np.ones(weights.shape, np.int8)
        gain = distance(weights, low, high) - distance(-weights, low, high)
        tiles = layout.rows // self.tile_rows
        for tile in range(int(tiles.max(initial=0)) + 1):
            inside = (tiles == tile)[:, :, None]
            swap = (gain * inside).sum(1, keepdims=True) > 0
            signs[inside & swap] = -1
        return dataclasses.replace(layout, signs=signs)

    def _cost(self, weights: Any, worth: Any, places: Any, layout: Layout) -> np.ndarray:
        low, high = (part[layout.places] for part in places)
        return distance(weights * layout.signs, low, high) * worth


def distance(weights: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns the squared distance of weights from ranges."""
    return np.maximum(np.maximum(low - weights, weights - high), 0) ** 2


def _pairwise(
    weights: np.ndarray, scale: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Returns the cost of each row of weights on each row of places, `(rows, places)`."""
    # A range is one integer, its bits: to sort complex numbers takes many times as long.
    bits = [np.ascontiguousarray(one, np.float32).view(np.uint32) for one in (low, high)]
    kinds = bits[0].astype(np.uint64) << np.uint64(32) | bits[1]
    costs = np.zeros((len(weights), len(low)))
    different = np.unique(kinds)
    if len(different) <= _MANY:
        # Few kinds of places: each costs a weight the same wherever it is.
        for kind in different:
            here = kinds == kind
            at = np.unravel_index(here.argmax(), here.shape)
            loss = distance(weights, low[at], high[at]) * scale
            if loss.any():
                costs += loss @ here.T.astype(loss.dtype)
        return costs
    step = max(1, _CHUNK // max(weights.size, 1))
    for start in range(0, len(low), step):
        part = slice(start, start + step)
        loss = distance(weights[:, None], low[None, part], high[None, part])
        costs[:, part] = np.einsum("rpc,rc->rp", loss, scale)
    return costs
