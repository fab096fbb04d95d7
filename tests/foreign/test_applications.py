"""Networks of `keras.applications` at 96 x 96, of random weights: agreement with Keras counts.

They take minutes: `KERAS_RRAM_FOREIGN=1 pytest tests/foreign/test_applications.py` runs them.
"""

import os

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, recalibrate_batch_norm, to_drop_connect
from keras_rram.evaluation import evaluate_population
from keras_rram.export import Exporter
from keras_rram.repair import BatchNormRecalibration

BUILDERS = {
    "mobilenet_v2": keras.applications.MobileNetV2,
    "efficientnet_v2": keras.applications.EfficientNetV2B0,
    "convnext": keras.applications.ConvNeXtTiny,
}

pytestmark = pytest.mark.skipif(
    not os.environ.get("KERAS_RRAM_FOREIGN"), reason="takes minutes: set KERAS_RRAM_FOREIGN=1"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_population_repair_and_file_agree_with_keras(name, tmp_path):
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    images = rng.uniform(0, 255, (24, 96, 96, 3)).astype(np.float32)
    if name == "mobilenet_v2":
        images = images / 127.5 - 1
    plain = BUILDERS[name]((96, 96, 3), weights=None, classes=10)
    labels = plain.predict(images, verbose=0).argmax(-1)
    plain.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    twin = to_drop_connect(plain, 0.0)
    repair = None
    if name != "convnext":
        # Random weights have no statistics: those of the images, as after training, and shifts.
        recalibrate_batch_norm(twin, images, keep=True)
        for layer in twin._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.beta.assign(rng.normal(scale=0.1, size=layer.beta.shape))
        repair = BatchNormRecalibration(images, batch_size=24)
        labels = twin.predict(images, verbose=0).argmax(-1)
    result = evaluate_population(
        twin, 0.05, (images, labels), 1, engine="litert", repair=repair, progress=False
    )
    assert result.fault_free == 1.0
    chip = Chip(StuckAtZero(0.05))
    exporter = Exporter(twin, "float32", images=images, labels=labels, repair=repair)
    report = exporter.write(tmp_path / "chip.tflite", chip)
    assert report.method == "patched"
    assert report.verification.agreement == 1.0
    assert report.verification.accuracy == result.mean
