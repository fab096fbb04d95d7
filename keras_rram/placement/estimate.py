"""The expected loss of each layer from gradients, without the evaluation of any chip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.chips import Chip, erase
from keras_rram.layers import faulty_layers, loss_of


@dataclass(frozen=True)
class Estimate:
    """By how much faults in one group of layers raise the loss, to second order.

    Attributes:
        first: `E[g . d]`, the expected first-order change of the mean cross-entropy, where `g` is
            its gradient and `d` what a chip changes of the weights.
        second: `E[(g_n . d)^2] / 2` over chips and examples `n`: half of `d' F d` with the
            empirical Fisher matrix `F`, in the place of the second derivative.
    """

    first: float
    second: float

    @property
    def loss(self) -> float:
        """Both together."""
        return self.first + self.second


def estimate_sensitivity(
    model: keras.Model,
    chips: Sequence[Chip],
    data: tuple[Any, Any],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, Estimate]:
    """Estimates what each group of layers costs alone, from one backward pass for each image.

    Any fault model will do, as what it changes of the weights is drawn and not averaged.

    Reference: saliencies from the diagonal of the second derivative are those of LeCun, Denker,
    Solla, "Optimal Brain Damage" (NIPS 1989); the empirical Fisher matrix in its place, without
    the diagonal, as in Theis et al., 2018 (https://arxiv.org/abs/1801.05787).

    Args:
        model: built model of logits or probabilities `(n, classes)`, or `(n, 1)` of a sigmoid, with
            the statistics that it has without faults.
        chips: some chips, for instance 16.
        data: training images and their labels, for instance 256.
        groups: name -> layers, see `group_layers`.

    Raises:
        ValueError: on another backend than TensorFlow, or for a model that is no classifier.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "expected the TensorFlow backend, whose gradients the estimate takes. Received: "
            f"'{keras.backend.backend()}' (measure the sensitivities instead)"
        )
    import tensorflow as tf

    images, labels = np.asarray(data[0]), np.asarray(data[1])
    layers = faulty_layers(model)
    kernels = {
        f"{name}/{slot}": kernel
        for name, layer in layers.items()
        for slot, kernel in layer.kernels.items()
    }
    variables = list(kernels.values())
    loss_of_head = loss_of(model)
    values = {name: np.array(ops.convert_to_numpy(kernel)) for name, kernel in kernels.items()}
    changes = {name: [] for name in kernels}  # type: dict[str, list[np.ndarray]]
    for chip in chips:
        faults = chip.faults(model)
        for name, kernel in values.items():
            moved = faults[name].apply(kernel) - kernel if name in faults else np.zeros_like(kernel)
            changes[name].append(moved.ravel())
    stacked = [np.stack(changes[name], axis=1).astype(np.float32) for name in kernels]

    def products(image: Any, label: Any) -> Any:
        with tf.GradientTape() as tape:
            found = model(image[None], training=False)
            loss = loss_of_head(label[None], found)
        gradients = tape.gradient(loss, [kernel.value for kernel in variables])
        return [
            tf.linalg.matvec(moved, tf.reshape(gradient, [-1]), transpose_a=True)
            for gradient, moved in zip(gradients, stacked, strict=True)
        ]

    signature = [tf.TensorSpec(images.shape[1:], images.dtype), tf.TensorSpec([], tf.int64)]
    with erase(model):
        traced = tf.function(products, input_signature=signature, autograph=False)
        run = traced.get_concrete_function()
        found = [
            run(tf.constant(image), tf.constant(label, tf.int64))
            for image, label in zip(images, labels, strict=True)
        ]
    # Kernel name -> g_n . d_c, examples x chips.
    by_kernel = {
        name: np.stack([np.asarray(one[place]) for one in found])
        for place, name in enumerate(kernels)
    }
    estimates = {}
    for group, members in groups.items():
        mine = [by_kernel[name] for name in kernels if name.rpartition("/")[0] in set(members)]
        total = np.sum(mine, axis=0, dtype=np.float64)
        estimates[group] = Estimate(float(total.mean()), float((total**2).mean() / 2))
    return estimates
