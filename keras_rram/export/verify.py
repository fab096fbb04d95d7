"""Is a chip's TFLite file what it should be? Byte by byte, and by running it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_rram.export.answers import Kind, accuracy, agreement, kind_of
from keras_rram.export.errors import ExportError
from keras_rram.export.litert_model import LiteRTModel
from keras_rram.export.place import INT8_LIMIT, Place
from keras_rram.faults import Fault

IMAGES = 256
"""Images that a file is verified with, at most, where nobody says."""

_KERAS_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What a file must reach against the Keras model that holds the same chip.

    Attributes:
        max_difference: for float32 files: largest difference of any logit, relative to the largest
            absolute logit of the Keras model (or to 1, if that is smaller).
        agreement: for all others: least share of images with the same top-1 class, or of other
            answers, see `Verification`.
        accuracy: for all others: largest difference of accuracy, in `[0, 1]`; one image is allowed
            where there are fewer than `1 / accuracy` of them.
    """

    max_difference: float = 1e-4
    agreement: float = 0.98
    accuracy: float = 0.01

    def __post_init__(self) -> None:
        """Checks the ranges: NaN would be a check that cannot fail."""
        shares = 0 <= self.agreement <= 1 and 0 <= self.accuracy <= 1
        if not shares or not 0 <= self.max_difference < math.inf:
            raise ValueError(
                "expected shares in [0, 1], and max_difference >= 0. Received: "
                f"agreement={self.agreement}, accuracy={self.accuracy}, "
                f"max_difference={self.max_difference}"
            )


@dataclasses.dataclass(frozen=True)
class Verification:
    """What running a file showed, next to the Keras model that holds the same chip.

    Attributes:
        images: number of images.
        agreement: share of images with the same top-1 class; of sigmoids the share of outputs on
            the same side of 0.5; of a regression that of outputs which differ by at most 5% of
            what the Keras model's range over.
        max_difference: largest difference of any logit, relative to `max(1, largest logit)`.
        accuracy: share of right answers of the file, in `[0, 1]`; None without labels, or for a
            regression.
        keras_accuracy: likewise, of the Keras model.
    """

    images: int
    agreement: float
    max_difference: float
    accuracy: float | None
    keras_accuracy: float | None

    def check(self, quantization: str, thresholds: Thresholds) -> None:
        """Raises `ExportError` if the file does not reach the thresholds."""
        if quantization == "float32":
            if not self.max_difference <= thresholds.max_difference:
                raise ExportError(
                    f"The float32 file's logits differ from the Keras model's by "
                    f"{self.max_difference:.2g} of the largest logit; at most "
                    f"{thresholds.max_difference:.2g} was expected "
                    "(thresholds=Thresholds(max_difference=...), --max_difference)."
                )
            return
        if not self.agreement >= thresholds.agreement:
            raise ExportError(
                f"The {quantization} file and the Keras model give the same class (or answer) on "
                f"{self.agreement:.1%} of {self.images} images; at least "
                f"{thresholds.agreement:.1%} was expected "
                "(thresholds=Thresholds(agreement=...), --min_agreement). More calibration images "
                "may help, or calibration on chips; a model near chance has no stable classes."
            )
        if self.accuracy is None or self.keras_accuracy is None:
            return
        allowed = max(thresholds.accuracy, 1 / self.images)
        if not abs(self.accuracy - self.keras_accuracy) <= allowed + 1e-9:
            raise ExportError(
                f"The {quantization} file has an accuracy of {self.accuracy:.2%} and the Keras "
                f"model of {self.keras_accuracy:.2%} on {self.images} images; at most "
                f"{allowed:.2%} between them was expected "
                "(thresholds=Thresholds(accuracy=...), --max_accuracy_difference)."
            )


def compare(
    model: keras.Model,
    tflite: bytes | bytearray,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    kind: Kind | None = None,
) -> Verification:
    """Runs a TFLite file in LiteRT and compares it with a Keras model as it is programmed now.

    Args:
        model: the Keras model, programmed with the file's chip.
        tflite: bytes of the file.
        images: float images `(n, ...)`, preprocessed as for the model.
        labels: integer classes `(n,)`, for the accuracies; or what `checked_labels` returned.
        kind: what the outputs say; None for what the model and the labels tell.

    Raises:
        ValueError: if the file cannot be run.
    """
    outputs = LiteRTModel(tflite, batch_size=min(100, len(images))).predict(images)
    expected = np.concatenate(
        [
            np.asarray(model.predict_on_batch(images[start : start + _KERAS_BATCH]))
            for start in range(0, len(images), _KERAS_BATCH)
        ]
    )
    if outputs.shape != expected.shape:
        raise ExportError(f"The file has outputs {outputs.shape}, the model {expected.shape}.")
    kind = kind or kind_of(model, labels)
    return Verification(
        images=len(images),
        agreement=agreement(kind, outputs, expected),
        max_difference=float(np.abs(outputs - expected).max() / max(1.0, np.abs(expected).max())),
        accuracy=accuracy(kind, outputs, labels),
        keras_accuracy=accuracy(kind, expected, labels),
    )


def check_weights(
    places: Mapping[str, Sequence[Place]],
    base: bytes,
    tflite: bytes | bytearray,
    faults: Mapping[str, Fault],
) -> None:
    """Checks every byte of a patched file against its chip.

    Each weight must be what the chip makes of the trained weight, in the file's quantization, and
    all bytes that are not weights must be those of the fault-free file.

    Args:
        places: kernel name -> where the files hold it.
        base: the fault-free file.
        tflite: the chip's file.
        faults: kernel name -> fault; the weights of others must be those of `base`.

    Raises:
        ExportError: if a byte differs. The message names the kernel.
    """
    if len(tflite) != len(base):
        raise ExportError(f"The file has {len(tflite)} bytes; its fault-free file has {len(base)}.")
    same = np.frombuffer(tflite, np.uint8) == np.frombuffer(base, np.uint8)
    for name, found in places.items():
        for place in found:
            # The bytes as the chip has them, weight by weight, in the kernel's own layout.
            held, wanted = place.restore(place.view(tflite)), _wanted(place, base, faults.get(name))
            if place.is_integer:
                wrong = np.count_nonzero(held != wanted)
            else:
                tolerance = np.finfo(held.dtype).eps * np.abs(wanted)
                wrong = np.count_nonzero(~(np.abs(held - wanted) <= tolerance))
            if wrong:
                raise ExportError(
                    f"{wrong} of {held.size} weights of kernel '{name}' are not what the chip "
                    "makes of them."
                )
            same[place.tensor.offset : place.tensor.offset + place.tensor.size] = True
    if not same.all():
        raise ExportError(
            f"{int((~same).sum())} bytes that hold no weights differ from the fault-free file's, "
            f"the first at {int(np.argmin(same))}."
        )


def _wanted(place: Place, base: bytes, fault: Fault | None) -> np.ndarray:
    """Returns what a file must store for a kernel, in the kernel's layout.

    Shares with `Place.write` where the kernel is and its factors, and no arithmetic.
    """
    held = np.array(place.restore(place.view(base)), order="C")
    if fault is None:
        return held
    changed = np.flatnonzero(place.changed(fault))
    weights = fault.apply(place.kernel.values).ravel()[changed]
    # In the layout of Keras the output channels are last.
    factor = place.channel_factors[changed % place.channel_factors.size]
    wanted = np.where(weights == 0, 0.0, weights * factor)
    if place.is_integer:
        wanted = np.clip(np.rint(wanted), -INT8_LIMIT, INT8_LIMIT)
    held.reshape(-1)[changed] = wanted
    return held
