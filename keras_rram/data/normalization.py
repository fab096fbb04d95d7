"""What is done to samples before they reach a model: a formula, or a function of your own."""

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Normalization:
    """`(sample / scale - mean) / std`, for each index of the last axis, as float32.

    Args:
        name: "mnist", "cifar10" or "standard".
        mean: means, one for each channel, or one for all.
        std: standard deviations, likewise; positive.
        scale: 255 for pixels, whose mean and deviation are on the scale [0, 1]; 1 for others.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Returns the samples, normalized."""
        std = np.asarray(self.std)
        scale = (1.0 / (self.scale * std)).astype(np.float32)
        shift = (np.asarray(self.mean) / std).astype(np.float32)
        if samples.ndim < 3:
            return samples.astype(np.float32) * scale - shift
        # A whole row at a time: 6 to 14 times faster than over the short channel axis.
        width = int(np.prod(samples.shape[2:]))
        repeats = width // len(scale)
        rows = samples.reshape(*samples.shape[:2], width).astype(np.float32)
        rows *= np.tile(scale, repeats)
        rows -= np.tile(shift, repeats)
        return rows.reshape(samples.shape)

    def describe(self) -> dict[str, Any]:
        """Returns what `normalization` makes it of again, as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Function:
    """A function of your own, which takes samples and returns what the model is fed with.

    Args:
        name: where to import it from, "MODULE:FUNCTION".
    """

    name: str

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Returns the function's value as an array, and raises where it lost samples."""
        module, _, function = self.name.partition(":")
        found = np.asarray(getattr(importlib.import_module(module), function)(samples))
        if len(found) != len(samples):
            raise ValueError(
                f"expected one value of {self.name} for each of {len(samples)} samples. Received: "
                f"{len(found)}"
            )
        return found

    def describe(self) -> dict[str, Any]:
        """Returns what `normalization` makes it of again, as plain values."""
        return asdict(self)


KNOWN = {
    # Mean and standard deviation of the training pixels.
    "mnist": Normalization("mnist", (0.1307,), (0.3081,)),
    "cifar10": Normalization("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def normalization(
    which: str | Mapping[str, Any], samples: np.ndarray
) -> Normalization | Function | None:
    """Returns the normalization of a name, or of what `describe` returned.

    Args:
        which: "none"; "mnist" or "cifar10"; "standard", by the mean and the deviation of `samples`
            in each channel; or "MODULE:FUNCTION".
        samples: training samples, of shape `(n, ...)`.

    Returns:
        What is called with samples; None for "none".

    Raises:
        ValueError: for another name, a function that cannot be imported, or samples that do not
            vary in a channel.
    """
    if isinstance(which, Mapping):
        if set(which) == {"name"}:
            return normalization(which["name"], samples)
        try:
            known = {**which, "mean": tuple(which["mean"]), "std": tuple(which["std"])}
            found = Normalization(**known)
        except (KeyError, TypeError) as error:
            raise ValueError(
                "expected a normalization with name, mean, std and scale. Received: "
                f"{sorted(which)} ({error})"
            ) from None
        return _fitting(found, samples)
    if which == "none":
        return None
    if which == "standard":
        return _standard(samples)
    if which in KNOWN:
        return _fitting(KNOWN[which], samples)
    module, _, function = which.partition(":")
    if not function:
        raise ValueError(
            "expected a normalization: none, standard, mnist, cifar10, or MODULE:FUNCTION. "
            f"Received: {which!r}"
        )
    try:
        getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the normalization '{which}' cannot be imported: {error}") from error
    return Function(which)


def _fitting(found: Normalization, samples: np.ndarray) -> Normalization:
    if len(found.mean) not in (1, samples.shape[-1]):
        raise ValueError(
            f"expected samples of {len(found.mean)} channels for the normalization {found.name}. "
            f"Received: shape {samples.shape}"
        )
    return found


def _standard(samples: np.ndarray) -> Normalization:
    """Returns mean and standard deviation by channel: of bytes by exact counts, as pixels."""
    mean, std = [], []
    values = np.arange(256) / 255.0
    for channel in range(samples.shape[-1]):
        part = samples[..., channel]
        if samples.dtype == np.uint8:
            counts = np.bincount(part.ravel(), minlength=256)
            mean.append(float(np.average(values, weights=counts)))
            std.append(float(np.average((values - mean[-1]) ** 2, weights=counts) ** 0.5))
        else:
            mean.append(float(np.mean(part, dtype=np.float64)))
            std.append(float(np.std(part, dtype=np.float64)))
    if not min(std) > 0.0:
        raise ValueError(
            "`x_train` must vary in every channel to be normalized. Received: a constant channel "
            f"(standard deviations {std})"
        )
    scale = 255.0 if samples.dtype == np.uint8 else 1.0
    return Normalization("standard", tuple(mean), tuple(std), scale)
