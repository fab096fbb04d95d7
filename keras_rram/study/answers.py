"""Each chip's answers to each test image, in a small file beside a run's record.

`answers.npz` holds `images`, the indices of the images in the test split, and for each population
an array of one row for each chip, `numpy.packbits` of right or wrong. A population that answered
other images has their indices as `<population>:images`.
"""

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_rram.evaluation.results import PopulationResult
from keras_rram.files import read_npz, written_whole

FILE = "answers.npz"


@dataclass(frozen=True)
class Answers:
    """What was read from a run's file.

    Attributes:
        images: population -> indices of its test images in the test split, ascending.
        right: population -> right or wrong, shape (chips, images), boolean.
    """

    images: dict[str, np.ndarray]
    right: dict[str, np.ndarray]


def write_answers(
    folder: pathlib.Path, found: Mapping[str, PopulationResult], images: Mapping[str, np.ndarray]
) -> None:
    """Writes the answers of a run's populations.

    Args:
        folder: of the run.
        found: population -> its result, of chips that kept each answer.
        images: population -> indices of its images in the test split, in the order of the answers.

    Raises:
        ValueError: if a population has not kept each answer to these images.
    """
    common = images[next(iter(found))]
    packed: dict[str, np.ndarray] = {"images": common.astype(np.uint32)}
    for name, result in found.items():
        matrix = result.matrix
        if matrix is None or matrix.shape[1] != len(images[name]):
            raise ValueError(
                f"expected each answer to {len(images[name])} images in population {name!r}. "
                f"Received: {None if matrix is None else matrix.shape}"
            )
        if not np.array_equal(images[name], common):
            packed[f"{name}:images"] = images[name].astype(np.uint32)
        packed[name] = np.packbits(matrix, axis=1)
    with written_whole(folder / FILE) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **packed)


def read_answers(folder: pathlib.Path) -> Answers | None:
    """Reads the answers of a run; None where it kept none."""
    if not (folder / FILE).exists():
        return None
    arrays = read_npz(folder / FILE)
    common = arrays.pop("images")
    own = {name: arrays.pop(name) for name in list(arrays) if name.endswith(":images")}
    images, right = {}, {}
    for name, rows in arrays.items():
        numbers = own.get(f"{name}:images", common)
        order = np.argsort(numbers)
        images[name] = numbers[order]
        right[name] = np.unpackbits(rows, axis=1, count=len(numbers)).astype(bool)[:, order]
    return Answers(images, right)
