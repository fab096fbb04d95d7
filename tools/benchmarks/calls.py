"""What several training steps in one call bring on JAX: `KERAS_BACKEND=jax`, with a GPU."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .timing import in_turn, ratio


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields the speed-up of an epoch of 39 steps, images and their augmentation included.

    Training takes several steps at once by itself where there is a GPU or TPU; here both ways are
    taken wherever it runs, so that a figure of a processor is of no use.
    """
    import keras

    from keras_rram.models import mini_mobilenet, resnet20

    if keras.config.backend() != "jax":
        raise ValueError(
            f"expected KERAS_BACKEND=jax with --suite=calls. Received: {keras.config.backend()}"
        )
    networks: tuple[tuple[str, Any, dict[str, Any], int], ...] = (
        ("mini", mini_mobilenet, {"scope": "blocks"}, 256),
        ("resnet20", resnet20, {"scope": "all"}, 128),
    )
    for name, build, options, batch in networks[: 1 if quick else 2]:
        with contextlib.ExitStack() as stack:
            epochs = [
                _epoch(build(drop_connect=0.2, **options), 8 if quick else batch, count, stack)
                for count in (1, 3 if quick else 39)
            ]
            seconds = in_turn(epochs, rounds=2 if quick else 9)
        yield f"steps_in_one_call_speedup_{name}", ratio(*seconds)


def _epoch(model: Any, batch: int, count: int, stack: contextlib.ExitStack) -> Callable[[], object]:
    """Returns a function that trains an epoch on random images, `count` steps in a call."""
    from keras_rram.data import from_arrays
    from keras_rram.data.augmentation import CropFlip
    from keras_rram.training import RECIPES
    from keras_rram.training.many_steps import many_steps

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (39 * batch, *model.input_shape[1:]), dtype=np.uint8)
    labels = np.arange(len(images)) % 10
    dataset = from_arrays(
        images, labels, images[:10], labels[:10], augmentation=CropFlip(), normalize="standard"
    )
    steps = dataset.steps_per_epoch(batch)
    RECIPES["mnist"].compile(model, steps)
    stack.enter_context(many_steps(model, count))
    batches = dataset.batches(batch, seed=0)

    def train() -> None:
        model.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0)

    return train
