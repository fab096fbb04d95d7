"""What Drop-Connect adds to a training step of the same network of plain layers."""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .timing import in_turn, ratio


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields the ratio of training steps, every kernel dropped against plain layers."""
    from keras_rram.models import mini_mobilenet, resnet20

    networks: tuple[tuple[str, Any, dict[str, Any], int], ...] = (
        ("mini", mini_mobilenet, {}, 256),
        ("resnet20", resnet20, {}, 128),
    )
    for name, build, options, batch in networks:
        plain = trainer(build(**options), batch, steps=1 if quick else 4)
        twin = trainer(
            build(drop_connect=0.2, scope="all", **options), batch, steps=1 if quick else 4
        )
        seconds = in_turn([twin, plain], rounds=2 if quick else 15)
        yield f"dropconnect_step_ratio_{name}", ratio(*seconds)
        images = batch * (1 if quick else 4)
        yield f"dropconnect_images_per_second_{name}", images / statistics.median(seconds[0])


def trainer(model: Any, batch: int, steps: int) -> Callable[[], object]:
    """Returns a function that takes `steps` training steps on one batch of random images."""
    from keras_rram.training.recipes import RECIPES

    RECIPES["mnist"].compile(model, steps)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, *model.input_shape[1:])).astype("float32")
    labels = rng.integers(0, 10, batch)
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        images, labels = tf.constant(images), tf.constant(labels)

    def train() -> None:
        for _ in range(steps):
            model.train_on_batch(images, labels)

    return train
