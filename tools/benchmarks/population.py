"""Chips per second of each engine, and of what a user would do otherwise."""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tools.benchmarks.timing import in_turn, ratio

SEED = 1
RATE = 0.2


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields speeds on one test set's size of images, and the saving of the stop rule.

    The loop that engines are compared with assigns each chip's masks and calls `model.evaluate`.
    Engines are timed without what they do once for a population (conversion, compilation).
    """
    from keras_rram.models import mini_mobilenet, resnet20

    networks: tuple[tuple[str, Any, int, int], ...] = (
        ("mini", mini_mobilenet(2, drop_connect=RATE), 10_000, 4),
        ("resnet20", resnet20(replaced=(4, 6, 10, 12, 16, 18), drop_connect=RATE), 2_000, 2),
    )
    for name, model, images, chips in networks:
        yield from _engines(name, model, images // (20 if quick else 1), chips, 2 if quick else 5)
    yield from _saving(quick)
    yield from _processes(quick)


def _random_data(model: Any, images: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(images, *model.input_shape[1:])).astype("float32")
    return inputs, rng.integers(0, 10, images)


def _engines(
    name: str, model: Any, images: int, chips: int, rounds: int
) -> Iterator[tuple[str, float]]:
    from keras_rram import Chip, StuckAtZero, population
    from keras_rram.evaluation.engine import Task
    from keras_rram.evaluation.keras_engine import KerasEngine
    from keras_rram.evaluation.litert_engine import LiteRTEngine, convert_once
    from keras_rram.recipes import RECIPES

    inputs, labels = _random_data(model, images)
    RECIPES["digits"].compile(model, steps_per_epoch=1)
    members = population(StuckAtZero(RATE), chips, SEED)
    tasks = [Task(chip) for chip in members]
    litert = LiteRTEngine(convert_once(model, inputs, Chip(StuckAtZero(RATE), SEED, chips)), labels)
    keras_engine = KerasEngine(model, inputs, labels)

    def loop() -> None:
        for chip in members:
            with chip.program(model):
                model.evaluate(inputs, labels, batch_size=256, verbose=0)

    seconds = in_turn(
        [loop, lambda: keras_engine.answer(tasks), lambda: litert.answer(tasks)], rounds
    )
    yield f"litert_over_keras_{name}", ratio(seconds[0], seconds[2])
    yield f"keras_engine_over_loop_{name}", ratio(seconds[0], seconds[1])
    for engine, times in zip(("loop", "keras", "litert"), seconds, strict=True):
        yield f"{engine}_chips_per_second_{name}", chips / statistics.median(times)


def _trained() -> tuple[Any, np.ndarray, np.ndarray]:
    """Returns a mini-MobileNet trained for a few epochs on the digits, and the test images."""
    import keras

    from keras_rram import data
    from keras_rram.models import mini_mobilenet
    from keras_rram.training import RECIPES, train

    keras.utils.set_random_seed(SEED)
    dataset = data.load("digits")
    model = mini_mobilenet(2, drop_connect=0.1)
    train(model, dataset, RECIPES["digits"], seed=SEED, verbose=0)
    return model, *dataset.arrays("test")


def _saving(quick: bool) -> Iterator[tuple[str, float]]:
    """Images of the full evaluation over those of the stop rule, at its half-width."""
    from keras_rram import StuckAtZero
    from keras_rram.evaluation.population import run_population

    model, images, labels = _trained()
    common: dict[str, Any] = {
        "model": model,
        "fault_model": StuckAtZero(0.1),
        "data": (images, labels),
        "seed": SEED,
        "progress": False,
    }
    (full,) = run_population(chips=20 if quick else 100, **common).results
    target = full.mean_interval().half_width
    begin = time.perf_counter()
    (adaptive,) = run_population(chips=1_000, stop=target, **common).results
    yield "adaptive_seconds", time.perf_counter() - begin
    yield "adaptive_image_saving", _answers(full.chips) / _answers(adaptive.chips)
    yield "adaptive_mean_difference", adaptive.mean - full.mean
    yield "full_half_width", target
    yield "adaptive_half_width", adaptive.mean_interval().half_width


def _answers(chips: Sequence[Any]) -> int:
    return sum(chip.total for chip in chips)


def _processes(quick: bool) -> Iterator[tuple[str, float]]:
    """Speed of two processes over one, each with one core, on the keras engine's terms."""
    from keras_rram import StuckAtZero
    from keras_rram.evaluation.population import evaluate_population
    from keras_rram.models import mini_mobilenet

    model = mini_mobilenet(2, drop_connect=RATE)
    data = _random_data(model, 500 if quick else 10_000)
    seconds = {}
    for jobs in (1, 2):
        for chips in (2, 6 if quick else 42):
            with tempfile.TemporaryDirectory():
                begin = time.perf_counter()
                evaluate_population(
                    model, StuckAtZero(RATE), chips, data, "litert", jobs=jobs, progress=False
                )
                seconds[jobs, chips] = time.perf_counter() - begin
    counts = sorted({chips for _, chips in seconds})
    # Of the difference of two populations, so that starting the processes is not in it.
    spent = [seconds[jobs, counts[1]] - seconds[jobs, counts[0]] for jobs in (1, 2)]
    yield "two_process_speedup", spent[0] / spent[1]
    yield "seconds_for_100_chips_of_10000_images", 100 / (counts[1] - counts[0]) * min(spent)
