"""
Title: Fault models and what they cost
Description: The same share of cells, broken in different ways, and a fault model of your own.
"""

"""
## Introduction

"10% faulty" is not one number. Weights may be lost one by one, in clusters, in whole lines; a cell
may be stuck on, which is worse than off; conductances vary and drift. This guide evaluates one
model under many fault models at the same share of faulty cells.
"""

import dataclasses
import os

import keras
import numpy as np

from keras_rram import Chip, Fault, data, faults, models
from keras_rram.evaluation import evaluate_population
from keras_rram.training import Recipe, train

FAST = bool(os.environ.get("GUIDE_FAST"))
EPOCHS, CHIPS, IMAGES = (1, 2, 100) if FAST else (8, 30, 500)

dataset = data.load("digits")
dataset = dataset.subset(train=500) if FAST else dataset
test = dataset.arrays("test", IMAGES)
keras.utils.set_random_seed(0)
model = models.perceptron((32,) if FAST else (128, 64), drop_connect=0.1)
result = train(model, dataset, Recipe("adam", 1e-3, 64, EPOCHS), seed=0, verbose=2)

"""
## As text

A fault model is a text, in flags, in files and here. `faults.parse` gives the object; results and
files hold the text, which replays their chips.
"""

texts = [
    "stuck_at_zero:rate=0.1",
    "clustered_faults:rate=0.1",
    "row_faults:rate=0.1",
    "column_faults:rate=0.1",
    "differential_pair:stuck_off=0.084,stuck_on=0.016",
    "differential_pair:stuck_on=0.1",
    "lognormal_variation:sigma=0.3",
    "drift:seconds=86400,nu=0.05",
]
for text in texts[::4] if FAST else texts:
    assert faults.parse(faults.spec(faults.parse(text))) == faults.parse(text)
    result = evaluate_population(model, text, test, CHIPS, progress=False)
    print(f"{text:<50} mean {result.mean:.3f}, worst {result.worst.accuracy:.3f}")

"""
## Several at once

`+` is one after the other: a weight that one has stuck stays as it is, unless a later one sticks
it elsewhere. `&` is about the same cells, in order: put stuck cells last, and they do not vary.
"""

both = "stuck_at_zero:rate=0.05+lognormal_variation:sigma=0.2"
print(f"{evaluate_population(model, both, test, CHIPS, progress=False).mean:.3f}")
same = "lognormal_variation:sigma=0.2&differential_pair:stuck_off=0.05"
print(f"{evaluate_population(model, same, test, CHIPS, progress=False).mean:.3f}")

"""
## One of your own

A frozen dataclass with a `rate` and a `sample` that draws a `Fault` from the generator it is
given. With a name it can be written as text.
"""


@dataclasses.dataclass(frozen=True)
class SignFlips:
    """Weights whose sign is read wrongly."""

    rate: float

    needs_kernel = False

    def sample(self, shape, rng, kernel=None):
        flipped = rng.random(shape) < self.rate
        return Fault(np.where(flipped, -1.0, 1.0).astype("float32"))


faults.NAMES["sign_flips"] = SignFlips
print(f"{Chip(faults.parse('sign_flips:rate=0.02')).faults(model)['head/kernel'].rate:.3f}")
found = evaluate_population(model, "sign_flips:rate=0.02", test, CHIPS, progress=False)
print(f"{found.mean:.3f}")
