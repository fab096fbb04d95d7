"""Quantization-aware training: int8 and Drop-Connect together, then an int8 file."""

import dataclasses
import hashlib
from typing import Any

import keras
import numpy as np

from keras_rram.chips.chip import erase
from keras_rram.data import check_classes, check_images, check_labels
from keras_rram.export.convert import CALIBRATION_IMAGES
from keras_rram.export.errors import ExportError
from keras_rram.export.tf_keras_twin import legacy_keras, tf_keras_twin
from keras_rram.layers import faulty_layers, is_binary, loss_of
from keras_rram.layers.cloning import copied
from keras_rram.layers.drop_connect import check_rate
from keras_rram.quiet import quiet


@dataclasses.dataclass(frozen=True, eq=False)
class QATResult:
    """What quantization-aware training brought.

    Attributes:
        tflite: the int8 file of the fault-free model, int8 in and out.
        model: a model of the same layers as the given one, fault-free, with the trained weights.
            `PatchableModel(model, tflite)` makes the files of chips.
        losses: mean training loss of each epoch, under Drop-Connect.
        accuracies: training accuracy of each epoch, in `[0, 1]`, likewise.
    """

    tflite: bytes
    model: keras.Model
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]


def quantization_aware_train(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    epochs: int = 1,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    drop_rate: float | None = None,
    seed: int = 0,
) -> QATResult:
    """Trains a model on with the rounding of int8 in its forward pass, and exports the int8 file.

    Use it where the post-training int8 file of a model is clearly worse than the model. The model
    is rebuilt in `tf_keras` with its weights, `tensorflow-model-optimization` puts quantization
    into it, and the layers with Drop-Connect keep it: a fresh mask of the quantized kernel in every
    step, so that dropped weights keep their value and get no gradient. Ranges of activations are
    those of the first `CALIBRATION_IMAGES` images, set again before each epoch and at the end.

    Reference: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018 (https://arxiv.org/abs/1712.05877).

    Args:
        model: trained classifier, see `tf_keras_twin`: with logits as outputs, or ending in a
            softmax or in one sigmoid, whose loss is taken then. It is left as it is.
        images: float training images `(n, ...)`, preprocessed as for the model.
        labels: integer classes `(n,)`; of a model with one sigmoid 0 and 1.
        epochs: passes over the images, at least 1.
        batch_size: images in each step; the rest of an epoch is a smaller step.
        learning_rate: of Adam.
        drop_rate: drop rate in `[0, 1)` for all layers with Drop-Connect; None: each layer's own.
        seed: of the masks and the order of the images.

    Returns:
        See `QATResult`.

    Raises:
        ValueError: if an argument does not fit, or the model has no twin.
        ExportError: if Keras runs on another backend than TensorFlow, or the quantization or the
            conversion fails.

    Example:

    ```python
    result = quantization_aware_train(model, images, labels, epochs=2)
    patchable = PatchableModel(result.model, result.tflite)
    tflite = patchable.patch(chip.faults(result.model))
    ```
    """
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "Quantization-aware training needs Keras on TensorFlow: load the model in a process "
            f"with KERAS_BACKEND=tensorflow. Received: backend '{keras.backend.backend()}'"
        )
    images = check_images(model, images)
    labels = check_labels(labels, len(images))
    loss_of(model)
    check_classes(model, labels, is_binary=is_binary(model))
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    layers = faulty_layers(model)
    if drop_rate is not None:
        check_rate(drop_rate, "drop_rate")
        if not layers:
            raise ValueError(f"`drop_rate` needs Drop-Connect layers; '{model.name}' has none.")
    with legacy_keras() as (tf_keras, tfmot):
        twin = tf_keras_twin(model)
        try:
            quantized = tfmot.quantization.keras.quantize_model(twin)
        except (ValueError, RuntimeError) as error:
            raise ExportError(f"Model '{model.name}' cannot be quantized: {error}") from error
        ranges = _Ranges(tf_keras, twin, quantized, images[:CALIBRATION_IMAGES])
        for name, layer in layers.items():
            rate = float(layer.drop_rate) if drop_rate is None else drop_rate
            wrapper = quantized.get_layer(f"quant_{name}")
            _add_drop_connect(wrapper, rate, layer.drop_connect.rescale, seed)
        quantized.compile(
            tf_keras.optimizers.Adam(learning_rate),
            loss_of(model, tf_keras.losses),
            metrics=["accuracy"],
        )
        losses, accuracies = _fit(quantized, ranges, images, labels, epochs, batch_size, seed)
        return QATResult(
            _convert(quantized, model.name), _carry_back(model, quantized), losses, accuracies
        )


class _DropConnectQuantizer:
    """A weight quantizer of tfmot, then Drop-Connect in training."""

    def __init__(self, quantizer: Any, rate: float, rescale: bool, seed: int):
        import tensorflow as tf

        self.quantizer = quantizer
        self._rate, self._scale = rate, 1 / (1 - rate) if rescale else 1.0
        self._random = tf.random.Generator.from_seed(seed)

    def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        import tensorflow as tf

        outputs = self.quantizer(inputs, training, weights, **kwargs)
        if not training:
            return outputs
        kept = self._random.uniform(tf.shape(outputs)) >= self._rate
        return outputs * tf.cast(kept, outputs.dtype) * self._scale


