"""Data sets: where samples come from, how they are normalized, batched and augmented."""

from keras_rram.data.augmentation import CropFlip
from keras_rram.data.batched import as_arrays
from keras_rram.data.checks import check_classes, check_images, check_labels
from keras_rram.data.dataset import Dataset
from keras_rram.data.normalization import Normalization
from keras_rram.data.sources import from_arrays, load

__all__ = [
    "CropFlip",
    "Dataset",
    "Normalization",
    "as_arrays",
    "check_classes",
    "check_images",
    "check_labels",
    "from_arrays",
    "load",
]
