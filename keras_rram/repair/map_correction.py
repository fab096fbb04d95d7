"""RepairStep from the chip's map alone, without any image of the chip."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_rram.data import check_images
from keras_rram.layers import faulty_layers
from keras_rram.repair.batch_norm import check_moments, normalizations
from keras_rram.repair.hand import Hand
from keras_rram.repair.input_means import Inputs, expected_rates, known, measured
from keras_rram.repair.patches import check_layers, matrices
from keras_rram.repair.protocol import Tier
from keras_rram.repair.steps import RepairStep
from keras_rram.repair.sweep import check_followers, walk, without_followers

_LEAST = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class MapCorrection(RepairStep):
    """Computes the shift and the scale of each output channel from the chip's map.

    Access tier C: it needs the map, and nothing that was measured on the chip. A layer's output is
    `sum_i m_i w_i x_i` (plus offsets), so that its mean moves by

        sum_i (m_i - q) w_i mu_i

    from what training saw, where a weight was there with the probability `q` (1 - drop rate), and
    `mu_i` is the mean of what the weight is multiplied with. The moving mean of the batch
    normalization right behind the layer moves along, or else the layer's bias against it: where
    there is none, or where an activation of the layer's own lies between. A layer that has neither
    stays as it is. Likewise the variance: `sum_ij m_i w_i C_ij m_j w_j` for the covariance `C` of
    the inputs.

    Without `images`, `mu` and the variances are those that batch normalization in front of the
    layer stands for, see `input_means.known`, and the moving variance is scaled by
    `sum_i (m_i w_i)^2 v_i / (q sum_i w_i^2 v_i)`. With `images`, means and covariances are measured
    once, on the healthy model, for all chips.

    Attributes:
        images: training images `(n, ...)` that the healthy model is measured with; or None.
        moments: "both", or "mean" for the shift alone.
        samples: output positions of a layer that are measured, at most.
        seed: of the choice of positions, and of the chips.
        chips: measure on so many chips that Drop-Connect might draw; 0 for the healthy model.

    Example:

    ```python
    with chip.program(model), MapCorrection()(model, chip):
        model.evaluate(test_images, test_labels)
    ```
    """

    name: ClassVar[str] = "map"
    access_tier: ClassVar[Tier] = "C"

    images: np.ndarray | None = None
    moments: str = "both"
    samples: int = 10_000
    seed: int = 0
    chips: int = 4

    def __post_init__(self) -> None:
        """Checks the options."""
        check_moments(self.moments)

    def check_model(self, model: keras.Model) -> None:
        """Raises ValueError for a layer that is no matrix."""
        check_layers(faulty_layers(model))

    def prepare(self, hand: Hand) -> dict[str, Inputs]:
        """Returns what comes into each layer."""
        if self.images is None:
            found = known(hand)
        else:
            images = check_images(hand.model, self.images)
            found = measured(hand, images, self.samples, self.seed, self.chips)
        if all(one.follower is None and hand.layers[n].bias is None for n, one in found.items()):
            raise ValueError(
                "expected Drop-Connect layers with a bias, or with a batch normalization right "
                f"behind them. Received: model '{hand.model.name}', with nothing to correct "
                "(--repair=batch_norm serves it where it has batch normalization)"
            )
        return found

    def apply(self, hand: Hand) -> None:
        """Corrects the statistics of batch normalization, and biases where there is none."""
        followers = normalizations(hand.model, required=False)
        for found in output_moments(hand, self.prepared(hand)):
            follower, layer = followers.get(found.follower or ""), found.layer
            if follower is None:
                if layer.bias is not None:
                    layer.bias.assign(layer.bias - found.shift.astype(np.float32))
            elif self.images is None:
                follower.moving_mean.assign(follower.moving_mean + found.shift)
                if self.moments == "both":
                    follower.moving_variance.assign(follower.moving_variance * found.ratio)
            else:
                bias = 0.0 if layer.bias is None else np.float64(ops.convert_to_numpy(layer.bias))
                follower.moving_mean.assign(found.mean + bias)
                if self.moments == "both":
                    follower.moving_variance.assign(found.variance)


@dataclasses.dataclass(frozen=True, eq=False)
class OutputMoments:
    """What a chip makes of the outputs of a layer, before its bias; arrays `(channels,)`.

    Attributes:
        layer: the layer.
        follower: name of the batch normalization that takes them, or None.
        mean: mean on the chip.
        variance: variance on the chip.
        shift: `mean` less what training saw on average.
        ratio: `variance` over what training saw on average.
        lost: share of the channel's energy that the chip lost, `1 - |m w|^2 / |w|^2`.
    """

    layer: Any
    follower: str | None
    mean: np.ndarray
    variance: np.ndarray
    shift: np.ndarray
    ratio: np.ndarray
    lost: np.ndarray


def output_moments(hand: Hand, inputs: Mapping[str, Inputs]) -> Iterator[OutputMoments]:
    """Yields what the map says of each layer's outputs, in the order of the model."""
    layers = faulty_layers(hand.model)
    rates = expected_rates(layers)
    for name, layer in layers.items():
        kernel, given, rate = f"{name}/kernel", inputs[name], rates[name]
        crossbar = hand.crossbar(kernel)
        on_chip = matrices(crossbar, hand.effective(kernel).astype(np.float64))
        trained = matrices(crossbar, hand.trained[kernel].astype(np.float64))
        mean, variance = (one.ravel() for one in given.output(on_chip))
        usual, usual_variance = (one.ravel() for one in given.output(trained))
        energy = np.maximum((trained**2).sum(1), 1e-30)
        yield OutputMoments(
            layer,
            given.follower,
            mean,
            variance,
            mean - rate * usual,
            np.maximum(variance / np.maximum(rate * usual_variance, 1e-30), _LEAST),
            1 - ((on_chip**2).sum(1) / energy).ravel(),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class MeanRead(RepairStep):
    """Reads each layer once, with the mean of its inputs, and takes off what comes out.

    Access tier B: a chip whose layers can be read needs neither a map nor images of its own. What a
    layer makes of the mean input is the mean of its outputs, since it is linear: the moving mean of
    the batch normalization right behind it. A layer with an activation of its own stays as it is.
    The mean inputs are measured once, on the healthy model, for all chips, each with its position,
    so that padding counts as it does for images.

    Attributes:
        images: training images `(n, ...)` that the healthy model is measured with.

    Example:

    ```python
    repair = MeanRead(dataset.arrays("train")[0][:512])
    ```
    """

    name: ClassVar[str] = "mean_read"
    access_tier: ClassVar[Tier] = "B"

    images: np.ndarray

    def check_model(self, model: keras.Model) -> None:
        """Raises ValueError for a model without batch normalization right behind a layer."""
        check_followers(model, self.images[:1])

    def prepare(self, hand: Hand) -> dict[str, tuple[np.ndarray, str]]:
        """Returns the mean input of each layer in front of a batch normalization, and its name."""
        images = check_images(hand.model, self.images)
        means: dict[str, np.ndarray] = {}

        def meet(name: str, layer: Any, inputs: np.ndarray) -> None:
            del layer
            means[name] = inputs.mean(0, keepdims=True)

        with hand.healthy():
            found = walk(hand.model, images, normalizations(hand.model), meet)
        if not found.followers:
            raise ValueError(without_followers(hand.model))
        return {name: (means[name], bn) for name, bn in found.followers.items()}

    def apply(self, hand: Hand) -> None:
        """Reads each layer and assigns the moving means."""
        followers = normalizations(hand.model)
        layers = faulty_layers(hand.model)
        for name, (mean, follower) in self.prepared(hand).items():
            outputs = np.array(ops.convert_to_numpy(layers[name](mean, training=False)))
            axis = followers[follower].axis % outputs.ndim
            others = tuple(one for one in range(outputs.ndim) if one != axis)
            followers[follower].moving_mean.assign(outputs.mean(others))
