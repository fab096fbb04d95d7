"""What the outputs of a classifier are, logits or probabilities, and the loss that goes with it."""

from typing import Any

import keras


def is_sigmoid(model: keras.Model) -> bool:
    """Whether a sigmoid makes a model's output, as far as its layers tell."""
    return getattr(_last(model), "activation", None) is keras.activations.sigmoid


def is_softmax(model: keras.Model) -> bool:
    """Whether a softmax makes a model's output, as far as its layers tell."""
    last = _last(model)
    if last is None and getattr(model, "layers", None):
        last = model.layers[-1]  # of a subclassed model, the one that was made last
    # The layer of that name, or the operation `keras.ops.softmax`.
    is_own = isinstance(last, keras.layers.Softmax) or type(last).__name__ == "Softmax"
    return is_own or getattr(last, "activation", None) is keras.activations.softmax


def is_binary(model: keras.Model) -> bool:
    """Whether a model says yes or no by one sigmoid, with outputs `(n, 1)`."""
    shape = getattr(model, "output_shape", None)
    return isinstance(shape, tuple) and len(shape) == 2 and shape[1] == 1 and is_sigmoid(model)


def loss_of(model: keras.Model, losses: Any = keras.losses) -> Any:
    """Returns the cross entropy of a classifier for integer labels `(n,)`.

    It is that of the logits, or of the probabilities where the model ends in a softmax or in one
    sigmoid.

    Args:
        model: the classifier.
        losses: the module of the losses: that of Keras, or of `tf_keras`.

    Raises:
        ValueError: for several sigmoids, or one output that is no sigmoid's.

    Example:

    ```python
    model.compile("adam", loss_of(model), metrics=["accuracy"])
    ```
    """
    if is_binary(model):
        return losses.BinaryCrossentropy()
    shape = getattr(model, "output_shape", None)
    if isinstance(shape, tuple) and (shape[-1] == 1 or is_sigmoid(model)):
        kind = "behind a sigmoid" if is_sigmoid(model) else "behind no sigmoid"
        raise ValueError(
            "expected a classifier: outputs (n, classes), logits or behind a softmax, or (n, 1) "
            f"behind a sigmoid. Received: model '{model.name}' with outputs {shape} {kind} (a "
            "regression, or several labels of one sample, cannot be trained here)"
        )
    return losses.SparseCategoricalCrossentropy(from_logits=not is_softmax(model))


def _last(model: keras.Model) -> Any:
    """Returns the layer or operation that makes a model's first output, or None."""
    outputs = getattr(model, "outputs", None) or []
    history = getattr(outputs[0], "_keras_history", None) if outputs else None
    layer = getattr(history, "operation", None)
    while isinstance(layer, keras.Model) and layer.layers:
        layer = layer.layers[-1]
    return layer
