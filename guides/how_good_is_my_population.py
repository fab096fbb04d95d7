"""
Title: How good is my population?
Description: Mean, spread, worst chip and yield, with intervals; and how many chips that takes.
"""

"""
## Introduction

An accuracy on one chip says little: the next chip has other faults. What can be said of all chips
that will ever be made, from those that were simulated? This guide asks three questions (how good
on average, how many chips pass, how bad can one be) and how many chips an answer takes.
"""

import os

import keras

from keras_rram import StuckAtZero, data, models
from keras_rram.evaluation import (
    StopRule,
    evaluate_population,
    paired_difference,
    smallest_population,
)
from keras_rram.training import Recipe, train

FAST = bool(os.environ.get("GUIDE_FAST"))
EPOCHS, CHIPS, IMAGES = (1, 4, 200) if FAST else (8, 100, 1000)

"""
## Two models to ask about

The same perceptron, trained plainly and with a tenth of its weights dropped in every step.
"""

dataset = data.load("digits")
dataset = dataset.subset(train=500) if FAST else dataset
test = dataset.arrays("test", IMAGES)
recipe = Recipe("adam", 1e-3, 64, EPOCHS)


def trained(drop_rate):
    keras.utils.set_random_seed(0)
    model = models.perceptron((32,) if FAST else (128, 64), drop_connect=drop_rate)
    train(model, dataset, recipe, seed=0, verbose=2)
    return model


plain, dropped = trained(0.0), trained(0.1)

"""
## How good on average?

The interval of the mean counts two sources of luck: these chips are a sample of all chips, and
these images a sample of all images. `images="test_set"` asks about the tested images only, and is
narrower.
"""

result = evaluate_population(dropped, StuckAtZero(0.1), test, CHIPS, progress=False)
print(result)
for images in ("new", "test_set"):
    interval = result.mean_interval(images=images)
    print(f"{interval.low:.4f} to {interval.high:.4f}: {interval.question}")

"""
## How many chips pass?

The yield is the share of chips with at least some accuracy. Its interval is about new chips.
"""

passed = result.yield_at(0.85)
print(f"{passed.passed} of {passed.chips} chips have 85% or more")
found = passed.interval
print(f"yield {found.estimate:.2f} ({found.low:.2f} to {found.high:.2f})")

"""
## How bad can a chip be?

A bound of the fifth percentile, whatever the distribution, takes this many chips at least:
"""

print(smallest_population(quantile=0.05, confidence=0.95))

"""
With fewer, no honest bound exists, and the summary has none.
"""

summary = result.summary()
print("5th percentile:", summary["q05"], "and its lower bound:", summary["q05_bound"])

"""
## How many chips for a mean that is precise enough?

Let the evaluation decide. It spends chips and images where they narrow the interval most, and its
interval accounts for having looked more than once.
"""

width = 0.05 if FAST else 0.02
rule = StopRule(width)
stopped = evaluate_population(dropped, StuckAtZero(0.1), test, 500, stop=rule, progress=False)
interval = stopped.mean_interval()
print(f"{stopped.reason}, with {len(stopped.chips)} chips")
print(f"{interval.estimate:.4f} ({interval.low:.4f} to {interval.high:.4f}), {interval.method}")

"""
## Is one model better than another?

Evaluate both on the same chips and images (the same seed does it). Their luck is the same, and
cancels: the interval of the difference is narrower than those of the two means suggest.
"""

other = evaluate_population(plain, StuckAtZero(0.1), test, CHIPS, progress=False)
difference = paired_difference(result, other)
gained = difference.interval
print(f"{gained.estimate:.4f} gained ({gained.low:.4f} to {gained.high:.4f}), {gained.question}")
print(f"better on {difference.wins:.0%} of the chips")
