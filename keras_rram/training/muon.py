"""Muon for networks of convolutions: orthogonal steps for kernels that are matrices."""

import inspect
import re
from typing import Any

import keras
from keras import ops

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


@keras.saving.register_keras_serializable(package="keras_rram")
class KernelMuon(keras.optimizers.Muon):
    """Keras's Muon, that takes the kernels of convolutions as the matrices that they are.

    Muon ([Jordan et al., 2024](https://kellerjordan.github.io/posts/muon/)) replaces the momentum
    of a weight matrix by the orthogonal matrix nearest to it, so that a step moves all directions
    alike. Keras does so for dense kernels alone. Here a kernel of shape `(..., fan_in, outputs)`
    of any rank above 1 is the matrix `(prod(...) * fan_in, outputs)`, the one that a crossbar
    holds. A step's root mean square is `0.2 * learning_rate`, as AdamW's is about
    ([Liu et al., 2025](https://arxiv.org/abs/2502.16982)). What `exclude_layers` names, biases,
    normalization weights and kernels of a single output get AdamW, at the same learning rate.

    `vectors_of(model)` names the kernels of a model that are no matrices.

    Args:
        learning_rate: a float, or a schedule by step.
        **options: of `keras.optimizers.Muon`.

    Raises:
        ImportError: with a Keras before 3.13, whose Muon scales its steps by another rule.

    Example:

    ```python
    model.compile(KernelMuon(1e-2, exclude_layers=vectors_of(model)), "mse")
    ```
    """

    def __init__(self, learning_rate: Any = 1e-2, **options: Any) -> None:
        """Checks that Keras's Muon is the one that this is made for."""
        if "rms_rate" not in inspect.signature(keras.optimizers.Muon).parameters:
            raise ImportError(
                "Muon needs keras>=3.13 (`pip install -U keras`), or use the optimizer 'sgd'. "
                f"Received: keras=={keras.__version__}"
            )
        super().__init__(learning_rate, **options)

    def _should_use_adamw(self, variable: Any) -> bool:
        is_matrix = len(variable.shape) > 1 and variable.shape[-1] > 1
        is_embedding = self.exclude_embeddings and "embedding" in variable.path.lower()
        return (
            not is_matrix
            or is_embedding
            or any(re.search(pattern, variable.path) for pattern in self.exclude_layers)
        )

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        """Returns the orthogonal matrix nearest to a kernel, in the kernel's shape."""
        return ops.reshape(super().zeropower_via_newtonschulz5(_matrix(x), steps), x.shape)

    def lr_adjust(self, x: Any) -> Any:
        """Scales a kernel's orthogonal step to its root mean square."""
        return ops.reshape(super().lr_adjust(_matrix(x)), x.shape)


def _matrix(kernel: Any) -> Any:
    return ops.reshape(kernel, (-1, kernel.shape[-1]))


def vectors_of(model: keras.Model) -> list[str]:
    """Returns patterns of the weights of a model that `KernelMuon` is to leave to AdamW.

    Matrices are the kernels of convolutions of a single group and of dense layers, but for the
    last one of these, the classifier. Left are depthwise kernels, whose channels are vectors that
    have nothing to do with each other, and kernels of recurrent, attention and embedding layers,
    whose axes mean other things.

    Args:
        model: built model; layers of nested models count.

    Raises:
        ValueError: if the model is not built.
    """
    if not model.built:
        raise ValueError(
            f"expected a built model, whose kernels have shapes. Received: '{model.name}' without "
            "weights (call it on an input first)"
        )
    layers = list(model._flatten_layers())
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    matrices = {
        id(layer.kernel)
        for layer in layers
        if (isinstance(layer, keras.layers.Dense) and layer is not dense[-1])
        or (
            isinstance(layer, _CONVOLUTIONS)
            and not isinstance(layer, _DEPTHWISE)
            and layer.groups == 1
        )
    }
    return [
        f"^{re.escape(variable.path)}$"
        for variable in model.trainable_variables
        if len(variable.shape) > 1 and id(variable) not in matrices
    ]
