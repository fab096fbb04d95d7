"""Measures speed as ratios of two things timed in turn, and prints them as `name: value`.

  python -m tools.benchmark --suite=layers

Suites: `layers` (what Drop-Connect adds to a training step), `population` (chips per second of each
engine), `repair` (the same with a repair), `foreign` (chips of models that are not ours), `export`
(chip files per second), `faults` (seconds to sample a chip's cells), `training` (images per second,
and what the fused batch normalization brings), `precision` (training in bfloat16, and in PyTorch
where it is installed), `calls` (several training steps in one call, on JAX with a GPU). On a shared
machine only the ratios mean something.
"""

import importlib
import pathlib
from collections.abc import Sequence

from absl import flags

from . import cli

FLAGS = flags.FLAGS
FOLDER = pathlib.Path(__file__).parent / "benchmarks"
SUITES = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if path.stem not in ("__init__", "timing", "torch_resnet")
)

flags.DEFINE_enum("suite", None, SUITES, "What to measure.")
flags.DEFINE_bool("quick", False, "Few repetitions: to see that it works, not to measure.")


def main(argv: Sequence[str]) -> None:
    """Runs one suite."""
    del argv
    if FLAGS.suite is None:
        raise ValueError(f"--suite is missing: one of {SUITES}.")
    suite = importlib.import_module(f".benchmarks.{FLAGS.suite}", __package__)
    for name, value in suite.run(FLAGS.quick):
        print(f"{name}: {value:.4g}", flush=True)


if __name__ == "__main__":
    cli.run(main)
