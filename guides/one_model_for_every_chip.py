"""
Title: Train one model for every chip
Description: What training with Drop-Connect does not see, and how to train it away.
"""

"""
## Introduction

Drop-Connect drops a fresh random subset of the weights in every training step. Yet networks with
batch normalization that were trained so can be far worse on chips than in training: each step is
normalized by the statistics of its own batch, which no chip has. This guide trains one small
network in four ways and compares them on the same chips, with nothing known about any chip (tier
A).
"""

import dataclasses
import os

import keras

from keras_rram import DropConnect, StuckAtZero, data, to_drop_connect
from keras_rram.evaluation import evaluate_population
from keras_rram.training import ChipValidation, Recipe, train

FAST = bool(os.environ.get("GUIDE_FAST"))
EPOCHS, CHIPS, IMAGES, RATE = (2, 2, 100, 0.2) if FAST else (8, 30, 500, 0.3)

dataset = data.load("digits")
dataset = dataset.subset(train=256) if FAST else dataset
test = dataset.arrays("test", IMAGES)
recipe = Recipe("adam", 2e-3, 64, EPOCHS)


def network():
    keras.utils.set_random_seed(0)
    width = 4 if FAST else 16
    layers = [keras.Input((28, 28, 1))]

    def add(layer, activation=True):
        name = layer.name
        layers.extend([layer, keras.layers.BatchNormalization(name=f"{name}_norm")])
        if activation:
            layers.append(keras.layers.ReLU(name=f"{name}_relu"))

    add(keras.layers.Conv2D(width, 3, strides=2, use_bias=False, name="stem"))
    for number in range(1 if FAST else 2):
        block = f"block{number}"
        add(keras.layers.Conv2D(4 * width, 1, use_bias=False, name=f"{block}_expand"))
        add(keras.layers.DepthwiseConv2D(3, 2, use_bias=False, name=f"{block}_depthwise"))
        add(keras.layers.Conv2D(width, 1, use_bias=False, name=f"{block}_project"), False)
    layers += [keras.layers.Flatten(), keras.layers.Dense(10, name="head")]
    return keras.Sequential(layers, name="network")


"""
## Four ways

- `batch`: batch normalization, as usual;
- `masks`: the same, each batch in eight parts with a mask of its own each (`DropConnect(masks=8)`);
  batch normalization sees all of them, and its statistics are those of several chips;
- `fixed`: the same, its last epochs on the statistics that chips will have (`statistics_epochs`);
- `instance`: the statistics of each image, which no fault can make wrong.

The kernels of the bottlenecks are on faulty hardware; stem and head are not (`where="blocks"`).
"""

ways = {
    "batch": ("batch", 1, recipe),
    "masks": ("batch", 8, recipe),
    "fixed": ("batch", 1, dataclasses.replace(recipe, statistics_epochs=max(1, EPOCHS // 2))),
    "instance": ("instance", 1, recipe),
}

"""
`ChipValidation` evaluates a few chips after each epoch, chips that no evaluation will meet. Follow
`val_chip_accuracy`, not the training accuracy, which does not see the error.
"""

validation = dataset.split(0.1).arrays("validation")
results = {}
for name, (normalization, masks, how) in ways.items():
    drop_connect = DropConnect(RATE, masks=masks)
    model = to_drop_connect(network(), drop_connect, "blocks", normalization=normalization)
    watch = ChipValidation(*validation, StuckAtZero(RATE), chips=2)
    history = train(model, dataset, how, seed=0, callbacks=[watch], verbose=2).history
    print(name, history[-1]["accuracy"], history[-1]["val_chip_accuracy"])
    results[name] = evaluate_population(
        model, StuckAtZero(RATE), test, CHIPS, engine="keras", progress=False
    )

"""
## On the same chips

Mean, worst chip, and the accuracy without faults, which must not be the lower one: a model that is
better on broken chips than on a healthy one has statistics of the wrong kind.

Hold each mean against the training accuracy of the same network, above: with batch normalization
chips fall behind it, with the others hardly or not. Few epochs are short for normalization of
each image, whose training accuracy is still rising; `docs/robust_training.md` trains longer, and
there it is the best.
"""

for name, result in results.items():
    low, high = result.mean_interval().low, result.mean_interval().high
    print(
        f"{name}: mean {result.mean:.3f} ({low:.3f} to {high:.3f}), "
        f"worst {result.worst.accuracy:.3f}, fault-free {result.fault_free:.3f}"
    )
