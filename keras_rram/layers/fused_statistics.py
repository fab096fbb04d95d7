"""TensorFlow's fused batch normalization, by the batch's statistics fast for any channels.

On x86 processors oneDNN computes `FusedBatchNormV3`. Its vectorized code takes channels in
multiples of 16; for others it is plain, and takes up to seven times as long. Since batch
normalization treats all pixels alike, `k` neighbouring pixels of `c` channels may stand for one of
`k * c`, a multiple of 16: a view, which costs nothing. Each of them is then a group with statistics
of its own, from which those of the channel follow, and two cheap passes put in what is missing:

    mean = mean_g(mean_g)        variance = mean_g(variance_g + (mean_g - mean)^2)

The gradient of the inputs lacks, group by group, the difference between what the group gives to the
gradients of scale and offset and what it ought to give, which is a normalization once more.
"""

import math
import platform
from collections.abc import Callable
from typing import Any

Tensor = Any

LANES = 16
"""float32 values in a register of AVX-512."""


def normalize(
    x: Tensor, scale: Tensor, offset: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizes images by their own statistics, differentiably.

    Args:
        x: images, shape `(batch, height, width, channels)`, float32.
        scale: shape `(channels,)`; likewise `offset`.
        offset: see `scale`.
        epsilon: added to the variance.

    Returns:
        The normalized images, and the mean and the uncorrected variance of each channel, through
        which no gradient flows.
    """
    neighbours = neighbours_in_view(tuple(x.shape)) if _is_by_onednn() else 1
    if neighbours > 1:
        return _through_view(neighbours, epsilon)(x, scale, offset)
    return _operation(x, scale, offset, epsilon)[:3]


def normalize_by(
    x: Tensor, scale: Tensor, offset: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> Tensor:
    """Normalizes images by given statistics.

    Args:
        x: see `normalize`; likewise `scale`, `offset` and `epsilon`.
        scale: see `x`.
        offset: see `x`.
        mean: shape `(channels,)`; likewise `variance`.
        variance: see `mean`.
        epsilon: see `x`.
    """
    import tensorflow as tf

    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    ).y


def neighbours_in_view(shape: tuple[int | None, ...]) -> int:
    """Returns how many neighbouring pixels are to stand for one; 1 to leave images as they are.

    Args:
        shape: of the images, `(batch, height, width, channels)`; all but the batch must be known.
    """
    _, height, width, channels = shape
    if height is None or width is None or channels is None:
        return 1
    neighbours = LANES // math.gcd(LANES, channels)
    pixels = height * width
    is_worth_it = pixels >= LANES * neighbours
    return neighbours if is_worth_it and pixels % neighbours == 0 else 1


def _is_by_onednn() -> bool:
    """Returns whether oneDNN computes it; a GPU keeps another statistic for the gradient too."""
    import tensorflow as tf

    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return is_x86 and not tf.config.list_logical_devices("GPU")


def _operation(x: Tensor, scale: Tensor, offset: Tensor, epsilon: float) -> tuple[Tensor, ...]:
    """Returns outputs, means, uncorrected variances, and what the gradient wants as it is."""
    import tensorflow as tf

    result = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=scale,
        offset=offset,
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=epsilon,
        exponential_avg_factor=1.0,
        is_training=True,
    )
    count = tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)
    # The operation leaves the variance of a single value as it is, at zero.
    variance = result.batch_variance * ((count - 1.0) / count)
    return result.y, result.batch_mean, variance, result.reserve_space_3


def _through_view(neighbours: int, epsilon: float) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    import tensorflow as tf

    def each(values: Tensor) -> Tensor:
        """Repeats a channel's values for each neighbour."""
        return tf.tile(values, [neighbours])

    def by_group(values: Tensor) -> Tensor:
        return tf.reshape(values, [neighbours, -1])

    def view(x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        return tf.reshape(x, [-1, height * width // neighbours, 1, channels * neighbours])

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def normalized(x: Tensor, scale: Tensor, offset: Tensor) -> tuple[Any, Any]:
        viewed = view(x)
        width = viewed.shape[-1]
        _, mean, variance, reserved = _operation(
            viewed, tf.ones([width]), tf.zeros([width]), epsilon
        )
        mean, variance = by_group(mean), by_group(variance)
        whole_mean = tf.reduce_mean(mean, 0)
        whole_variance = tf.reduce_mean(variance + tf.square(mean - whole_mean), 0)
        statistics = each(whole_mean), each(whole_variance)
        outputs = normalize_by(viewed, each(scale), each(offset), *statistics, epsilon)

        def gradient(upstream: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=view(upstream),
                x=viewed,
                scale=each(scale),
                reserve_space_1=statistics[0],
                reserve_space_2=statistics[1],
                reserve_space_3=reserved,
                epsilon=epsilon,
                is_training=True,
            )
            to_scale, to_offset = by_group(found.scale_backprop), by_group(found.offset_backprop)
            in_all = tf.reduce_sum(to_scale, 0), tf.reduce_sum(to_offset, 0)
            slope = scale * tf.math.rsqrt(whole_variance + epsilon)
            slope /= tf.cast(tf.size(viewed) // width, tf.float32)
            missing_scale = slope * (to_scale - in_all[0] / neighbours)
            missing_offset = slope * (to_offset - in_all[1] / neighbours)
            in_groups = tf.reshape(missing_scale, [-1]), tf.reshape(missing_offset, [-1])
            missing = normalize_by(viewed, *in_groups, *statistics, epsilon)
            return tf.reshape(found.x_backprop + missing, tf.shape(x)), *in_all

        results = tf.reshape(outputs, tf.shape(x)), whole_mean, whole_variance
        return results, gradient

    return normalized  # type: ignore[no-any-return]
