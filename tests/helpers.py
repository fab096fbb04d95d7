"""The layer harness: every layer, its plain Keras parent, an input shape and options."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest

from keras_rram import layers


@dataclasses.dataclass(frozen=True)
class LayerCase:
    twin: type
    plain: type
    shape: tuple[int, ...]
    options: dict[str, Any]
    channels_first: bool = False

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.plain.__name__}({options})"


IMAGE = (2, 9, 8, 4)
IMAGE_FIRST = (2, 4, 9, 8)
CAUSAL = {"padding": "causal", "dilation_rate": 2}


def _cases() -> list[LayerCase]:
    dense = (layers.DropConnectDense, keras.layers.Dense)
    conv = (layers.DropConnectConv2D, keras.layers.Conv2D)
    depthwise = (layers.DropConnectDepthwiseConv2D, keras.layers.DepthwiseConv2D)
    separable = (layers.DropConnectSeparableConv2D, keras.layers.SeparableConv2D)
    transposed = {"filters": 6, "kernel_size": 3, "strides": 2, "activation": "relu"}
    return [
        *(
            LayerCase(getattr(layers, f"DropConnect{plain.__name__}"), plain, shape, options)
            for plain, shape, options in (
                (
                    keras.layers.EinsumDense,
                    (3, 2, 5),
                    {"equation": "abc,cde->abde", "output_shape": (2, 3, 4), "bias_axes": "de"},
                ),
                (keras.layers.Conv1D, (2, 9, 4), {"filters": 6, "kernel_size": 3, **CAUSAL}),
                (keras.layers.Conv3D, (2, 5, 4, 3, 2), {"filters": 6, "kernel_size": 2}),
                (keras.layers.Conv1DTranspose, (2, 5, 4), transposed),
                (keras.layers.Conv2DTranspose, (2, 5, 4, 3), {**transposed, "padding": "same"}),
                (keras.layers.Conv3DTranspose, (2, 3, 3, 2, 2), {**transposed, "use_bias": False}),
                (keras.layers.DepthwiseConv1D, (2, 9, 4), {"kernel_size": 3}),
                (keras.layers.SeparableConv1D, (2, 9, 4), {"filters": 6, "kernel_size": 3}),
            )
        ),
        LayerCase(*dense, (3, 5), {"units": 4}),
        LayerCase(*dense, (3, 2, 5), {"units": 4, "use_bias": False, "activation": "relu"}),
        LayerCase(*dense, (3, 5), {"units": 4, "kernel_regularizer": "l2", "lora_rank": 2}),
        LayerCase(*conv, IMAGE, {"filters": 6, "kernel_size": 3}),
        LayerCase(*conv, IMAGE, {"filters": 6, "kernel_size": (3, 2), "strides": 2}),
        LayerCase(*conv, IMAGE, {"filters": 6, "kernel_size": 3, "dilation_rate": 2}),
        LayerCase(
            *conv,
            IMAGE,
            {"filters": 6, "kernel_size": 3, "padding": "same", "groups": 2, "use_bias": False},
        ),
        LayerCase(
            *conv,
            IMAGE,
            {"filters": 6, "kernel_size": 1, "activation": "relu", "kernel_regularizer": "l2"},
        ),
        LayerCase(
            *conv,
            IMAGE_FIRST,
            {"filters": 6, "kernel_size": 3, "data_format": "channels_first"},
            channels_first=True,
        ),
        LayerCase(*depthwise, IMAGE, {"kernel_size": 3}),
        LayerCase(*depthwise, IMAGE, {"kernel_size": 3, "strides": 2, "padding": "same"}),
        LayerCase(*depthwise, IMAGE, {"kernel_size": 3, "depth_multiplier": 2, "use_bias": False}),
        LayerCase(
            *depthwise,
            IMAGE_FIRST,
            {"kernel_size": 3, "data_format": "channels_first"},
            channels_first=True,
        ),
        LayerCase(*separable, IMAGE, {"filters": 6, "kernel_size": 3}),
        LayerCase(
            *separable,
            IMAGE,
            {"filters": 6, "kernel_size": 3, "depth_multiplier": 2, "padding": "same"},
        ),
        LayerCase(
            *separable,
            IMAGE,
            {"filters": 6, "kernel_size": 3, "use_bias": False, "activation": "relu"},
        ),
    ]


def _selected() -> list[LayerCase]:
    """All cases on TensorFlow; one or two of each layer elsewhere, where each takes much longer."""
    cases = _cases()
    if keras.backend.backend() == "tensorflow":
        return cases
    short = {case.twin: case for case in reversed(cases)}.values()
    return [*short, *(case for case in cases if case.channels_first or "groups" in case.options)]


CASES = [pytest.param(case, id=str(case)) for case in _selected()]


def skip_unsupported(case: LayerCase) -> None:
    """Skips what a backend cannot compute on a CPU, with or without Drop-Connect."""
    if case.channels_first and keras.backend.backend() == "tensorflow":
        try:
            case.plain(**case.options)(np.zeros(case.shape, "float32"))
        except Exception:  # noqa: BLE001
            pytest.skip("TensorFlow has no channels_first convolution of this kind on a CPU")


def pair(case: LayerCase, drop_connect: Any = 0.0) -> tuple[Any, Any, np.ndarray]:
    """Returns the twin and the plain layer with equal weights, and an input."""
    skip_unsupported(case)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=case.shape).astype("float32")
    plain = case.plain(**case.options)
    twin = case.twin(**case.options, drop_connect=drop_connect)
    plain.build(case.shape)
    twin.build(case.shape)
    for new, old in zip(twin.trainable_weights, plain.trainable_weights, strict=True):
        value = rng.normal(size=old.shape)
        old.assign(value)
        new.assign(value)
    for slot, kernel in twin.kernels.items():
        original = getattr(plain, f"_{slot}", None)
        kernel.assign(getattr(plain, slot) if original is None else original)
    return twin, plain, inputs


def to_numpy(value: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(value))


def gradients(layer: Any, inputs: np.ndarray, training: bool) -> list[np.ndarray]:
    """Gradients of a fixed weighted sum of the outputs, for each trainable weight and the input."""
    outputs = layer(inputs, training=training) if _takes_training(layer) else layer(inputs)
    weights = np.random.default_rng(1).normal(size=tuple(outputs.shape)).astype("float32")
    call = {"training": training} if _takes_training(layer) else {}
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        x = tf.constant(inputs)
        variables = [weight.value for weight in layer.trainable_weights]
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, **call) * weights)
        results = tape.gradient(loss, [*variables, x])
    elif backend == "torch":
        import torch

        x = torch.tensor(inputs, requires_grad=True)
        layer.zero_grad()
        (layer(x, **call) * torch.tensor(weights)).sum().backward()
        results = [weight.value.grad for weight in layer.trainable_weights] + [x.grad]
    else:
        import jax

        fixed = [weight.value for weight in layer.non_trainable_variables]

        def loss(trainable: list, x: Any) -> Any:
            outputs, _ = layer.stateless_call(trainable, fixed, x, **call)
            return (outputs * weights).sum()

        trainable = [weight.value for weight in layer.trainable_variables]
        by_weight, by_input = jax.grad(loss, argnums=(0, 1))(trainable, inputs)
        results = [*by_weight, by_input]
    return [to_numpy(result) for result in results]


def _takes_training(layer: Any) -> bool:
    return isinstance(layer, layers.DropConnectMixin | keras.Model)


def tiny_model(rate: float | None = 0.2, name: str = "tiny") -> keras.Model:
    """A small network with every Drop-Connect layer, for 8x8x1 images and 4 classes."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    x = layers.DropConnectConv2D(6, 1, use_bias=False, drop_connect=rate, name="b1_expand")(x)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = layers.DropConnectDepthwiseConv2D(
        3, strides=2, padding="same", drop_connect=rate, name="b1_depthwise"
    )(x)
    x = keras.layers.ReLU()(x)
    x = layers.DropConnectSeparableConv2D(4, 3, drop_connect=rate, name="separable_conv")(x)
    x = keras.layers.Flatten()(x)
    outputs = layers.DropConnectDense(4, drop_connect=rate, name="head")(x)
    return keras.Model(inputs, outputs, name=name)


def tiny_images(count: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 8, 8, 1)).astype("float32"), rng.integers(0, 4, count)
