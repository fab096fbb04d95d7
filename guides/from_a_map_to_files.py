"""
Title: From a measured map to verified int8 files
Description: Maps of a tester become chips, and each chip a TFLite file that was checked.
"""

"""
## Introduction

A march test of an array gives a map of each tile: which cells are stuck, or at what conductance.
This guide places a network on tiles, reads such maps, looks at what they do, and writes the file
that is programmed into that chip.
"""

import os
import pathlib

import keras
import numpy as np

import keras_rram
from keras_rram import data
from keras_rram.evaluation import evaluate_population
from keras_rram.export import Thresholds, export_tflite
from keras_rram.faults import DifferentialPair
from keras_rram.hardware import chip_from_tiles, load_tiles, place, save_tiles
from keras_rram.plots import tile_maps

FAST = bool(os.environ.get("GUIDE_FAST"))
EPOCHS, IMAGES = (2, 100) if FAST else (6, 500)

"""
## A network on tiles

Which part of which kernel goes to which tile, and what a weight is in cells: keep both with the
measurement.
"""

dataset = data.load("digits")
train_images, train_labels = dataset.arrays("train", 1000 if FAST else 4000)
images, labels = dataset.arrays("test", IMAGES)

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras_rram.DropConnectConv2D(
            8, 5, strides=4, activation="relu", drop_connect=0.1, name="conv"
        ),
        keras.layers.Flatten(),
        keras_rram.DropConnectDense(10, drop_connect=0.1, name="head"),
    ],
    name="tiny",
)
model.compile(
    keras.optimizers.Adam(5e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(train_images, train_labels, batch_size=64, epochs=EPOCHS, verbose=2)

mapping = DifferentialPair(g_min=1e-6, g_max=1e-4)  # siemens, as the array was programmed
placement = place(model, mapping, tile=(64, 64), share=True)
print(placement.tiles, "tiles", placement.kernels.keys())

"""
## What the tester wrote

Here, for want of a tester, two dies with 3% and 10% of the cells stuck at conductances of their
own. A file holds a tile: NaN where a cell is healthy. `.npz` and `.png` are read too.
"""

rng = np.random.default_rng(0)
shape = (placement.tiles, 64, 64)
for name, share in (("die1", 0.03), ("die2", 0.10)):
    stuck = np.where(rng.random(shape) < share, rng.lognormal(np.log(2e-6), 0.5, shape), np.nan)
    save_tiles(name, list(stuck), form="csv")

"""
## Maps become chips
"""

chips = []
for name in ("die1", "die2"):
    tiles = load_tiles(name)
    tile_maps(tiles, f"{name}.png")
    chip = chip_from_tiles(model, tiles, placement, mapping, name=name)
    chip.save(f"{name}.npz")
    chips.append(chip)
with chips[1].program(model):
    print(keras_rram.audit(model))

"""
Measured chips are a population like any other.
"""

result = evaluate_population(model, chips, (images, labels), progress=False)
for chip in result.chips:
    print(chip.name, chip.accuracy, chip.achieved_fault_rate)

"""
## Files that were checked

Each is read back, run, and compared with Keras on the same images; one that disagrees is not
written. Beside it lies a JSON file that says what it is.
"""

calibration = train_images[:300]
for chip in chips:
    report = export_tflite(
        model,
        f"{chip.name}.tflite",
        chip,
        "int8",
        calibration,
        images,
        labels,
        thresholds=Thresholds(agreement=0.95, accuracy=0.03),
    )
    print(chip.name, report.verification.accuracy, report.verification.agreement)
print(sorted(path.name for path in pathlib.Path().glob("die*")))
