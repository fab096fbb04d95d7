"""Inputs without their mean, so that a chip's lost weights shift nothing."""

from typing import Any

import keras
from keras import ops

Tensor = Any


@keras.saving.register_keras_serializable(package="keras_rram")
class CenteredInput(keras.layers.Layer):
    """Subtracts from each channel its moving mean; goes before a layer on faulty hardware.

    A chip that loses weights shifts an output by `-sum(w mu)` over the lost ones, where `mu` are
    the means of the inputs. Behind a ReLU `mu` is of the size of the deviation, and the shift is
    a third of an output's deviation at 30% faults. Inputs of mean zero leave nothing to shift. Put
    it in front of the padding, whose zeros are then the mean.

    In training, each step subtracts the moving mean, as inference does, and afterwards moves it
    towards the batch's mean; no gradient flows into it. New, the mean is zero and the layer changes
    nothing.

    On a chip it asks for signed inputs, or for one more read: `W (x - mu) = W x - W mu`, whose
    second term is the response to a constant input. In a TFLite file it is one subtraction.

    Args:
        momentum: of the moving mean, in `[0, 1)`.
        **kwargs: arguments of `keras.layers.Layer`.

    Input shape:
        Any, with the channels last.

    Example:

    ```python
    x = keras_rram.layers.CenteredInput()(x)
    x = keras_rram.DropConnectConv2D(32, 3, padding="same", drop_connect=0.3)(x)
    ```
    """

    def __init__(self, momentum: float = 0.9, **kwargs: Any):
        super().__init__(**kwargs)
        if isinstance(momentum, bool) or not 0.0 <= momentum < 1.0:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum!r}")
        self.momentum = float(momentum)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Creates the moving mean, zeros."""
        if input_shape[-1] is None:
            raise ValueError(
                f"Layer '{self.name}' needs a known number of channels. Received: input shape "
                f"{input_shape}"
            )
        self.moving_mean = self.add_weight(
            name="moving_mean",
            shape=(input_shape[-1],),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            autocast=False,
        )

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the inputs less their moving mean."""
        outputs = inputs - ops.cast(self.moving_mean, inputs.dtype)
        if training and self.trainable:
            mean = mean_of_channels(ops.stop_gradient(inputs))
            self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1.0 - self.momentum))
        return outputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "momentum": self.momentum}


def mean_of_channels(inputs: Tensor) -> Tensor:
    """Returns the mean over all axes but the last, float32."""
    return ops.mean(ops.cast(inputs, "float32"), axis=tuple(range(len(inputs.shape) - 1)))
