"""The exact, slower model of an array: partial sums of each tile through converters, read noise.

A layer's kernel is unrolled into a matrix (`keras_rram.faults.Crossbar`) whose rows are cut into
tiles. Each tile sums the products of its rows, an analog-to-digital converter (ADC) clips and
rounds that partial sum, and the partial sums are added digitally. Inputs, biases, activations and
all other layers are exact. One ADC reads the difference of a pair of cells, so a partial sum has a
sign.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, cast

import keras
import numpy as np
from keras import ops

from keras_rram.chips.chip import erase
from keras_rram.faults.crossbar import Crossbar
from keras_rram.hardware.periphery import Analog, convert
from keras_rram.layers import (
    DropConnectConv2D,
    DropConnectDense,
    DropConnectDepthwiseConv2D,
    DropConnectMixin,
    DropConnectSeparableConv2D,
    faulty_layers,
)
from keras_rram.layers.convert import rebuild

Tensor = Any
_BATCH = 100
_KEPT = 100_000  # partial sums of a kernel that a batch adds to the quantile


class AnalogMixin(DropConnectMixin):
    """Computes a Drop-Connect layer tile by tile; goes before the layer's class.

    Made by `to_analog`. In training and before calibration it computes as without a converter.

    Attributes:
        analog: the `Analog`.
        adc_ranges: kernel name -> scalar variable, the largest partial sum that is not clipped; 0
            before calibration.
        observer: function of a kernel's name and its partial sums, called instead of converting
            them; None usually.
    """

    is_analog = True
    observer: Callable[[str, Tensor], None] | None = None

    def __init__(self, *args: Any, analog: Any = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.analog = Analog(**analog) if isinstance(analog, dict) else analog or Analog()
        self.adc_ranges: dict[str, keras.Variable] = {}

    @property
    def is_noisy(self) -> bool:
        """Whether two inferences of the same input may differ."""
        return super().is_noisy or self.analog.read_noise > 0

    def build(self, input_shape: Any) -> None:
        """Creates the layer's weights and the range of each kernel's converters."""
        super().build(input_shape)
        self._tracker.unlock()
        for slot in self.kernels:
            self.adc_ranges[slot] = self.add_weight(
                name=f"{slot.removesuffix('kernel')}adc_range",
                shape=(),
                initializer="zeros",
                trainable=False,
                dtype="float32",
                autocast=False,
            )
        self._tracker.lock()

    def crossbar(self, slot: str) -> Crossbar:
        """Returns how a kernel is unrolled."""
        raise NotImplementedError

    def operation(self, inputs: Tensor, kernel: Tensor, slot: str) -> Tensor:
        """Returns the layer's linear operation."""
        raise NotImplementedError

    def _parts(self, slot: str) -> np.ndarray:
        """Returns for each weight which of its column's tiles it is in, from 0."""
        crossbar = self.crossbar(slot)
        row, column = crossbar.positions()
        tile = np.broadcast_to(row // self.analog.tile_rows, crossbar.split)
        columns = np.broadcast_to(column, crossbar.split)
        first = np.full(crossbar.columns, np.iinfo(np.intp).max)
        np.minimum.at(first, columns.ravel(), tile.ravel())
        return (tile - first[columns]).reshape(crossbar.shape)

    def analog_product(
        self, inputs: Tensor, slot: str = "kernel", training: bool | None = False
    ) -> Tensor:
        """Returns the sum over tiles of what their converters read."""
        kernel = self.effective_kernel(slot, training=training)
        sigma = self.analog.read_noise
        scale = sigma * ops.max(ops.abs(self.kernels[slot].value)) if sigma else None
        parts = self._parts(slot)
        total = None
        for number in range(int(parts.max()) + 1):
            tile = ops.cast(ops.convert_to_tensor((parts == number) * 1.0), kernel.dtype)
            partial = self.operation(inputs, kernel * tile, slot)
            if scale is not None:
                # The sum of independent Gaussian errors of the weights, weighted by the inputs.
                power = self.operation(ops.square(inputs), tile, slot)
                draws = keras.random.normal(ops.shape(partial), seed=self.seed_generator)
                spread = ops.cast(scale, kernel.dtype) * ops.sqrt(ops.relu(power))
                partial = partial + spread * ops.cast(draws, kernel.dtype)
            if self.observer is not None:
                self.observer(slot, partial)
            elif self.analog.adc_bits is not None and not training:
                limit = ops.cast(self.adc_ranges[slot].value, kernel.dtype)
                partial = convert(partial, limit, self.analog.adc_bits)
            total = partial if total is None else total + partial
        return total

    def get_config(self) -> dict[str, Any]:
        """Returns the layer's config with `analog`."""
        return {**super().get_config(), "analog": dataclasses.asdict(self.analog)}


@keras.saving.register_keras_serializable(package="keras_rram")
class AnalogDense(AnalogMixin, DropConnectDense):
    """`DropConnectDense` on arrays; made by `to_analog`."""

    def crossbar(self, slot: str) -> Crossbar:
        """Returns inputs as rows, units as columns."""
        return Crossbar.dense(tuple(self.kernels[slot].shape))

    def operation(self, inputs: Tensor, kernel: Tensor, slot: str) -> Tensor:
        """Returns `inputs @ kernel`."""
        return ops.matmul(inputs, kernel)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the activation of the tiles' sum and the bias."""
        return self._bias_and_activation(self.analog_product(inputs, training=training))


@keras.saving.register_keras_serializable(package="keras_rram")
class AnalogConv2D(AnalogMixin, DropConnectConv2D):
    """`DropConnectConv2D` on arrays; made by `to_analog`."""

    def crossbar(self, slot: str) -> Crossbar:
        """Returns windows as rows, filters as columns, groups along the diagonal."""
        return Crossbar.grouped(tuple(self.kernels[slot].shape), self.groups)

    def operation(self, inputs: Tensor, kernel: Tensor, slot: str) -> Tensor:
        """Returns the convolution."""
        return self.convolution_op(inputs, kernel)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the activation of the tiles' sum and the bias."""
        return self._bias_and_activation(self.analog_product(inputs, training=training))


class _Windows(AnalogMixin):
    """What the layers with a depthwise kernel share."""

    def _depthwise(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@keras.saving.register_keras_serializable(package="keras_rram")
class AnalogDepthwiseConv2D(_Windows, DropConnectDepthwiseConv2D):
    """`DropConnectDepthwiseConv2D` on arrays; made by `to_analog`."""

    def crossbar(self, slot: str) -> Crossbar:
        """Returns one block for each channel, along the diagonal."""
        return Crossbar.depthwise(tuple(self.kernels[slot].shape))

    def operation(self, inputs: Tensor, kernel: Tensor, slot: str) -> Tensor:
        """Returns the depthwise convolution."""
        return self._depthwise(inputs, kernel)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the activation of the tiles' sum and the bias."""
        return self._bias_and_activation(self.analog_product(inputs, training=training))


@keras.saving.register_keras_serializable(package="keras_rram")
class AnalogSeparableConv2D(_Windows, DropConnectSeparableConv2D):
    """`DropConnectSeparableConv2D` on arrays, one after the other; made by `to_analog`."""

    def crossbar(self, slot: str) -> Crossbar:
        """Returns the crossbar of the depthwise or of the pointwise kernel."""
        shape = tuple(self.kernels[slot].shape)
        is_depthwise = slot == "depthwise_kernel"
        return Crossbar.depthwise(shape) if is_depthwise else Crossbar.dense(shape)

    def operation(self, inputs: Tensor, kernel: Tensor, slot: str) -> Tensor:
        """Returns the depthwise or the pointwise convolution."""
        if slot == "depthwise_kernel":
            return self._depthwise(inputs, kernel)
        return ops.conv(inputs, kernel, strides=1, padding="valid", data_format=self.data_format)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the activation of the tiles' sum and the bias."""
        windows = self.analog_product(inputs, "depthwise_kernel", training)
        return self._bias_and_activation(self.analog_product(windows, "pointwise_kernel", training))


ANALOG: dict[type, type] = {
    DropConnectDense: AnalogDense,
    DropConnectConv2D: AnalogConv2D,
    DropConnectDepthwiseConv2D: AnalogDepthwiseConv2D,
    DropConnectSeparableConv2D: AnalogSeparableConv2D,
}


def to_analog(
    model: keras.Model, analog: Analog | None = None, images: np.ndarray | None = None
) -> keras.Model:
    """Returns a model that computes its Drop-Connect layers on arrays, tile by tile.

    Chips program it as they do the model; layers of other kinds stay digital.

    Args:
        model: functional or Sequential model with Drop-Connect layers.
        analog: converters, tiles and read noise.
        images: calibration images `(n, ...)`, preprocessed as for the model, a few hundred of the
            training set; required for converters. Each layer's range is that of its partial sums
            on them, without faults and noise, see `Analog.coverage`.

    Returns:
        A new model, not compiled; without converters and read noise its outputs equal the model's.

    Raises:
        ValueError: if a layer has no analog form, or if images are missing.

    Example:

    ```python
    analog = to_analog(model, Analog(adc_bits=6, read_noise=0.01), train_images[:300])
    with chip.program(analog):
        outputs = analog.predict(images)
    ```
    """
    analog = analog or Analog()
    found = faulty_layers(model)
    if not found:
        raise ValueError(
            f"Model '{model.name}' has no Drop-Connect layer to compute on arrays. Convert it with "
            "`to_drop_connect(model, 0.0)`."
        )
    if analog.adc_bits is not None and (images is None or not len(images)):
        raise ValueError(
            "expected `images`, a few hundred preprocessed training images, to calibrate the "
            f"range of the {analog.adc_bits}-bit converters. Received: none (adc_bits=None needs "
            "no images)"
        )
    for name, layer in found.items():
        if type(layer) not in ANALOG:
            raise ValueError(
                f"Layer '{name}' ({type(layer).__name__}) has no analog form. Layers with one: "
                f"{sorted(kind.__name__ for kind in ANALOG)}."
            )

    def clone(layer: keras.Layer) -> keras.Layer:
        if layer.name not in found:
            return type(layer).from_config(layer.get_config())
        config = {**layer.get_config(), "analog": dataclasses.asdict(analog)}
        return cast(Any, ANALOG[type(layer)]).from_config(config)

    twin = rebuild(model, clone)
    if analog.adc_bits is not None and images is not None:
        _calibrate(twin, np.asarray(images), analog.coverage)
    return twin


def _calibrate(model: keras.Model, images: np.ndarray, coverage: float) -> None:
    """Sets the ranges from the partial sums of a healthy, noiseless model."""
    layers = faulty_layers(model)
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    quiet = dataclasses.replace(next(iter(layers.values())).analog, read_noise=0.0)
    given = {name: layer.analog for name, layer in layers.items()}

    def observer(name: str) -> Callable[[str, Tensor], None]:
        def observe(slot: str, sums: Tensor) -> None:
            magnitudes = np.abs(ops.convert_to_numpy(sums)).ravel()
            if coverage == 1.0:
                kept = magnitudes.max(keepdims=True)
            else:
                kept = magnitudes[:: math.ceil(magnitudes.size / _KEPT)]
            found.setdefault((name, slot), []).append(kept)

        return observe

    try:
        with erase(model):
            for name, layer in layers.items():
                layer.analog, layer.observer = quiet, observer(name)
            for start in range(0, len(images), _BATCH):
                model(images[start : start + _BATCH], training=False)
    finally:
        for name, layer in layers.items():
            layer.analog, layer.observer = given[name], None
    for (name, slot), sums in found.items():
        limit = float(np.quantile(np.concatenate(sums), coverage))
        # Where all partial sums are zero, any range reads them.
        layers[name].adc_ranges[slot].assign(limit if limit > 0 else 1.0)
