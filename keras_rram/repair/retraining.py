"""RepairStep by training: a chip's working weights go on learning around its faults."""

import dataclasses
from typing import Any, ClassVar

import keras
import numpy as np

from keras_rram.data import check_classes, check_images
from keras_rram.layers import faulty_layers, is_binary, loss_of
from keras_rram.repair.batch_norm import normalizations, recalibrate_batch_norm
from keras_rram.repair.hand import Hand
from keras_rram.repair.protocol import Tier
from keras_rram.repair.steps import RepairStep

RECALIBRATION_IMAGES = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Retraining(RepairStep):
    """Trains a chip for a few hundred steps, with its faults held and no weight dropped.

    Access tier C: it needs the map, images and labels. Stuck weights get no gradient, since the
    mask is in the forward pass. Every `every` steps the weights are written to the chip anew,
    within the range that its cells hold: what a cell does to a weight can depend on its sign. All
    other weights train as well: biases and batch normalization are digital, and so are layers
    that no fault can reach. The loss is the cross entropy of the model's logits, or of what its
    softmax or its one sigmoid makes of them. In the end batch normalization is recalibrated on the
    first images.

    The training step is compiled once for all chips of a model.

    Attributes:
        images: training images `(n, ...)`, preprocessed as for the model.
        labels: their integer classes `(n,)`; of a model with one sigmoid 0 and 1.
        steps: training steps, `>= 1`.
        batch_size: images in a step.
        learning_rate: of Adam at the first step; it falls to zero as a half cosine.
        every: steps between two writes of the chip.
        seed: of the order of the images.

    Example:

    ```python
    repair = Retraining(*dataset.arrays("train"), steps=300)
    with chip.program(model), repair(model, chip):
        model.evaluate(test_images, test_labels)
    ```
    """

    name: ClassVar[str] = "retraining"
    access_tier: ClassVar[Tier] = "C"

    images: np.ndarray
    labels: np.ndarray
    steps: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-3
    every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        for name in ("steps", "batch_size", "every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be an integer >= 1. Received: {name}={value!r}")
        if not self.learning_rate > 0:
            raise ValueError(
                f"`learning_rate` must be > 0. Received: learning_rate={self.learning_rate!r}"
            )
        if np.shape(self.labels) != (len(self.images),):
            raise ValueError(
                "expected one label for each image. Received: "
                f"{len(self.images)} images and labels of shape {np.shape(self.labels)}"
            )

    def check_model(self, model: keras.Model) -> None:
        """Raises ValueError for a model that is no classifier of the labels."""
        loss_of(model)
        check_classes(model, np.asarray(self.labels), is_binary=is_binary(model))

    def prepare(self, hand: Hand) -> "_Trainer":
        """Returns the model in a frame of its own, so that its own compilation stays."""
        self.check_model(hand.model)
        trainer = _Trainer(hand.model)
        optimizer = keras.optimizers.Adam(self.learning_rate)
        trainer.compile(optimizer, loss_of(hand.model), jit_compile=False)
        return trainer

    def apply(self, hand: Hand) -> None:
        """Trains the model in hand, and recalibrates batch normalization."""
        images, labels = check_images(hand.model, self.images), np.asarray(self.labels)
        batch = min(self.batch_size, len(images))
        trainer: _Trainer = self.prepared(hand)
        responses = hand.responses  # before a weight changes
        layers = faulty_layers(hand.model)
        rates = {name: float(layer.drop_rate) for name, layer in layers.items()}
        rng = np.random.default_rng(self.seed)
        optimizer = trainer.optimizer
        for variable in optimizer.variables:
            variable.assign(np.zeros(variable.shape))
        try:
            for layer in layers.values():
                layer.drop_rate.assign(0.0)
            for step in range(self.steps):
                falling = (1 + np.cos(np.pi * step / self.steps)) / 2
                optimizer.learning_rate.assign(self.learning_rate * falling)
                chosen = rng.choice(len(images), batch, replace=False)
                trainer.train_on_batch(images[chosen], labels[chosen])
                if (step + 1) % self.every == 0 or step + 1 == self.steps:
                    _sync(trainer)
                    for name, response in responses.items():
                        limit = response.limit
                        hand.write(name, np.clip(hand.kernel(name), -limit, limit))
        finally:
            _sync(trainer)
            for name, layer in layers.items():
                layer.drop_rate.assign(rates[name])
        if normalizations(hand.model, required=False):
            recalibrate_batch_norm(hand.model, images[:RECALIBRATION_IMAGES])


class _Trainer(keras.Model):
    """A model as a part of another, which is compiled for training."""

    def __init__(self, model: keras.Model):
        super().__init__(name=f"{model.name}_retraining")
        self.inner = model
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.inner(inputs, training=training)


def _sync(trainer: keras.Model) -> None:
    """On JAX the training step holds the variables until it is told to give them back."""
    sync = getattr(trainer, "jax_state_sync", None)
    if sync is not None:
        sync()
