"""Measured fault maps: from the arrays of a file to the faults of a model's kernels."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_rram.faults import Fault

OFFSET = ":offset"
"""Ending of the names of arrays that hold values of stuck weights."""


def match_map(
    measured: Mapping[str, Fault], kernels: Mapping[str, keras.Variable]
) -> dict[str, Fault]:
    """Returns a map's faults under full kernel names, checked against the kernels."""
    matched: dict[str, Fault] = {}
    for name, fault in measured.items():
        found = [key for key in kernels if key == name or key.split("/")[0] == name]
        if len(found) != 1:
            reason = f"its kernels are {found}; name one" if found else "there is no such layer"
            raise ValueError(
                f"The fault map has an array '{name}', but {reason}. Kernels of the model: "
                f"{sorted(kernels)}"
            )
        shape = tuple(kernels[found[0]].shape)
        if fault.mask.shape != shape:
            raise ValueError(
                f"The fault map's array '{name}' must have the kernel's shape, {shape}. "
                f"Received: {fault.mask.shape}"
            )
        if found[0] in matched:
            raise ValueError(f"The fault map has two arrays for '{found[0]}'.")
        matched[found[0]] = fault
    return matched


def parse_map(arrays: dict[str, np.ndarray], path: Any, is_map: bool) -> dict[str, Fault]:
    """Checks the values of a map's arrays and joins masks and offsets."""
    if is_map and not arrays:
        raise ValueError(f"The fault map '{path}' holds no array.")
    for name, array in arrays.items():
        if array.dtype.kind not in "buif":
            raise ValueError(f"Array '{name}' of '{path}' must be numbers. Got {array.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(f"Array '{name}' of '{path}' has NaN or infinite values.")
        is_mask = not name.endswith(OFFSET)
        if is_map and is_mask and array.size and (array.min() < 0 or array.max() > 1):
            raise ValueError(
                f"Array '{name}' of '{path}' must have values in [0, 1] (1 is healthy, 0 reads as "
                f"zero). Received: {array.min()} to {array.max()}"
            )
        if not is_mask and name.removesuffix(OFFSET) not in arrays:
            raise ValueError(f"'{path}' has '{name}' without '{name.removesuffix(OFFSET)}'.")
    return {
        name: Fault(
            array.astype(np.float32),
            arrays[name + OFFSET].astype(np.float32) if name + OFFSET in arrays else None,
        )
        for name, array in arrays.items()
        if not name.endswith(OFFSET)
    }
