import keras
import numpy as np
import pytest

from keras_rram import faulty_layers
from keras_rram.hardware import summary_table
from keras_rram.layers.normalization import FusedBatchNormalization
from keras_rram.models import vgg13


@pytest.fixture(scope="module")
def model():
    return vgg13(0.2)


def test_published_size(model):
    """9,416,010 in kuangliu's PyTorch code, whose convolutions have biases before the norm."""
    biases = 2 * (64 + 128 + 256 + 512 + 512)
    parameters = sum(np.prod(w.shape, dtype=int) for w in model.trainable_weights)
    assert parameters == 9_416_010 - biases
    assert summary_table(model).macs == pytest.approx(228e6, rel=0.01)


def test_convolutions_are_those_of_configuration_b(model):
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == [
        64, 64, 128, 128, 256, 256, 512, 512, 512, 512,
    ]  # fmt: skip
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 10
    assert all(isinstance(layer, FusedBatchNormalization) for layer in norms)


def test_scopes(model):
    assert list(faulty_layers(model)) == [f"c{number:02d}_conv" for number in range(2, 11)]


def test_reads_digits_and_refuses_what_cannot_take_effect():
    assert vgg13(input_shape=(28, 28, 1), classes=3).output_shape == (None, 3)
    with pytest.raises(ValueError, match="cannot take effect"):
        vgg13(0.2, scope="blocks")
    with pytest.raises(ValueError, match="classes"):
        vgg13(classes=0)
