"""Is a patched file what a conversion of its own would be? Slow checks by a second way."""

import dataclasses

import keras
import numpy as np

from keras_rram.chips.chip import Chip, program
from keras_rram.export.convert import convert
from keras_rram.export.errors import ExportError
from keras_rram.export.flatbuffer import Tensor, parse
from keras_rram.export.kernel_places import weight_tensors
from keras_rram.export.litert_model import LiteRTModel
from keras_rram.export.patchable import PatchableModel

# A float32 weight this near to the middle of two int8 steps may round either way: the converter
# folds batch normalization in another order of operations when it quantizes.
_TIE = 1e-3
# Rounding of the converter's arithmetic, relative to the largest weight of the tensor.
_TOLERANCE = {"FLOAT32": 1e-6, "FLOAT16": 1e-3}


@dataclasses.dataclass(frozen=True)
class CrossCheck:
    """What a fresh conversion of a chip's baked model showed.

    Attributes:
        weights: number of weights that were compared: all but those whose float32 value lies half
            way between two steps of int8, to one part in a thousand.
        difference: largest absolute difference of any output from that of the float32 file; in
            int8 files quantization is in it.
    """

    weights: int
    difference: float


def against_conversion(
    patchable: PatchableModel, model: keras.Model, chip: Chip, images: np.ndarray
) -> CrossCheck:
    """Converts a chip's baked model afresh and compares the patched file with it.

    The fresh file is float32, and its weights are rounded here as the patched file's are, with the
    quantization steps that the patched file states. Nothing but these steps is shared with how it
    was patched: the n-th weights that the operators of one file use are the n-th of the other's.

    Args:
        patchable: the converted model.
        model: the Keras model.
        chip: the chip.
        images: float images `(n, ...)`, preprocessed as for the model.

    Raises:
        ExportError: if a weight differs, or the files have different graphs. The message names the
            tensor.
    """
    faults = chip.faults(model)
    patched = patchable.patch(faults)
    with program(model, faults):
        fresh = convert(model, "float32")
    ours, theirs = (weight_tensors(parse(file)) for file in (patched, fresh))
    used, expected = ([(operator, t.shape) for t, operator in found] for found in (ours, theirs))
    if used != expected:
        raise ExportError(f"Expected files of one graph. Received: {used} and {expected}")
    compared = sum(
        _compare(tensor, tensor.read(patched), other.read(fresh).astype(np.float64))
        for (tensor, _), (other, _) in zip(ours, theirs, strict=True)
    )
    difference = LiteRTModel(patched).predict(images) - LiteRTModel(fresh).predict(images)
    return CrossCheck(compared, float(np.abs(difference).max()))


def _compare(tensor: Tensor, held: np.ndarray, wanted: np.ndarray) -> int:
    """Returns how many weights of a tensor could be compared."""
    is_tie = np.zeros(held.shape, bool)
    if tensor.type == "INT8":
        axes = [-1 if axis == tensor.axis else 1 for axis in range(held.ndim)]
        wanted = np.clip(wanted / tensor.scales.reshape(axes), -127, 127)
        is_tie = np.abs(np.abs(wanted - np.rint(wanted)) - 0.5) < _TIE
        wrong = (held != np.rint(wanted)) & ~is_tie
    else:
        wrong = np.abs(held - wanted) > _TOLERANCE[tensor.type] * np.abs(wanted).max(initial=0)
    if wrong.any():
        raise ExportError(
            f"{int(wrong.sum())} of {wrong.size} weights of tensor '{tensor.name}' are not those "
            "of a fresh conversion."
        )
    return int(np.count_nonzero(~is_tie))
