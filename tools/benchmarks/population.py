"""Chips per second of each engine and of a user's own loop, and what the stop rule saves.

`litert_over_keras` is over what a user would write without this package: a model of Keras's own
layers, its kernels times a mask assigned for each chip, then `model.evaluate`. `litert_over_loop`
is over that loop with this package's layers, whose batch normalization is fused. Both with Keras's
own batch of 32, and with 256 beside it. `sgemm_gigaflops`, of a product of large matrices, bounds
what an engine can do in float32. Engines are timed without what they do once for a population
(conversion, compilation). `two_process_speedup` is that of two processes over one, each with one
thread. `same_class` is the smallest share of images, over chips, that LiteRT and Keras give the
same class; `memory_growth_mib` is how much more memory 1,000 chips need than 100.

The saving is the number of answers of a full evaluation, every chip on all images, over that of the
stop rule at the same half-width of the same interval: that of the mean over all chips on this test
set (`images="test_set"`). `adaptive_image_saving` is at half a percent, where the full evaluation
takes as many chips as its own t interval needs, from the spread of the chips that were evaluated;
`..._at_full_half_width` is at the half-width that those chips have, so that both sides were run.
The network is trained on the offline digits and evaluated on the full MNIST test set where
tensorflow-datasets has it (`TFDS_DATA_DIR` names its folder), else on the offline digits.
"""

import dataclasses
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from scipy import stats

from .timing import in_turn, ratio

