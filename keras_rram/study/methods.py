"""How a network is trained for a panel: the study's way, and others with rows of their own."""

from collections.abc import Callable
from dataclasses import dataclass

import keras

from keras_rram.faults import FaultModel
from keras_rram.training.loop import TrainingResult, train


def _as_built(model: keras.Model, fault_model: FaultModel, seed: int) -> keras.Model:
    del fault_model, seed
    return model


@dataclass(frozen=True)
class Method:
    """A way of training that has a row in each panel it is run for.

    Attributes:
        title: in a few words, for tables.
        train: has the signature of `keras_rram.training.train`, and may add callbacks to those
            it is given.
        prepare: takes the panel's untrained model, what its chips are drawn from and the seed, and
            returns the model to train; it must give equal layers when called again.
    """

    title: str
    train: Callable[..., TrainingResult] = train
    prepare: Callable[[keras.Model, FaultModel, int], keras.Model] = _as_built


STUDY = "study"
METHODS: dict[str, Method] = {STUDY: Method("as the study trains")}
"""By name. A method is one entry here; its runs compare with those of the same epochs."""
