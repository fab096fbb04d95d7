"""Training speed of each network, what its fused normalization brings, and what Muon costs."""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

from .layers import trainer
from .timing import in_turn, ratio


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields the speed-up over Keras's own batch normalization, images per second, and Muon's cost.

    `fused_batch_norm_speedup` without a network is that of the study's MNIST network. Networks of
    odd widths have channels that oneDNN has no vectorized code for; `channels_78_over_80` is a
    training step of a fused batch normalization of such, over one of two more channels, on
    TensorFlow, whose operation it is. `muon_over_sgd_resnet20` is a step's time with Muon over
    that with SGD.
    """
    import keras

    from keras_rram.models import mini_mobilenet, resnet20
    from keras_rram.study.bottlenecks import ALL_PANELS

    networks: tuple[tuple[str, Any, dict[str, Any], int, int], ...] = (
        ("mini_strided", mini_mobilenet, {}, 256, 8),
        ("mini_published", mini_mobilenet, {"variant": "published"}, 256, 2),
        ("resnet20", resnet20, {"scope": "all"}, 128, 2),
        ("bottlenecks_13", resnet20, dict(ALL_PANELS["bottlenecks-20"].options), 128, 1),
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
    trainers = [
        trainer(resnet20(drop_connect=0.2, scope="all"), 128, 1 if quick else 2, recipe)
        for recipe in ("cifar10_short", "cifar10_muon")
    ]
    sgd, muon = in_turn(trainers, rounds=2 if quick else 15)
    yield "muon_over_sgd_resnet20", ratio(muon, sgd)
    if keras.backend.backend() == "tensorflow":
        layers = [normalization_step(channels, 8 if quick else 128) for channels in (78, 80)]
        yield "channels_78_over_80", ratio(*in_turn(layers, rounds=2 if quick else 15))


def normalization_step(channels: int, batch: int) -> Callable[[], object]:
    """Returns a function that normalizes random images of 32 x 32 and takes gradients."""
    import tensorflow as tf

    from keras_rram.layers import FusedBatchNormalization

    layer = FusedBatchNormalization()
    images = tf.random.stateless_normal((batch, 32, 32, channels), seed=(0, 0))
    layer.build(images.shape)

    @tf.function  # type: ignore[untyped-decorator]
    def step() -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
        return tape.gradient(outputs, [images, *layer.trainable_weights], output_gradients=images)  # type: ignore[no-any-return]

    return step  # type: ignore[no-any-return]


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
