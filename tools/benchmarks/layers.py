"""What Drop-Connect, and what makes it robust, add to a training step."""

import contextlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .timing import in_turn, ratio


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields ratios of training steps.

    Every kernel dropped against plain layers; then normalizations of each image, centred inputs,
    fixed statistics and eight masks a batch against the fused batch normalization of the same
    dropped network.
    """
    from keras_rram.models import mini_mobilenet, resnet20

    networks: tuple[tuple[str, Any, dict[str, Any], int], ...] = (
        ("mini", mini_mobilenet, {}, 256),
        ("resnet20", resnet20, {}, 128),
    )
    if quick:
        networks = tuple((*network, 8) for *network, _ in networks[:1])  # type: ignore[misc]
    for name, build, options, batch in networks:
        plain = trainer(build(**options), batch, steps=1 if quick else 4)
        twin = trainer(
            build(drop_connect=0.2, scope="all", **options), batch, steps=1 if quick else 4
        )
        seconds = in_turn([twin, plain], rounds=2 if quick else 15)
        yield f"dropconnect_step_ratio_{name}", ratio(*seconds)
        images = batch * (1 if quick else 4)
        yield f"dropconnect_images_per_second_{name}", images / statistics.median(seconds[0])
    for name, build, options, batch in networks:
        yield from _robust_parts(name, build, {**options, "scope": "all"}, batch, quick)


def _robust_parts(
    name: str, build: Any, options: dict[str, Any], batch: int, quick: bool
) -> Iterator[tuple[str, float]]:
    from keras_rram.layers import DropConnect, fix_statistics

    steps = 1 if quick else 2
    base = trainer(build(drop_connect=0.2, **options), batch, steps)
    parts: tuple[tuple[str, dict[str, Any]], ...] = (
        ("instance", {"normalization": "instance"}),
        ("fixed", {}),
        ("group", {"normalization": "group"}),
        ("centered", {"centered_inputs": True}),
        ("masks", {"drop_connect": DropConnect(0.2, masks=8)}),
    )
    for part, others in parts[1:2] if quick else parts:
        model = build(**{"drop_connect": 0.2, **options, **others})
        train = trainer(model, batch, steps)
        with fix_statistics(model) if part == "fixed" else contextlib.nullcontext():
            seconds = in_turn([train, base], rounds=2 if quick else 7)
        yield f"{part}_step_ratio_{name}", ratio(*seconds)


def trainer(model: Any, batch: int, steps: int, recipe: str = "mnist") -> Callable[[], object]:
    """Returns a function that takes `steps` training steps on one batch of random images."""
    from keras_rram.training.recipes import RECIPES

    RECIPES[recipe].compile(model, steps)
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
