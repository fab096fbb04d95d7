"""Drop-Connect and weight noise: the training-time constraints on a kernel."""

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


def weight_noise(kernel: Tensor, sigma: float, seed: Any, reference: Tensor) -> Tensor:
    """Adds to each weight Gaussian noise of standard deviation `sigma * max(abs(reference))`.

    The gradient with respect to the weights passes unchanged.

    Reference: [Joshi et al., 2020](https://doi.org/10.1038/s41467-020-16108-9), whose noise is
    relative to a layer's largest weight, since that has the largest conductance.

    Args:
        kernel: tensor of any shape.
        sigma: standard deviation, as a share of the layer's weight range, `>= 0`.
        seed: integer or `keras.random.SeedGenerator`.
        reference: the stored kernel, whose largest magnitude is the layer's weight range.

    Returns:
        Tensor with the shape and the dtype of `kernel`.
    """
    draws = keras.random.normal(ops.shape(kernel), dtype="float32", seed=seed)
    scale = sigma * ops.max(ops.abs(ops.cast(reference, "float32")))
    return ops.add(kernel, ops.cast(ops.stop_gradient(scale) * draws, kernel.dtype))


class KernelNoise(keras.constraints.Constraint):
    """Base of what changes a kernel at random in a forward pass; see `WeightNoise`.

    A subclass computes in `noisy`.
    """

    def noisy(self, kernel: Tensor, seed: Any, reference: Tensor) -> Tensor:
        """Returns the kernel with noise.

        Args:
            kernel: tensor of any shape.
            seed: integer or `keras.random.SeedGenerator`.
            reference: the kernel as it is stored, whose range the noise is relative to.
        """
        raise NotImplementedError

    def __call__(self, kernel: Tensor, seed: Any = None, reference: Tensor | None = None) -> Tensor:
        """Returns the kernel with noise; a `keras.Variable` is refused.

        Args:
            kernel: tensor of any shape.
            seed: integer or `keras.random.SeedGenerator`; None for one of Keras's own.
            reference: the kernel as it is stored, defaults to `kernel`.
        """
        if isinstance(kernel, keras.Variable):
            raise TypeError(
                f"{type(self).__name__} cannot constrain a variable: Keras would write the noise "
                f"into the weights of '{kernel.path}' after each update. Use a layer of "
                "`keras_rram.layers` with `drop_connect=DropConnect(rate, noise=...)`."
            )
        return self.noisy(kernel, seed, kernel if reference is None else reference)


@keras.saving.register_keras_serializable(package="keras_rram")
class WeightNoise(KernelNoise):
    """Adds fresh Gaussian noise to a kernel's weights in every forward pass.

    In training, as `DropConnect(0.1, noise=WeightNoise(0.05))`, it makes a network tolerate the
    read noise and the programming errors of a chip. At inference `keras_rram.read_noise`
    turns it on.

    Reference: [Joshi et al., 2020](https://doi.org/10.1038/s41467-020-16108-9): their
    `eta = sigma_noise / w_max`, with a value of its own for each layer. They clip weights to a few
    standard deviations, so that one large weight does not set the noise of all.

    Args:
        sigma: standard deviation of the noise as a share of the largest magnitude in the kernel,
            `>= 0`.
    """

    def __init__(self, sigma: float):
        if isinstance(sigma, bool) or not isinstance(sigma, int | float):
            raise TypeError(f"`sigma` must be a number >= 0. Received: sigma={sigma!r}")
        if not 0.0 <= sigma < float("inf"):
            raise ValueError(f"`sigma` must be >= 0 and finite. Received: sigma={sigma}")
        self.sigma = float(sigma)

    def noisy(self, kernel: Tensor, seed: Any, reference: Tensor) -> Tensor:
        """Returns `weight_noise(kernel, sigma, seed, reference)`."""
        return weight_noise(kernel, self.sigma, seed, reference)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain values."""
        return {"sigma": self.sigma}


def _as_noise(value: Any) -> KernelNoise | None:
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if value is None or isinstance(value, KernelNoise):
        return value
    raise TypeError(
        "`noise` must be a `WeightNoise`, a `NoiseInjection` or None. "
        f"Received: noise={value!r} (of type {type(value).__name__})"
    )


def _other_seed(seed: Any) -> Any:
    """Returns an integer for the noise that is not the mask's; generators give fresh ones."""
    return (seed + 0x9E3779B9) % (1 << 31) if isinstance(seed, int) else seed


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
        noise: what else changes the kernel in each training step, after the drop: a
            `WeightNoise`, or a `NoiseInjection` of a fault model. Rate 0 leaves the noise alone.
        masks: how many masks each batch gets, each for an equal part of it. With one, the
            statistics of a batch fit its mask, as no chip's will, and the loss never has the error
            that a chip makes with fixed statistics. With several, batch normalization pools them.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectConv2D(32, 3, drop_connect=DropConnect(0.2, seed=1))
    mixed = DropConnect(0.2, noise=WeightNoise(0.05))
    robust = DropConnect(0.2, masks=8)
    ```
    """

    def __init__(
        self,
        rate: float,
        rescale: bool = False,
        seed: int | None = None,
        noise: Any = None,
        masks: int = 1,
    ):
        if not isinstance(rescale, bool):
            raise TypeError(f"`rescale` must be a bool. Received: rescale={rescale!r}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise TypeError(f"`seed` must be an integer or None. Received: seed={seed!r}")
        if isinstance(masks, bool) or not isinstance(masks, int) or masks < 1:
            raise ValueError(f"`masks` must be an integer >= 1. Received: masks={masks!r}")
        self.rate = check_rate(rate)
        self.rescale = rescale
        self.seed = seed
        self.noise = _as_noise(noise)
        self.masks = masks

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
        seed = self.seed if seed is None else seed
        rate = self.rate if rate is None else rate
        dropped = drop_connect(kernel, rate, seed, self.rescale)
        if self.noise is None:
            return dropped
        return self.noise(dropped, _other_seed(seed), reference=kernel)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain values, `noise` and `masks` where set."""
        config: dict[str, Any] = {"rate": self.rate, "rescale": self.rescale, "seed": self.seed}
        if self.noise is not None:
            config["noise"] = keras.saving.serialize_keras_object(self.noise)
        if self.masks > 1:
            config["masks"] = self.masks
        return config
