"""Repaired populations: the Keras engine against files that get what a repair changed.

`repaired_over_keras` is the time of a chip in the Keras engine over that in LiteRT, both with
recalibration of batch normalization on 512 images, which Keras does for both. Engines are timed
without what they do once for a population (conversion, compilation). `..._seconds` are those of a
chip, `gathering_seconds` what of it is the repair. `accuracy_difference` is the largest difference
of a chip's accuracy between the engines, `same_class` the least share of images that both give the
same class as right or wrong. The networks have random weights, and random images as data.
"""

import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np

from .timing import in_turn, ratio

SEED = 1
RATE = 0.2
CALIBRATION = 512


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields the speed of repaired populations, for two networks."""
    from keras_rram.models import mini_mobilenet, resnet20

    images, rounds = (300, 1) if quick else (10_000, 5)
    mini = mini_mobilenet(2, drop_connect=RATE)
    yield from _engines("mini", mini, images, rounds)
    yield from _engines("resnet20", resnet20(drop_connect=RATE, scope="all"), images, rounds)


def _engines(name: str, model: Any, count: int, rounds: int) -> Iterator[tuple[str, float]]:
    from keras_rram import Chip, StuckAtZero, population
    from keras_rram.evaluation.engines.keras import KerasEngine
    from keras_rram.evaluation.engines.litert import LiteRTEngine, convert_once
    from keras_rram.evaluation.engines.protocol import Task
    from keras_rram.repair import BatchNormRecalibration

    rng = np.random.default_rng(SEED)
    shape = model.input_shape[1:]
    images = rng.normal(size=(count, *shape)).astype("float32")
    labels = rng.integers(0, 10, count)
    calibration = rng.normal(size=(min(CALIBRATION, count), *shape)).astype("float32")
    chip, repair = Chip(StuckAtZero(RATE), SEED), BatchNormRecalibration(calibration)
    # Real statistics, so that the first chip is not worlds away from what is in the file.
    repair(model, None)
    keras_engine = KerasEngine(model, images, labels, repair)
    litert = LiteRTEngine(convert_once(model, images, chip, repair=repair), labels)

    def gather() -> None:
        with chip.program(model), repair(model, chip):
            return

    own, fast, gathering = in_turn(
        [
            lambda: keras_engine.answer([Task(chip)]),
            lambda: litert.answer([Task(chip)]),
            gather,
        ],
        rounds,
    )
    yield f"repaired_over_keras_{name}", ratio(own, fast)
    for who, seconds in (("keras", own), ("litert", fast), ("gathering", gathering)):
        yield f"{who}_seconds_{name}", statistics.median(seconds)
    tasks = [Task(each) for each in population(StuckAtZero(RATE), 2 if count < 1000 else 4, SEED)]
    answers = [
        np.stack([found.correct for task in tasks for found in engine.answer([task])])
        for engine in (keras_engine, litert)
    ]
    means = [each.mean(1) for each in answers]
    yield f"accuracy_difference_{name}", float(np.abs(means[0] - means[1]).max())
    yield f"same_class_{name}", float((answers[0] == answers[1]).mean(1).min())
