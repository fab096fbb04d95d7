import numpy as np
import pytest

from keras_rram import StuckAtZero
from keras_rram.chips import chip as chips
from tests.classifiers import classifier, digits, right_answers


@pytest.fixture(scope="session")
def model():
    return classifier()


@pytest.fixture(scope="session")
def loop(model):
    """Right answers of 40 chips at 20%, by the user's own loop: the oracle."""
    population = chips.population(StuckAtZero(0.2), 40, seed=5)
    return np.array([right_answers(model, chip, *digits()) for chip in population])
