"""A model that adapts: a small network turns a summary of a chip's map into scales and shifts."""

import dataclasses
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from keras_rram.repair.batch_norm import BatchNormRecalibration, normalizations
from keras_rram.repair.hand import Hand, Repaired
from keras_rram.repair.input_means import Inputs, drop_connect_chip, known
from keras_rram.repair.map_correction import output_moments
from keras_rram.repair.protocol import Tier
from keras_rram.repair.steps import RepairStep
from keras_rram.repair.sweep import check_followers, without_followers

_FEATURES = 5
_WIDTH = 32
_EPOCHS = 60


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedCorrection(RepairStep):
    """Lets a small network say each channel's shift and scale, from a summary of the chip's map.

    Access tier C, as `MapCorrection` without images, and with the same information of the chip: for
    each output channel its lost energy, the shift and the scale that follow from the map, and the
    layer's mean of the first and the mean square of the second. A perceptron of one hidden layer,
    the same for all channels, says what has to be added to the closed form; it is trained on chips
    that Drop-Connect would draw, with the statistics that recalibration gathers on them as targets.
    That takes images once, and none of the chip that is repaired. Only layers with a batch
    normalization right behind them are corrected.

    Attributes:
        images: training images `(n, ...)` that the training chips are recalibrated with.
        chips: number of training chips.
        seed: of the training chips and of the network's weights.

    Example:

    ```python
    repair = LearnedCorrection(dataset.arrays("train")[0][:512])
    ```
    """

    name: ClassVar[str] = "learned"
    access_tier: ClassVar[Tier] = "C"

    images: np.ndarray
    chips: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        if isinstance(self.chips, bool) or not isinstance(self.chips, int) or self.chips < 1:
            raise ValueError(f"`chips` must be an integer >= 1. Received: chips={self.chips!r}")

    def check_model(self, model: keras.Model) -> None:
        """Raises ValueError for a model without batch normalization right behind a layer."""
        check_followers(model, self.images[:1])

    def prepare(self, hand: Hand) -> "_Learned":
        """Trains the network on chips of its own."""
        inputs = known(hand)
        if all(one.follower is None for one in inputs.values()):
            raise ValueError(without_followers(hand.model))
        features, targets = [], []
        recalibrate = BatchNormRecalibration(self.images)
        with hand.healthy():
            for index in range(self.chips):
                chip = drop_connect_chip(hand, self.seed, index)
                with chip.program(hand.model):
                    one = Hand(hand.model, chip, Repaired(hand.model))
                    seen = _summaries(one, inputs)
                    with recalibrate(hand.model):
                        found = _statistics(hand.model)
                    usual = _statistics(hand.model)
                for name, (summary, shift, ratio) in seen.items():
                    mean, variance = usual[name]
                    deviation = np.sqrt(variance + 1e-12)
                    features.append(summary)
                    targets.append(
                        np.stack(
                            [
                                (found[name][0] - mean) / deviation - shift,
                                np.log(np.maximum(found[name][1] / variance, 1e-6)) - ratio,
                            ],
                            axis=1,
                        )
                    )
        x, y = np.concatenate(features), np.concatenate(targets)
        center, spread = x.mean(0), x.std(0) + 1e-6
        network = _network(self.seed)
        network.compile(keras.optimizers.Adam(3e-3), "huber", jit_compile=False)
        order = np.random.default_rng(self.seed).permutation(len(x))
        x, y = ((x - center) / spread)[order], y[order]
        network.fit(x, y, batch_size=256, epochs=_EPOCHS, shuffle=False, verbose=0)
        weights = [np.array(ops.convert_to_numpy(one)) for one in network.weights]
        return _Learned(inputs, center, spread, weights)

    def apply(self, hand: Hand) -> None:
        """Writes what the network says into batch normalization."""
        learned: _Learned = self.prepared(hand)
        followers = normalizations(hand.model)
        for name, (summary, shift, ratio) in _summaries(hand, learned.inputs).items():
            more = learned((summary - learned.center) / learned.spread)
            mean, variance = (
                np.float64(ops.convert_to_numpy(one))
                for one in (followers[name].moving_mean, followers[name].moving_variance)
            )
            followers[name].moving_mean.assign(mean + np.sqrt(variance) * (shift + more[:, 0]))
            followers[name].moving_variance.assign(variance * np.exp(ratio + more[:, 1]))


@dataclasses.dataclass(frozen=True, eq=False)
class _Learned:
    inputs: dict[str, Inputs]
    center: np.ndarray
    spread: np.ndarray
    weights: list[np.ndarray]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        first, bias, second, last = self.weights
        return np.tanh(x @ first + bias) @ second + last


def _network(seed: int) -> keras.Model:
    initializer = keras.initializers.GlorotUniform(seed)
    return keras.Sequential(
        [
            keras.Input((_FEATURES,)),
            keras.layers.Dense(_WIDTH, activation="tanh", kernel_initializer=initializer),
            keras.layers.Dense(2, kernel_initializer="zeros"),
        ]
    )


def _summaries(
    hand: Hand, inputs: dict[str, Inputs]
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns name of a batch normalization -> features, shift in deviations, log of the scale."""
    followers = normalizations(hand.model)
    found = {}
    for one in output_moments(hand, inputs):
        if one.follower is None:
            continue
        variance = np.float64(ops.convert_to_numpy(followers[one.follower].moving_variance))
        shift, ratio = one.shift / np.sqrt(variance + 1e-12), np.log(one.ratio)
        layer = np.broadcast_to([one.lost.mean(), (shift**2).mean()], (len(shift), 2))
        found[one.follower] = (
            np.concatenate([np.stack([one.lost, shift, ratio], axis=1), layer], axis=1),
            shift,
            ratio,
        )
    return found


def _statistics(model: keras.Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        name: (
            np.array(ops.convert_to_numpy(layer.moving_mean), np.float64),
            np.array(ops.convert_to_numpy(layer.moving_variance), np.float64),
        )
        for name, layer in normalizations(model).items()
    }