def _add_drop_connect(wrapper: Any, rate: float, rescale: bool, seed: int) -> None:
    # A quantize config of one's own would do it too, but tfmot does not fold the batch
    # normalization behind a layer that has one.
    digest = hashlib.sha256(f"{seed}/{wrapper.layer.name}".encode()).digest()
    own = int.from_bytes(digest[:7], "little")
    wrapper._weight_vars = [
        (weight, _DropConnectQuantizer(quantizer, rate, rescale, own), variables)
        for weight, quantizer, variables in wrapper._weight_vars
    ]


class _Ranges:
    """Sets the quantized model's ranges to those of its weights, free of faults and rounding.

    The moving averages of tfmot begin at [-6, 6] and need thousands of steps to forget that.
    """

    def __init__(self, tf_keras: Any, twin: Any, quantized: Any, images: np.ndarray):
        self._layers = {
            f"quant_{layer.name}": layer
            for layer in twin.layers
            if not isinstance(layer, tf_keras.layers.InputLayer)
        }
        # Some activations, such as softmax, are quantized in front, by the sums that come in.
        self._sums = {
            f"{wrapper.name}/sums": _with_linear_twin(self._layers[wrapper.name])
            for wrapper in quantized.layers
            if any("/pre_activation" in weight.name for weight in wrapper.weights)
        }
        tensors = [one.output for one in self._layers.values()]
        tensors += [linear(layer.input) for layer, linear in self._sums.values()]
        self._probe = tf_keras.Model(twin.input, tensors)
        self._quantized, self._images = quantized, images

    def set(self) -> None:
        for layer in self._quantized.layers:
            if layer.name in self._layers:
                _carry(layer, self._layers[layer.name])
            for weight, quantizer, variables in getattr(layer, "_weight_vars", ()):
                getattr(quantizer, "quantizer", quantizer)(weight, True, variables)
        for layer, linear in self._sums.values():
            linear.set_weights(layer.get_weights())
        values = self._probe.predict(self._images, batch_size=64, verbose=0)
        values = values if isinstance(values, list) else [values]
        held = dict(zip([*self._layers, *self._sums], values, strict=True))
        for layer in self._quantized.layers:
            for variable in layer.weights:
                name = variable.name.split(":")[0]
                of = f"{layer.name}/sums" if "/pre_activation" in name else layer.name
                value = held.get(of, self._images)
                if name.endswith(("output_min", "activation_min", "quantize_layer_min")):
                    variable.assign(min(0.0, float(value.min())))
                elif name.endswith(("output_max", "activation_max", "quantize_layer_max")):
                    variable.assign(max(0.0, float(value.max())))


def _fit(
    quantized: Any,
    ranges: _Ranges,
    images: np.ndarray,
    labels: np.ndarray,
    epochs: int,
    batch_size: int,
    seed: int,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rng = np.random.default_rng(seed)
    losses, accuracies = [], []
    for _ in range(epochs):
        ranges.set()
        order = rng.permutation(len(images))
        history = quantized.fit(
            images[order], labels[order], batch_size=batch_size, shuffle=False, verbose=0
        ).history
        losses.append(float(history["loss"][0]))
        accuracies.append(float(history["accuracy"][0]))
    ranges.set()
    return tuple(losses), tuple(accuracies)


def _convert(quantized: Any, name: str) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(quantized)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with quiet() as messages:
        try:
            return bytes(converter.convert())
        # The converter raises bare `Exception`s of many classes.
        except Exception as error:
            raise ExportError(
                f"The quantized model '{name}' could not be converted: {error} {messages()[:300]}"
            ) from error


def _with_linear_twin(layer: Any) -> tuple[Any, Any]:
    """Returns a layer, and one like it without its activation."""
    own = {"name": f"{layer.name}_sums", "activation": "linear"}
    return layer, type(layer).from_config({**layer.get_config(), **own})


def _carry_back(model: keras.Model, quantized: Any) -> keras.Model:
    """Returns a copy of the Keras model with the weights of the quantized one, fault-free."""
    copy = copied(model)
    erase(copy)
    wrappers = {layer.layer.name: layer for layer in quantized.layers if hasattr(layer, "layer")}
    for layer in copy.layers:
        if layer.name in wrappers:
            _carry(wrappers[layer.name], layer)
    return copy


def _carry(wrapper: Any, layer: Any) -> None:
    """Copies the weights of a quantized layer to its float twin, in `tf_keras` or Keras."""
    trained = {_short(weight): weight.numpy() for weight in wrapper.weights}
    for weight in layer.weights:
        if _short(weight) in trained:
            weight.assign(trained[_short(weight)])


def _short(weight: Any) -> str:
    return weight.name.split(":")[0].rpartition("/")[2].removeprefix("depthwise_")
