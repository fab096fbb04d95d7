"""One place of a kernel in a TFLite file, and the bytes that a chip puts there."""

import dataclasses
import functools
import warnings

import numpy as np

from keras_rram.export.errors import UnmappableError
from keras_rram.export.flatbuffer import Tensor
from keras_rram.export.kernels import Kernel
from keras_rram.faults import Fault

INT8_LIMIT = 127


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where, and as what, a file holds a kernel.

    The fault-free file has `kernel.transpose(order) * gain * factor` there, quantized.

    Attributes:
        kernel: the kernel, as Keras stores it.
        tensor: the tensor that holds it.
        order: the order of the kernel's axes in the file.
        factor: float64, broadcasts against the transposed kernel: stored units per unit of weight,
            one for each output channel. It joins the folded batch normalization and, in int8, the
            quantization step. 0: the channel is folded away; NaN: unknown, the kernel is 0 there.
        gain: factor on the weights of the fault-free file, which leaves an int8 file room for
            chips that scale their healthy weights.
    """

    kernel: Kernel
    tensor: Tensor
    order: tuple[int, ...]
    factor: np.ndarray
    gain: float = 1.0

    @property
    def is_integer(self) -> bool:
        """Whether the weights are quantized."""
        return self.tensor.type == "INT8"

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the transposed kernel; the file's differs from it by axes of length 1."""
        return tuple(self.kernel.values.shape[axis] for axis in self.order)

    @functools.cached_property
    def is_live(self) -> bool:
        """Whether the stored weights depend on the kernel at all."""
        return bool((np.nan_to_num(self.factor) != 0).any())

    @functools.cached_property
    def channel_factors(self) -> np.ndarray:
        """`factor` as one vector over the output channels, in the order of Keras."""
        return self.factor.transpose(np.argsort(self.order)).ravel()

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return self.channel_factors.size

    @property
    def tensor_steps(self) -> np.ndarray:
        """Quantization steps, one or one for each channel; 1 for floats."""
        return self.tensor.scales if self.is_integer else np.ones(1)

    def per_channel(self, values: np.ndarray) -> np.ndarray:
        """Returns a vector over the output channels so that it broadcasts against the kernel."""
        shape = self.kernel.values.shape
        axes = self.kernel.output_axes
        return values.reshape([size if axis in axes else 1 for axis, size in enumerate(shape)])

    def transpose(self, values: np.ndarray) -> np.ndarray:
        """Returns an array in the kernel's layout in the file's."""
        return values.transpose(self.order)

    def restore(self, stored: np.ndarray) -> np.ndarray:
        """Returns an array in the file's layout in the kernel's."""
        return stored.reshape(self.shape).transpose(np.argsort(self.order))

    def view(self, data: bytes | bytearray) -> np.ndarray:
        """Returns the stored weights in `data`, with the shape `self.shape`, as a view."""
        return self.tensor.read(data).reshape(self.shape)

    def unscaled(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Returns stored floats divided by the factor that most of a channel were multiplied with.

        Args:
            before: the stored weights of the fault-free file, in the file's layout.
            after: those of another file, likewise.
        """
        axes = tuple(
            position
            for position, axis in enumerate(self.order)
            if axis not in self.kernel.output_axes
        )
        both = (before != 0) & (after != 0)
        ratio = np.full(after.shape, np.nan)
        np.divide(after, before, out=ratio, where=both)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of channels without any weight left
            factor = np.nanmedian(ratio, axes, keepdims=True)
        return after / np.where(np.isnan(factor), 1.0, factor)

    def changed(self, fault: Fault) -> np.ndarray:
        """Returns which weights a chip's file has otherwise, in the kernel's layout."""
        changed = fault.factors != np.float32(self.gain)
        return changed if fault.offset is None else changed | (fault.offset != 0)

    def write(self, data: bytearray, fault: Fault) -> None:
        """Writes what a chip makes of the kernel into the bytes of a fault-free file.

        Raises:
            UnmappableError: if a weight is stuck at a value in a channel whose scale is unknown.
        """
        view, changed = self.view(data), self.changed(fault)
        if fault.offset is None:
            # Most chips only lose weights. Their zero is the same in every quantization.
            lost = fault.mask == 0
            np.copyto(view, 0, where=self.transpose(lost))
            changed &= ~lost
            if not changed.any():
                return
        if self.is_live or not self.kernel.values.any():
            where = self.transpose(changed)
            _, view[where] = self.stored(fault, where)

    def stored(self, fault: Fault, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns what some weights are on a chip, and what the file stores for them.

        Args:
            fault: what the chip does to the kernel.
            where: boolean array in the file's layout, the weights that are asked for.

        Returns:
            float32 weights, and the same folded, quantized and saturated, of the file's type.

        Raises:
            UnmappableError: see `write`.
        """
        weights = self.transpose(fault.apply(self.kernel.values))[where]
        factor = np.broadcast_to(self.factor, self.shape)[where]
        if (np.isnan(factor) & (weights != 0)).any():
            raise UnmappableError(
                f"Layer '{self.kernel.layer}': a weight of '{self.kernel.name}' is stuck at a "
                "value, but all trained weights of its output channel are zero, so that the scale "
                "of the channel in the file is unknown. Convert the programmed model instead."
            )
        # Adding 0 makes every -0.0 a zero of zero bytes.
        stored = weights * np.nan_to_num(factor) + 0.0
        if self.is_integer:
            stored = np.clip(np.rint(stored), -INT8_LIMIT, INT8_LIMIT)
        return weights, stored.astype(self.tensor.dtype)
