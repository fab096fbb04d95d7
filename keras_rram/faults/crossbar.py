"""Where the weights of a kernel sit on a crossbar, and the tiles that the crossbar is cut into.

A kernel is unrolled into a matrix: rows are word lines, which carry inputs, and columns are bit
lines, which sum outputs. The matrix is cut into tiles from its first row and column on; those of
the last row and column of tiles may be partial.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

TILE = (128, 128)
_MANY_ROWS = 2


def checked_tile(tile: Any) -> tuple[int, int]:
    """Returns a tile's (rows, columns), from a pair or from one number for both.

    Raises:
        ValueError: if it is no positive integer and no pair of them.
    """
    pair = (tile, tile) if isinstance(tile, int) else tile
    if (
        not isinstance(pair, Sequence)
        or len(pair) != 2
        or not all(isinstance(size, int) and size > 0 for size in pair)
        or any(isinstance(size, bool) for size in pair)
    ):
        raise ValueError(
            "`tile` must be (rows, columns), two integers >= 1, or one for both. "
            f"Received: tile={tile!r}"
        )
    return int(pair[0]), int(pair[1])


@dataclasses.dataclass(frozen=True)
class Crossbar:
    """The matrix that a kernel is unrolled into.

    The row of a weight is its index in `row_axes`, the last one running fastest, its column that in
    `column_axes`. An axis that is in both ties inputs to outputs, as channels of a depthwise kernel
    do: its weights lie in blocks along the diagonal, and no weight is elsewhere.

    - Dense kernels, those of recurrent layers and all others of unknown use: the last axis is the
      columns, all before it are rows.
    - Convolutions: `kernel_height * kernel_width * in_channels` rows, one column for each filter
      ([ISAAC, ISCA 2016](https://doi.org/10.1109/ISCA.2016.12), the source of 128 x 128 too).
    - Depthwise and grouped convolutions: one block for each channel or group, along the diagonal.
      All channels are computed at once, and most cells of a tile stay unused, which is the low
      utilization that [MobiLattice, ICCAD 2020](https://doi.org/10.1145/3400302.3415666) reports.

    Attributes:
        shape: the kernel's shape.
        split: shape of the array that the axes are those of: `shape`, or where one of its axes runs
            over groups, `shape` with that axis split in two.
        row_axes: axes of `split` that are rows.
        column_axes: axes of `split` that are columns.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    row_axes: tuple[int, ...]
    column_axes: tuple[int, ...]

    @classmethod
    def dense(cls, shape: Sequence[int], outputs: int = 1) -> "Crossbar":
        """Returns the crossbar of a kernel whose last `outputs` axes are columns."""
        axes = tuple(range(len(shape)))
        first = max(len(axes) - outputs, 0)
        return cls(tuple(shape), tuple(shape), axes[:first], axes[first:])

    @classmethod
    def depthwise(cls, shape: Sequence[int]) -> "Crossbar":
        """Returns the crossbar of a kernel of shape (..., channels, depth multiplier)."""
        if len(shape) < _MANY_ROWS:
            raise ValueError(
                "A depthwise kernel has the shape (..., channels, depth multiplier). "
                f"Received: shape={tuple(shape)}"
            )
        channel, multiplier = len(shape) - 2, len(shape) - 1
        return cls(tuple(shape), tuple(shape), (channel, *range(channel)), (channel, multiplier))

    @classmethod
    def grouped(cls, shape: Sequence[int], groups: int) -> "Crossbar":
        """Returns the crossbar of a kernel of shape (..., channels / groups, filters)."""
        if groups < 1 or shape[-1] % groups:
            raise ValueError(
                f"`groups` must divide the {shape[-1]} filters. Received: groups={groups}"
            )
        if groups == 1:
            return cls.dense(shape)
        group = len(shape) - 1
        split = (*shape[:-1], groups, shape[-1] // groups)
        return cls(tuple(shape), split, (group, *range(group)), (group, group + 1))

    @classmethod
    def einsum(cls, shape: Sequence[int], equation: str) -> "Crossbar":
        """Returns the crossbar of the second operand of an einsum, as of `EinsumDense`.

        Its axes that the input has are rows, those that the output has are columns.

        Args:
            shape: the kernel's shape.
            equation: for example `"abc,cde->abde"`, where c is rows, d and e are columns.
        """
        operands, _, outputs = equation.replace(" ", "").partition("->")
        inputs, _, letters = operands.partition(",")
        if not outputs or len(letters) != len(shape) or not letters.isalpha():
            raise ValueError(
                f"`equation` must be 'input,kernel->output' for a kernel of shape {tuple(shape)}. "
                f"Received: equation={equation!r}"
            )
        shared = [i for i, letter in enumerate(letters) if letter in inputs and letter in outputs]
        columns = [i for i, letter in enumerate(letters) if letter in outputs and i not in shared]
        rows = [i for i in range(len(letters)) if i not in shared and i not in columns]
        return cls(tuple(shape), tuple(shape), (*shared, *rows), (*shared, *columns))

    @classmethod
    def of(cls, shape: Sequence[int]) -> "Crossbar":
        """Returns the crossbar of a kernel's shape.

        A `KernelShape` knows it. A plain tuple of four with a last axis of 1 and a window above 1 x
        1 is taken for a depthwise kernel, any other for a dense one.
        """
        if isinstance(shape, KernelShape):
            return shape.crossbar
        if len(shape) == 4 and shape[3] == 1 and shape[0] * shape[1] > 1:
            return cls.depthwise(shape)
        return cls.dense(shape)

    def with_cells(self, cells: int) -> "Crossbar":
        """Returns the crossbar of an array of shape `(*shape, cells)`, side by side in a row."""
        if cells < 1:
            raise ValueError(f"`cells` must be an integer >= 1. Received: cells={cells}")
        return Crossbar(
            (*self.shape, cells),
            (*self.split, cells),
            self.row_axes,
            (*self.column_axes, len(self.split)),
        )

    @property
    def rows(self) -> int:
        """Number of word lines."""
        return math.prod(self.split[axis] for axis in self.row_axes)

    @property
    def columns(self) -> int:
        """Number of bit lines."""
        return math.prod(self.split[axis] for axis in self.column_axes)

    @property
    def size(self) -> int:
        """Number of weights, which is `rows * columns` where no axis is in both."""
        return math.prod(self.shape)

    @property
    def is_full(self) -> bool:
        """Whether every position of the matrix holds a weight."""
        return not set(self.row_axes) & set(self.column_axes)

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the row and the column of every weight, arrays that broadcast to `split`."""
        return self._index(self.row_axes), self._index(self.column_axes)

    def _index(self, axes: tuple[int, ...]) -> np.ndarray:
        index = np.zeros((1,) * len(self.split), np.intp)
        stride = 1
        for axis in reversed(axes):
            size = self.split[axis]
            shape = [1] * len(self.split)
            shape[axis] = size
            index = index + stride * np.arange(size).reshape(shape)
            stride *= size
        return index

    def grid(self, tile: tuple[int, int]) -> tuple[int, int]:
        """Returns how many tiles the matrix spans in rows and in columns, unused ones included."""
        return math.ceil(self.rows / tile[0]), math.ceil(self.columns / tile[1])

    def blocks(self, tile: tuple[int, int]) -> list["Block"]:
        """Returns the part of the matrix in each tile that holds a weight, tile row by tile row."""
        down, across = self.grid(tile)
        if self.is_full:
            tops, lefts = range(0, self.rows, tile[0]), range(0, self.columns, tile[1])
            return [
                Block(top, min(top + tile[0], self.rows), left, min(left + tile[1], self.columns))
                for top in tops
                for left in lefts
            ]
        row, column = (np.broadcast_to(index, self.split).ravel() for index in self.positions())
        number = row // tile[0] * across + column // tile[1]
        order = np.argsort(number, kind="stable")
        first = np.flatnonzero(np.diff(number[order], prepend=-1))
        row, column = row[order], column[order]
        bounds = (
            np.minimum.reduceat(row, first),
            np.maximum.reduceat(row, first) + 1,
            np.minimum.reduceat(column, first),
            np.maximum.reduceat(column, first) + 1,
        )
        return [Block(*map(int, bound)) for bound in zip(*bounds, strict=True)]

    def locate(self, tile: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns where every weight is: its block, and its row and column in that block.

        Returns:
            Index into `blocks(tile)`, row and column; they broadcast to `split`.
        """
        row, column = self.positions()
        blocks = self.blocks(tile)
        tops = np.array([block.top for block in blocks])
        lefts = np.array([block.left for block in blocks])
        numbers = np.zeros(self.grid(tile), np.intp)
        numbers[tops // tile[0], lefts // tile[1]] = np.arange(len(blocks))
        number = numbers[row // tile[0], column // tile[1]]
        if self.is_full:
            return number, row % tile[0], column % tile[1]
        return number, row - tops[number], column - lefts[number]


@dataclasses.dataclass(frozen=True)
class Block:
    """The rows and columns of a crossbar that one tile holds, ends excluded.

    Of a matrix that is not full it is the smallest rectangle around the tile's weights.
    """

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left


class KernelShape(tuple):
    """A kernel's shape that knows its crossbar; for all other purposes a tuple.

    Give it to `FaultModel.sample` where the shape alone does not tell a depthwise or a grouped
    kernel from a dense one.

    Attributes:
        crossbar: the `Crossbar`.

    Example:

    ```python
    shape = KernelShape(Crossbar.depthwise((3, 3, 64, 2)))
    RowFaults(0.1).sample(shape, np.random.default_rng(0))
    ```
    """

    crossbar: Crossbar

    def __new__(cls, crossbar: Crossbar) -> "KernelShape":
        """Makes the shape of a crossbar's kernel."""
        shape = super().__new__(cls, crossbar.shape)
        shape.crossbar = crossbar
        return shape

    def __getnewargs__(self) -> tuple[Crossbar]:  # type: ignore[override]
        """Lets copies and pickles know the crossbar."""
        return (self.crossbar,)