SEED = 1
RATE = 0.1
TARGET = 0.005


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields speeds and their ratios, for two networks, and the saving of the stop rule."""
    from keras_rram.models import mini_mobilenet, resnet20

    mini = mini_mobilenet(2, drop_connect=RATE)
    large = resnet20((4, 6, 10, 12, 16, 18), drop_connect=RATE)
    yield from _engines("mini", mini, 500 if quick else 10_000, 1 if quick else 5)
    yield from _engines("resnet20", large, 100 if quick else 2_000, 1 if quick else 5)
    yield from _processes(mini, 500 if quick else 10_000, 2 if quick else 5)
    model, data = _trained(quick)
    yield from _agreement(model, data, 2 if quick else 20)
    yield from _memory(model, data, quick)
    yield from _saving(model, data, quick)


def _engines(name: str, model: Any, images: int, rounds: int) -> Iterator[tuple[str, float]]:
    from keras_rram import Chip, StuckAtZero, bake
    from keras_rram.evaluation.engines.keras import KerasEngine
    from keras_rram.evaluation.engines.litert import LiteRTEngine, convert_once
    from keras_rram.evaluation.engines.protocol import Task
    from keras_rram.hardware.summary import summary_table
    from keras_rram.training.recipes import RECIPES

    inputs, labels = _random_data(model, images)
    RECIPES["digits"].compile(model, steps_per_epoch=1)
    chip = Chip(StuckAtZero(RATE), SEED)
    converted = convert_once(model, inputs, chip)
    fast = LiteRTEngine(converted, labels)
    int8 = LiteRTEngine(convert_once(model, inputs, chip, "int8", inputs[:200]), labels)
    reference = KerasEngine(model, inputs, labels)

    plain = bake(model)
    RECIPES["digits"].compile(plain, steps_per_epoch=1)

    def loop(batch: int) -> None:
        with chip.program(model):
            model.evaluate(inputs, labels, batch_size=batch, verbose=0)

    def plain_loop(batch: int) -> None:
        healthy = [_assign_mask(kernel) for kernel in _kernels(plain)]
        plain.evaluate(inputs, labels, batch_size=batch, verbose=0)
        for kernel, values in zip(_kernels(plain), healthy, strict=True):
            kernel.assign(values)

    litert, litert_int8, keras_engine, own, own_large, keras_own, keras_large = in_turn(
        [
            lambda: fast.answer([Task(chip)]),
            lambda: int8.answer([Task(chip)]),
            lambda: reference.answer([Task(chip)]),
            lambda: loop(32),
            lambda: loop(256),
            lambda: plain_loop(32),
            lambda: plain_loop(256),
        ],
        rounds,
    )
    yield f"litert_over_keras_{name}", ratio(keras_own, litert)
    yield f"litert_over_keras_batch256_{name}", ratio(keras_large, litert)
    yield f"litert_int8_over_keras_{name}", ratio(keras_own, litert_int8)
    yield f"litert_over_loop_{name}", ratio(own, litert)
    yield f"litert_over_loop_batch256_{name}", ratio(own_large, litert)
    yield f"keras_engine_over_keras_{name}", ratio(keras_own, keras_engine)
    for who, seconds in (
        ("litert", litert),
        ("litert_int8", litert_int8),
        ("keras_engine", keras_engine),
        ("loop", own),
        ("keras", keras_own),
    ):
        yield f"{who}_images_per_second_{name}", images / statistics.median(seconds)
        yield f"{who}_chips_per_second_{name}", 1 / statistics.median(seconds)
    macs = summary_table(converted.model).macs
    yield f"litert_gigaflops_{name}", 2e-9 * macs * images / statistics.median(litert)
    yield f"sgemm_gigaflops_{name}", _sgemm_gigaflops()
    hundred = 100 * statistics.median(litert) * 10_000 / images
    yield f"litert_seconds_for_100_chips_of_10000_images_{name}", hundred


def _sgemm_gigaflops() -> float:
    """Returns what the cores reach in a large product of float32 matrices: a bound for engines."""
    matrix = np.random.default_rng(SEED).random((2048, 2048), np.float32)
    seconds = in_turn([lambda: matrix @ matrix], 5)[0]
    return 2e-9 * len(matrix) ** 3 / min(seconds)


def _kernels(model: Any) -> list[Any]:
    return [weight for weight in model.trainable_variables if "kernel" in weight.name]


def _assign_mask(kernel: Any) -> np.ndarray:
    """Zeroes a part of a kernel, as a user would, and returns what it was."""
    values = np.array(kernel)
    kernel.assign(values * (np.random.default_rng(SEED).random(values.shape) >= RATE))
    return values


def _processes(model: Any, images: int, rounds: int) -> Iterator[tuple[str, float]]:
    """Yields the speed of two processes over one, each with one thread."""
    from keras_rram import Chip, StuckAtZero, population
    from keras_rram.evaluation.engines.choose import Workload, open_engine
    from keras_rram.evaluation.engines.protocol import Task
    from keras_rram.evaluation.engines.workers import Pool

    tasks = [Task(chip) for chip in population(StuckAtZero(RATE), 8, SEED)]
    work = Workload(model, *_random_data(model, images), Chip(StuckAtZero(RATE), SEED))
    alone = open_engine(work, "litert", threads=1)
    with Pool(alone, images, jobs=2) as pool:
        one, two = in_turn([lambda: alone.answer(tasks), lambda: list(pool.answer(tasks))], rounds)
    yield "two_process_speedup", ratio(one, two)
    yield "two_process_chips_per_second", len(tasks) / statistics.median(two)


def _agreement(
    model: Any, data: tuple[np.ndarray, np.ndarray], chips: int
) -> Iterator[tuple[str, float]]:
    """Yields how often the patched file of a chip gives the class that Keras gives."""
    from keras_rram import StuckAtZero, population
    from keras_rram.evaluation.engines.litert import convert_once
    from keras_rram.export.litert_model import LiteRTModel

    inputs = data[0]
    drawn = population(StuckAtZero(RATE), chips, SEED)
    patchable = convert_once(model, inputs, drawn[0]).patchable
    same = []
    for chip in drawn:
        with chip.program(model):
            expected = model.predict(inputs, batch_size=256, verbose=0).argmax(-1)
        file = bytes(patchable.patch(chip.faults(model)))
        same.append(np.mean(LiteRTModel(file, threads=2).predict(inputs).argmax(-1) == expected))
    yield "same_class_worst_chip", float(min(same))
    yield "same_class_mean", float(np.mean(same))


def _memory(
    model: Any, data: tuple[np.ndarray, np.ndarray], quick: bool
) -> Iterator[tuple[str, float]]:
    """Yields the peak memory of a population, and by how much ten times the chips raise it."""
    few = (data[0][:200], data[1][:200])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        peaks = []
        for chips in (10, 100) if quick else (100, 1_000):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                peaks.append(process.submit(_peak_memory, path, few, chips).result())
    yield "peak_memory_mib", peaks[0]
    yield "memory_growth_mib", peaks[1] - peaks[0]


def _peak_memory(path: str, data: tuple[np.ndarray, np.ndarray], chips: int) -> float:
    """Returns the most memory that a process of its own needs for a population, in MiB."""
    import resource  # not on Windows

    import keras

    from keras_rram import StuckAtZero
    from keras_rram.evaluation import evaluate_population

    model = keras.saving.load_model(path)
    evaluate_population(model, StuckAtZero(RATE), data, chips, seed=SEED, progress=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _saving(
    model: Any, data: tuple[np.ndarray, np.ndarray], quick: bool
) -> Iterator[tuple[str, float]]:
    """Yields how many images the full evaluation needs for the half-width of the stop rule."""
    from keras_rram import StuckAtZero
    from keras_rram.evaluation import evaluate_population

    common: dict[str, Any] = {"data": data, "progress": False, "engine": "litert"}
    faults, images = StuckAtZero(RATE), len(data[1])
    seeds = range(SEED, SEED + (1 if quick else 5))
    begin = time.perf_counter()
    full = evaluate_population(model, faults, chips=20 if quick else 100, seed=SEED, **common)
    per_chip = (time.perf_counter() - begin) / len(full.chips)
    width = full.mean_interval(images="test_set").half_width

    def adaptive(target: float) -> tuple[float, float, list[float]]:
        """Returns answers and seconds of a run, on average, and the mean of each."""
        answers, means = [], []
        begin = time.perf_counter()
        for seed in seeds:
            found = evaluate_population(
                model, faults, chips=4_000, seed=seed, stop=target, **common
            )
            answers.append(sum(chip.total for chip in found.chips))
            means.append(found.mean)
        seconds = (time.perf_counter() - begin) / len(seeds)
        return statistics.mean(answers), seconds, means

    answers, seconds, means = adaptive(TARGET)
    chips = _chips_for(TARGET, full.raw_sd)
    yield "adaptive_image_saving", chips * images / answers
    yield "adaptive_images", answers
    yield "full_images", chips * images
    yield "adaptive_seconds_with_conversion", seconds
    yield "full_seconds", chips * per_chip
    yield "sd_between_chips", full.raw_sd
    yield "adaptive_mean", statistics.mean(means)
    yield "full_mean", full.mean
    yield "full_half_width", width
    answers, _, means = adaptive(width)
    yield "adaptive_image_saving_at_full_half_width", len(full.chips) * images / answers
    yield "adaptive_mean_at_full_half_width", statistics.mean(means)


def _chips_for(half_width: float, sd: float) -> int:
    """Returns how many chips on all images narrow the interval over chips to a half-width."""
    chips = 2
    while stats.t.ppf(0.975, chips - 1) * sd / math.sqrt(chips) > half_width:
        chips += 1
    return chips


def _random_data(model: Any, images: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(images, *model.input_shape[1:])).astype("float32")
    return inputs, rng.integers(0, 10, images)


def _trained(quick: bool) -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    """Returns a mini-MobileNet trained on the offline digits, and the largest test set there is."""
    import keras

    from keras_rram import data
    from keras_rram.models import mini_mobilenet
    from keras_rram.training.loop import train
    from keras_rram.training.recipes import RECIPES

    keras.utils.set_random_seed(SEED)
    digits, recipe = data.load("digits"), RECIPES["digits"]
    if quick:
        recipe = dataclasses.replace(recipe, epochs=1)
    model = mini_mobilenet(2, drop_connect=RATE)
    train(model, digits, recipe, SEED, verbose=0)
    try:
        return model, data.load("mnist").arrays("test", 1_000 if quick else None)
    except OSError:
        return model, digits.arrays("test")
