"""Training speed of each network, and what the fused batch normalization brings."""

import statistics
from collections.abc import Iterator
from typing import Any

from .layers import trainer
from .timing import in_turn, ratio


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields the speed-up over Keras's own batch normalization, and images per second.

    `fused_batch_norm_speedup` without a network is that of the study's MNIST network.
    """
    from keras_rram.models import mini_mobilenet, resnet20

    networks: tuple[tuple[str, Any, dict[str, Any], int, int], ...] = (
        ("mini_strided", mini_mobilenet, {}, 256, 8),
        ("mini_published", mini_mobilenet, {"variant": "published"}, 256, 2),
        ("resnet20", resnet20, {"scope": "all"}, 128, 2),
    )
    speedups = {}
    for name, build, options, batch, steps in networks:
        steps = 1 if quick else steps
        model = build(drop_connect=0.2, **options)
        trainers = [trainer(each, batch, steps) for each in (with_keras_layers(model), model)]
        seconds = in_turn(trainers, rounds=2 if quick else 9)
        speedups[name] = ratio(*seconds)
        yield f"fused_batch_norm_speedup_{name}", speedups[name]
        for kind, times in zip(("keras", "fused"), seconds, strict=True):
            images = batch * steps / statistics.median(times)
            yield f"training_images_per_second_{name}_{kind}_batch_norm", images
    yield "fused_batch_norm_speedup", speedups["mini_published"]


def with_keras_layers(model: Any) -> Any:
    """Returns the same network with `keras.layers.BatchNormalization`."""
    import keras

    from keras_rram.layers.normalization import FusedBatchNormalization

    def clone(layer: Any) -> Any:
        kind = type(layer)
        if kind is FusedBatchNormalization:
            kind = keras.layers.BatchNormalization
        return kind.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)
