"""
Title: Your own Keras model on faulty chips
Description: From a trained Keras model to its accuracy on a population of chips, and what to do.
"""

"""
## Introduction

You have a trained Keras model, and it will run on resistive memory (RRAM), where some cells of
every chip are broken, each chip's own. How good will it be, on which layer does it depend, and
what can be done? This guide takes a plain Keras model there and back: no layer of it has to be
rewritten.
"""

"""
## Setup

`GUIDE_FAST` in the environment makes every number of this guide small: that is how the tests run
it.
"""

import os

import keras

import keras_rram
from keras_rram import Chip, StuckAtZero, data
from keras_rram.evaluation import evaluate_population, explain
from keras_rram.export import export_tflite
from keras_rram.plots.report import Chips, ReportRun, write_report

FAST = bool(os.environ.get("GUIDE_FAST"))
EPOCHS, CHIPS, IMAGES = (1, 2, 100) if FAST else (6, 50, 1000)

"""
## A plain Keras model

Five thousand real digits come with the installation. Anything else would do: arrays, a
`tf.data.Dataset`, a model from a file or from `keras.applications`.
"""

dataset = data.load("digits")
train_images, train_labels = dataset.arrays("train", 500 if FAST else 4000)
images, labels = dataset.arrays("test", IMAGES)

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(16, 3, strides=2, use_bias=False, name="conv1"),
        keras.layers.BatchNormalization(name="norm1"),
        keras.layers.ReLU(),
        keras.layers.Conv2D(32, 3, strides=2, use_bias=False, name="conv2"),
        keras.layers.BatchNormalization(name="norm2"),
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dense(10, name="head"),
    ],
    name="mine",
)


def compile_and_fit(network, epochs):
    network.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    network.fit(train_images, train_labels, batch_size=64, epochs=epochs, verbose=2)


compile_and_fit(model, EPOCHS)

"""
## On a population of chips

`to_drop_connect` returns the same model with layers that can hold a chip's faults. At rate 0 it
computes what yours does. A population is many chips of one fault model; by default each weight
reads as zero with some probability, the fault rate.
"""

twin = keras_rram.to_drop_connect(model, 0.0)
result = evaluate_population(twin, StuckAtZero(0.1), (images, labels), CHIPS, progress=False)
print(result)

"""
Every chip can be replayed from its seed and index. `audit` shows what the faults reach, and what
stays clean: faults that silently do not happen are the classic mistake.
"""

worst = Chip(StuckAtZero(0.1), seed=0, index=result.worst.index)
with worst.program(twin):
    print(keras_rram.audit(twin))

"""
## Why is that chip bad?

`explain` goes from the Keras model to the chip step by step, and shows for each layer how its
outputs shift and scale. The last step renews the statistics of batch normalization on the chip.
"""

print(explain(twin, worst, (images, labels), calibration=train_images[:256]))

"""
## Train for the faults

With a drop rate, every training step loses a fresh random subset of the weights, so that one model
bears any chip. Your trained weights are the start.
"""

robust = keras_rram.to_drop_connect(model, 0.2)
compile_and_fit(robust, EPOCHS)
better = evaluate_population(robust, StuckAtZero(0.1), (images, labels), CHIPS, progress=False)
print(better)

"""
## Repair each chip

A few hundred unlabelled images on the chip renew its statistics. That is another access tier: what
is known of a single chip. Results of two tiers are not to be compared in one row.
"""

repair = keras_rram.BatchNormRecalibration(train_images[:256])
repaired = evaluate_population(
    robust, StuckAtZero(0.1), (images, labels), CHIPS, repair=repair, progress=False
)
print(repaired)

"""
## A page to pass around, a file to deploy

The report opens in any browser. The TFLite file is that of one chip, and is read back, run and
compared with Keras before it is kept. (`robust` is a plain Keras model again after
`keras_rram.bake`.)
"""

write_report("report.html", [ReportRun("mine", [better], Chips(robust, labels))])
report = export_tflite(
    robust, "chip0.tflite", Chip(StuckAtZero(0.1)), "float32", None, images, labels
)
print(f"accuracy of the file: {report.verification.accuracy:.1%}")
