"""A model as bytes, for engines that travel to other processes and machines."""

import pathlib
import tempfile

import keras

from keras_rram.chips.chip import erase


def to_bytes(model: keras.Model) -> bytes:
    """Returns a model, as trained and free of faults, as the bytes of a `.keras` file."""
    with tempfile.TemporaryDirectory() as folder, erase(model):
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def from_bytes(content: bytes) -> keras.Model:
    """Returns the model of `to_bytes`."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        path.write_bytes(content)
        return keras.models.load_model(path, compile=False)
