import dataclasses

import keras
import numpy as np
import pytest

from keras_rram import layers
from keras_rram.export import (
    ExportError,
    PatchableModel,
    Thresholds,
    compare,
)
from keras_rram.export.verify import Verification
from tests import export_models


@pytest.mark.parametrize("quantization", ["float32", "int8", "float16"])
def test_a_patched_chip_passes(quantization):
    images = export_models.images(100)
    labels = export_models.model().predict_on_batch(images).argmax(-1)
    patchable, model = export_models.patchable(quantization), export_models.model()
    faults = export_models.chip().faults(model)
    verification = patchable.verify(model, faults, images, labels)
    assert patchable.verification is verification
    assert verification.images == 100
    assert verification.agreement >= 0.9
    assert verification.keras_accuracy < 0.9  # a chip with faults, labels without
    verification.check(quantization, Thresholds(agreement=0.9, accuracy=0.1))


def test_the_wrong_chip_does_not_pass():
    model = export_models.model()
    patched = export_models.patchable("float32").patch(export_models.chip(1).faults(model))
    with export_models.chip(0).program(model):
        verification = compare(model, patched, export_models.images())
    assert verification.accuracy is None
    with pytest.raises(ExportError, match="logits differ"):
        verification.check("float32", Thresholds())
    with pytest.raises(ExportError, match="same class"):
        verification.check("int8", Thresholds())


@pytest.mark.parametrize("quantization", ["float32", "int8", "float16"])
def test_every_corrupted_byte_is_found(quantization):
    patcher = export_models.patchable(quantization)
    faults = export_models.chip().faults(export_models.model())
    patched = patcher.patch(faults)
    patcher.check(patched, faults)
    place = patcher.places["depthwise/kernel"][0]
    # One weight of a kernel, and one byte that is no weight of any kernel.
    for position in (place.tensor.offset + place.tensor.dtype.itemsize - 1, len(patched) - 1):
        damaged = bytearray(patched)
        damaged[position] ^= 0x15
        expected = "'depthwise/kernel'" if position < len(patched) - 1 else "hold no weights"
        with pytest.raises(ExportError, match=expected):
            patcher.check(damaged, faults)
    with pytest.raises(ExportError, match="bytes"):
        patcher.check(patched[:-1], faults)


def test_one_weight_left_unpatched_is_found():
    patcher, faults = (
        export_models.patchable("int8"),
        export_models.chip().faults(export_models.model()),
    )
    patched = patcher.patch(faults)
    place = patcher.places["head/kernel"][0]
    base = np.frombuffer(patcher.tflite, np.int8)
    changed = np.flatnonzero(place.view(patched) != place.view(patcher.tflite))
    position = place.tensor.offset + int(changed[0])
    patched[position] = base.view(np.uint8)[position]
    with pytest.raises(ExportError, match="1 of 160 weights of kernel 'head/kernel'"):
        patcher.check(patched, faults)


def test_a_bias_that_depends_on_the_kernel_is_found_by_running(monkeypatch):
    # Not shielded: what a batch normalization in front adds goes through the kernel into the bias.
    monkeypatch.setattr("keras_rram.export.prepare.exposed_layers", lambda model: set())
    inputs = keras.Input((6,))
    norm = keras.layers.BatchNormalization(beta_initializer="ones")
    x = layers.DropConnectDense(4, drop_connect=0.2, name="behind")(norm(inputs))
    model = keras.Model(inputs, keras.layers.BatchNormalization(name="after")(x))
    rng = np.random.default_rng(0)
    model.get_layer("after").set_weights(rng.uniform(1, 2, (4, 4)))
    patcher = PatchableModel.convert(model, "float32")
    images = rng.normal(size=(8, 6)).astype(np.float32)
    verification = patcher.verify(model, export_models.chip().faults(model), images)
    with pytest.raises(ExportError, match="logits differ"):
        verification.check("float32", Thresholds())


@pytest.mark.parametrize(
    ("quantization", "change", "passes"),
    [
        ("float32", {"max_difference": 1.0e-4}, True),
        ("float32", {"max_difference": 1.1e-4}, False),
        ("float32", {"max_difference": float("nan")}, False),
        ("float32", {"agreement": 0.0}, True),
        ("int8", {"max_difference": 1.0}, True),
        ("int8", {"agreement": 0.98}, True),
        ("int8", {"agreement": 0.97}, False),
        ("int8", {"accuracy": 0.79}, True),
        ("int8", {"accuracy": 0.785}, False),
        ("int8", {"accuracy": 0.7, "images": 10}, True),
        ("int8", {"accuracy": None, "keras_accuracy": None}, True),
    ],
)
def test_thresholds(quantization, change, passes):
    good = Verification(1000, 1.0, 0.0, 0.8, 0.8)
    verification = dataclasses.replace(good, **change)
    if passes:
        verification.check(quantization, Thresholds())
    else:
        with pytest.raises(ExportError):
            verification.check(quantization, Thresholds())
