"""Chip files per second by patching, and against converting each chip."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from .timing import in_turn, ratio

# TensorFlow takes every core unless it is told before it starts.
CORES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields figures of the int8 ResNet20 with every kernel on faulty hardware, on one core.

    `patch_files_per_second` counts sampling, patching, writing, the check of every byte and the
    sidecar; `patch_over_convert` is a conversion of the baked chip over one such file, in turn.
    """
    for name in CORES:
        os.environ[name] = "1"
    from keras_rram import StuckAtZero, population
    from keras_rram.export import Exporter, convert
    from keras_rram.models import resnet20

    model = resnet20(drop_connect=0.2, scope="all")
    images = np.random.default_rng(0).normal(size=(64, 32, 32, 3)).astype("float32")
    exporter = Exporter(model, "int8", calibration=images)
    chips = population(StuckAtZero(0.2), 4 if quick else 100, seed=1)
    with tempfile.TemporaryDirectory() as folder:

        def patch_all() -> None:
            for chip in chips:
                exporter.write(f"{folder}/chip.tflite", chip, run=False)

        def convert_one() -> None:
            with chips[0].program(model):
                convert(model, "int8", images)

        begin = time.perf_counter()
        patch_all()
        first = time.perf_counter() - begin
        patched, converted = in_turn([patch_all, convert_one], rounds=1 if quick else 3)
    yield "patch_files_per_second", len(chips) / statistics.median([*patched, first])
    yield "patch_over_convert", ratio(converted, [seconds / len(chips) for seconds in patched])
