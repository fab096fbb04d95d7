"""
Title: Repair a chip
Description: What can be done for one chip in hand, by what is known of it.
"""

"""
## Introduction

A chip that was made can be repaired before it is used. What is known of it decides how: nothing
(access tier A, one model for all chips), its outputs for unlabelled images (B), or the map of its
faults, or labels (C). This guide tries none (A) and one of kind B on the same chips.
"""

import os

import keras

import keras_rram
from keras_rram import Chip, StuckAtZero, data, repair
from keras_rram.evaluation import evaluate_population

FAST = bool(os.environ.get("GUIDE_FAST"))
EPOCHS, CHIPS, IMAGES, CALIBRATION = (1, 2, 100, 64) if FAST else (5, 8, 500, 256)

"""
## A model and its chips
"""

dataset = data.load("digits")
train_images, train_labels = dataset.arrays("train", 500 if FAST else 4000)
test = dataset.arrays("test", IMAGES)

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras_rram.DropConnectConv2D(16, 5, strides=3, drop_connect=0.2, name="conv"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras_rram.DropConnectDense(64, drop_connect=0.2, name="hidden"),
        keras.layers.BatchNormalization(name="norm2"),
        keras.layers.ReLU(),
        keras_rram.DropConnectDense(10, drop_connect=0.2, name="head"),
    ],
    name="small",
)
model.compile(
    keras.optimizers.Adam(2e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(train_images, train_labels, batch_size=64, epochs=EPOCHS, verbose=2)

"""
## One chip, by hand

A repair is a context manager on a programmed model: at its end, the model is as it was.
"""

chip = Chip(StuckAtZero(0.3), seed=0, index=0)
with chip.program(model):
    print(model.evaluate(*test, verbose=0))
    with keras_rram.recalibrate_batch_norm(model, train_images[:CALIBRATION]):
        print(model.evaluate(*test, verbose=0))

"""
## A population, each chip repaired

Repairs have names, and `+` puts one after another. They get training images, and labels where they
need them. No test image is ever among these.
"""

texts = ["none", f"batch_norm:images={CALIBRATION}"]
results = {}
for text in texts:
    step = None
    if text != "none":
        plan = repair.parse(text)
        step = plan.on(train_images[: plan.images], train_labels[: plan.images])
    results[text] = evaluate_population(
        model, StuckAtZero(0.3), test, CHIPS, repair=step, engine="keras", progress=False
    )

"""
## By tier

Rows of different tiers answer different questions: the gap between them is what knowing more about
a chip is worth.
"""

for text, result in sorted(results.items(), key=lambda pair: pair[1].access_tier):
    worst = result.worst.accuracy
    print(f"tier {result.access_tier}  {text:<30} mean {result.mean:.3f}, worst {worst:.3f}")

"""
`docs/repair.md` compares all repairs and says which to take.
"""
