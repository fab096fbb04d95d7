"""What chips do to the mean and the scale of a layer's channels."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_rram.chips import Chip


@dataclass(frozen=True, eq=False)
class ChannelShifts:
    """How a layer's channels on each chip differ from their average over all chips.

    What all chips share, one model can learn: what counts is the difference between them.

    Attributes:
        layer: name of the layer whose outputs these are.
        shifts: difference of a channel's mean from its average, in average deviations of the
            channel over images, shape `(chips, channels)`.
        scales: a channel's deviation over images, as a multiple of its average, likewise.
    """

    layer: str
    shifts: np.ndarray
    scales: np.ndarray

    @property
    def shift(self) -> float:
        """Root mean square of the shifts."""
        return float(np.sqrt(np.mean(self.shifts**2)))

    @property
    def spread(self) -> float:
        """Standard deviation of the scales over chips, root mean square over channels."""
        return float(np.sqrt(np.mean(self.scales.std(0) ** 2)))


def channel_shifts(
    model: keras.Model, layer: str, images: np.ndarray, chips: Sequence[Chip]
) -> ChannelShifts:
    """Measures the mean and the deviation of each channel of a layer's outputs, chip by chip.

    Behind a normalization they show the error that training on the statistics of each batch never
    sees, since there every mask's channels have mean 0 and deviation 1 (before gamma and beta).

    Args:
        model: functional model with Drop-Connect layers.
        layer: name of one of its layers, channels last.
        images: images `(n, ...)`, preprocessed as for the model.
        chips: at least two chips.

    Raises:
        ValueError: if the model has no such layer, or there are fewer than two chips.

    Example:

    ```python
    chips = keras_rram.population(StuckAtZero(0.3), 20)
    channel_shifts(model, "block2_depthwise_bn", images, chips).shift
    ```
    """
    if len(chips) < 2:
        raise ValueError(f"Expected at least two chips. Received: {len(chips)}")
    part = keras.Model(model.inputs, model.get_layer(layer).output)

    def statistics() -> tuple[np.ndarray, np.ndarray]:
        outputs = np.asarray(part.predict(images, verbose=0), np.float64)
        axes = tuple(range(outputs.ndim - 1))
        return outputs.mean(axes), outputs.std(axes)

    found = []
    for chip in chips:
        with chip.program(model):
            found.append(statistics())
    means, deviations = (np.stack(each) for each in zip(*found, strict=True))
    # A channel that is constant on every chip has no deviation to count in.
    live = deviations.mean(0) > 1e-6 * deviations.max()
    means, deviations = means[:, live], deviations[:, live]
    average = deviations.mean(0)
    return ChannelShifts(layer, (means - means.mean(0)) / average, deviations / average)
