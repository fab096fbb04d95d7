"""Drop-Connect: the training-time constraint on a kernel."""

from typing import Any

import keras
from keras import ops

Tensor = Any


def check_rate(rate: float, name: str = "rate") -> float:
    """Returns `rate` as a float, or raises when it is not a number in `[0, 1)`."""
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise TypeError(f"`{name}` must be a number in [0, 1). Received: {name}={rate!r}")
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={rate}")
    return float(rate)


def drop_connect(kernel: Tensor, rate: Tensor, seed: Any, rescale: bool = False) -> Tensor:
    """Sets each weight to zero with probability `rate`, independently.

    The gradient of a dropped weight is exactly zero, and its value is kept: the mask is part of
    the forward pass and never of the stored variable.

    Reference: [Wan et al., 2013](https://proceedings.mlr.press/v28/wan13.html).

    Args:
        kernel: tensor of any shape.
        rate: scalar in `[0, 1)`, a number or a tensor.
        seed: integer or `keras.random.SeedGenerator`.
        rescale: whether the kept weights are scaled by `1 / (1 - rate)`.

    Returns:
        Tensor with the shape and the dtype of `kernel`.
    """
    # Drawn in float32 whatever the kernel's dtype: float16 has too few values below a small rate.
    rate = ops.cast(rate, "float32")
    kept = keras.random.uniform(ops.shape(kernel), dtype="float32", seed=seed) >= rate
    mask = ops.cast(kept, "float32")
    if rescale:
        mask = mask / (1.0 - rate)
    return ops.multiply(kernel, ops.cast(mask, kernel.dtype))


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnect(keras.constraints.Constraint):
    """Zeroes a fresh random subset of a kernel's weights in every training step.

    Give it to the `drop_connect` argument of the layers in `keras_rram.layers`, which apply it to
    the kernel *inside* the training forward pass. Keras itself would apply a constraint to the
    stored variable after each update and so destroy the weights for good; used that way, on a
    plain Keras layer, it raises.

    Reference: [Xiang et al., 2024](https://arxiv.org/abs/2404.15498), who train networks for
    faulty RRAM with it.

    Args:
        rate: drop rate in `[0, 1)`.
        rescale: whether kept weights are scaled by `1 / (1 - rate)` in training. A chip then
            scales its healthy weights by `1 / (1 - fault rate)`, so that training and inference
            see one scale. Defaults to `False`: weights are never scaled.
        seed: integer for a reproducible sequence of masks. Each layer derives its own sequence
            from the seed and the layer's name, so that one `DropConnect` can serve many layers.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectConv2D(32, 3, drop_connect=DropConnect(0.2, seed=1))
    ```
    """

    def __init__(self, rate: float, rescale: bool = False, seed: int | None = None):
        if not isinstance(rescale, bool):
            raise TypeError(f"`rescale` must be a bool. Received: rescale={rescale!r}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise TypeError(f"`seed` must be an integer or None. Received: seed={seed!r}")
        self.rate = check_rate(rate)
        self.rescale = rescale
        self.seed = seed

    def __call__(self, kernel: Tensor, rate: Tensor | None = None, seed: Any = None) -> Tensor:
        """Returns `kernel` with a random subset of its weights set to zero.

        Args:
            kernel: tensor; a `keras.Variable` is refused, see the class.
            rate: scalar drop rate, defaults to the rate of this constraint.
            seed: integer or `keras.random.SeedGenerator`, defaults to the seed of this constraint.
        """
        if isinstance(kernel, keras.Variable):
            raise TypeError(
                "DropConnect cannot constrain a variable: Keras would overwrite the weights of "
                f"'{kernel.path}' after each update, and every dropped weight would be lost. Use "
                "a layer of `keras_rram.layers` (say `DropConnectDense`), which drops weights in "
                "the forward pass only, or convert the model with `to_drop_connect`."
            )
        return drop_connect(
            kernel,
            self.rate if rate is None else rate,
            seed=self.seed if seed is None else seed,
            rescale=self.rescale,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain values."""
        return {"rate": self.rate, "rescale": self.rescale, "seed": self.seed}
