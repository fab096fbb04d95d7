"""Models that a repair cannot serve: it says so before anything is converted, and what serves."""

import keras
import numpy as np
import pytest

from keras_rram import to_drop_connect
from keras_rram.evaluation import evaluate_population
from keras_rram.evaluation.engines import litert
from keras_rram.export import Exporter, exporter
from keras_rram.repair import parse

IMAGES, LABELS = np.zeros((8, 4, 6), np.float32), np.zeros(8, np.int64)


def transformer():
    """Attention and layer normalization, as ConvNeXt and transformers have it."""
    inputs = keras.Input((4, 6))
    x = keras.layers.LayerNormalization()(inputs)
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return to_drop_connect(keras.Model(inputs, keras.layers.Dense(3)(x), name="own"), 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_norm", "It has LayerNormalization, of each sample's own.*remap, spare_columns and"),
        ("mean_read", "has no batch normalization"),
        ("remap+batch_norm", "has no batch normalization"),
        (
            "least_squares",
            "DropConnectMultiHeadAttention of kernel 'attention/kernel'.*=batch_norm",
        ),
        ("map", "DropConnectMultiHeadAttention"),
    ],
)
def test_a_model_that_is_not_served_is_refused_at_once(text, message, monkeypatch, tmp_path):
    def convert(*_, **__):
        raise AssertionError("converted before the check")

    monkeypatch.setattr(litert, "convert_once", convert)
    monkeypatch.setattr(exporter.PatchableModel, "convert", convert)
    model, plan = transformer(), parse(text)
    repair = plan.on(np.zeros((plan.images, 4, 6), np.float32))
    with pytest.raises(ValueError, match=message) as error:
        evaluate_population(model, 0.1, (IMAGES, LABELS), 2, repair=repair, progress=False)
    assert "Exception encountered" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        Exporter(model, "float32", images=IMAGES, labels=LABELS, repair=repair)
