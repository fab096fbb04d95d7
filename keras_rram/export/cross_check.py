"""Is a patched file what a conversion of its own would be? Slow checks by a second way."""

import keras
import numpy as np

from keras_rram.chips.chip import Chip
from keras_rram.export.convert import convert
from keras_rram.export.errors import ExportError
from keras_rram.export.flatbuffer import parse
from keras_rram.export.kernels import chip_faults
from keras_rram.export.litert_model import LiteRTModel
from keras_rram.export.patchable import TFLitePatcher

# A float32 weight this near to the middle of two steps may round either way: the converter folds
# batch normalization in another order of operations when it quantizes.
_TIE = 1e-3


def against_conversion(
    patcher: TFLitePatcher, model: keras.Model, chip: Chip, images: np.ndarray
) -> float:
    """Converts a chip's baked model afresh and compares its outputs with the patched file's.

    Args:
        patcher: patcher of a float32 file.
        model: its model.
        chip: the chip.
        images: float images `(n, ...)`, preprocessed as for the model.

    Returns:
        The largest absolute difference of any output.

    Raises:
        ValueError: if `patcher` has weights of another type: a fresh conversion of a chip has
            quantization steps of its own.
    """
    types = sorted({place.tensor.type for found in patcher.places.values() for place in found})
    if types != ["FLOAT32"]:
        raise ValueError(f"Expected the patcher of a float32 file. Received: weights of {types}")
    with chip.program(model):
        fresh = convert(model, "float32")
    patched = patcher.patch_chip(chip, model)
    difference = LiteRTModel(patched).predict(images) - LiteRTModel(fresh).predict(images)
    return float(np.abs(difference).max())


def against_quantization(
    patcher: TFLitePatcher, floats: TFLitePatcher, model: keras.Model, chip: Chip
) -> int:
    """Quantizes a chip's float32 weights with the int8 file's steps and compares every byte.

    The float32 weights come from a conversion of their own, so that nothing but the steps, which
    are in the int8 file, is shared with how it was patched.

    Args:
        patcher: patcher of an int8 file.
        floats: patcher of a float32 file of the same model.
        model: the model.
        chip: the chip.

    Returns:
        Number of weights that were compared: all but those whose float32 value lies half way
        between two steps, to one part in a thousand.

    Raises:
        ExportError: if a byte differs. The message names the kernel.
    """
    faults = chip_faults(chip, model)
    integers, reals = patcher.patch(faults), floats.patch(faults)
    graph = parse(integers)
    compared = 0
    for name, (place, *_) in patcher.places.items():
        tensor = graph.tensors[place.tensor.index]
        axes = [-1 if axis == tensor.axis else 1 for axis in range(len(tensor.shape))]
        wanted = floats.places[name][0].tensor.read(reals).astype(np.float64).reshape(tensor.shape)
        wanted = np.clip(wanted / tensor.scales.reshape(axes), -127, 127)
        is_tie = np.abs(np.abs(wanted - np.rint(wanted)) - 0.5) < _TIE
        wrong = (tensor.read(integers) != np.rint(wanted)) & ~is_tie
        if wrong.any():
            raise ExportError(
                f"{int(wrong.sum())} of {wrong.size} weights of kernel '{name}' are not the "
                "float32 weights in the int8 file's quantization."
            )
        compared += int(np.count_nonzero(~is_tie))
    return compared
