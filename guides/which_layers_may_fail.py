"""
Title: Which layers may fail
Description: Which layers need good cells, seen by chips whose faults hit one layer only.
"""

"""
## Introduction

Not all layers suffer alike. If the chip has a part with better cells, or an area for digital
weights, which layers should go there? This guide evaluates chips whose faults hit one layer only.
"""

import os

import keras
import numpy as np

import keras_rram
from keras_rram import Chip, StuckAtZero, data
from keras_rram.evaluation import evaluate_population, explain

FAST = bool(os.environ.get("GUIDE_FAST"))
EPOCHS, CHIPS, IMAGES, RATE = (1, 2, 100, 0.3) if FAST else (6, 20, 500, 0.3)

dataset = data.load("digits")
train_images, train_labels = dataset.arrays("train", 500 if FAST else 4000)
test = dataset.arrays("test", IMAGES)

keras.utils.set_random_seed(0)
plain = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="stem"),
        keras.layers.DepthwiseConv2D(3, activation="relu", name="depthwise"),
        keras.layers.Conv2D(32, 1, strides=2, activation="relu", name="project"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, name="head"),
    ],
    name="layers",
)
plain.compile(
    keras.optimizers.Adam(2e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
plain.fit(train_images, train_labels, batch_size=64, epochs=EPOCHS, verbose=2)
model = keras_rram.to_drop_connect(plain, 0.0)

"""
## Chips whose faults hit one layer

A chip with a map holds faults of some kernels; all others are healthy. The maps here are those
that a sampled chip has for the layer.
"""


def only(layer, index):
    found = Chip(StuckAtZero(RATE), seed=0, index=index).faults(model)
    held = {name: fault for name, fault in found.items() if name.split("/")[0] == layer}
    return Chip(measured=held, name=f"{layer}_{index}")


layers = list(keras_rram.faulty_layers(model))
chips = [only(layer, index) for layer in layers for index in range(CHIPS)]
single = evaluate_population(model, chips, test, progress=False)
whole = evaluate_population(model, StuckAtZero(RATE), test, CHIPS, progress=False)
print(f"all layers faulty: {whole.mean:.3f}; fault-free: {whole.fault_free:.3f}")

costs = {}
for layer in layers:
    kernels = model.get_layer(layer).kernels.values()
    weights = sum(int(np.prod(kernel.shape)) for kernel in kernels)
    found = [chip.accuracy for chip in single.chips if chip.name.startswith(f"{layer}_")]
    costs[layer] = single.fault_free - np.mean(found)
    print(f"{layer:<10} {weights:>6,} weights: loses {costs[layer]:.3f} (worst {min(found):.3f})")

"""
## What protecting a layer is worth

The order of the table is the order in which to give layers good cells: often few weights cost
most, and few good cells save most. `where=` puts all but some layers on faulty hardware.
"""

first = max(costs, key=costs.get)
protected = keras_rram.to_drop_connect(plain, 0.0, where=lambda layer: layer.name != first)
saved = evaluate_population(protected, StuckAtZero(RATE), test, CHIPS, progress=False)
print(f"with '{first}' on good cells: {saved.mean:.3f} instead of {whole.mean:.3f}")

"""
## One chip in more detail

`explain` has the same for one chip, with what the faults do to the outputs of each layer.
"""

print(explain(model, Chip(StuckAtZero(RATE), index=0), test))
