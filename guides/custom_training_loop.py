"""
Title: A custom training loop
Description: The layers in a loop of your own: changing drop rates, chips in training, validation.
"""

"""
## Introduction

The layers are Keras layers: `model(x, training=True)` drops weights, `training=False` does not,
and whatever computes a gradient of it trains it. This guide writes the loop by hand, on
TensorFlow.
"""

import os

import keras
import numpy as np
import tensorflow as tf

import keras_rram
from keras_rram import Chip, StuckAtZero, data, models
from keras_rram.evaluation import evaluate_population

FAST = bool(os.environ.get("GUIDE_FAST"))
STEPS, CHIPS, IMAGES = (20, 2, 100) if FAST else (600, 20, 500)

dataset = data.load("digits")
train_images, train_labels = dataset.arrays("train", 500 if FAST else 4000)
images, labels = dataset.arrays("test", IMAGES)
batches = (
    tf.data.Dataset.from_tensor_slices((train_images, train_labels))
    .shuffle(4000, seed=0)
    .repeat()
    .batch(64)
)

"""
## The step

Masks, drop rates and faults are variables: they change from step to step, and the compiled step
stays the same.
"""

keras.utils.set_random_seed(0)
model = models.perceptron((32,) if FAST else (128,), drop_connect=0.3)
optimizer = keras.optimizers.Adam(1e-3)
loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@tf.function
def step(x, y):
    with tf.GradientTape() as tape:
        loss = loss_of(y, model(x, training=True))
    variables = model.trainable_variables
    optimizer.apply(tape.gradient(loss, variables), variables)
    return loss


"""
## The loop

The drop rate rises from 0 to 0.3 in the first half (`set_drop_rate` assigns, nothing is traced
again). In the second half every tenth step also has a chip's faults in the model, of the stream
"training", whose chips no evaluation meets.
"""

losses = []
for number, (x, y) in enumerate(batches.take(STEPS)):
    ramp = min(1.0, 2 * number / STEPS)
    keras_rram.set_drop_rate(model, 0.3 * ramp)
    if ramp == 1.0 and number % 10 == 0:
        with Chip(StuckAtZero(0.2), index=number, stream="training").program(model):
            losses.append(float(step(x, y)))
    else:
        losses.append(float(step(x, y)))
print(f"loss {np.mean(losses[:10]):.2f} to {np.mean(losses[-10:]):.2f}")

"""
## Validation by hand

Within the block the model is the chip; after it, healthy again.
"""

with Chip(StuckAtZero(0.2), index=0, stream="validation").program(model):
    right = np.argmax(model.predict(images, verbose=0), -1) == labels
print(f"{right.mean():.1%} right on a chip")

"""
## And the population
"""

print(evaluate_population(model, StuckAtZero(0.2), (images, labels), CHIPS, progress=False))
