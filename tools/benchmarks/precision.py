"""Ways to train faster on a CPU: bfloat16, and PyTorch beside them.

Each figure is a ratio of steps that were timed in turn: of the plain networks (nothing dropped) in
float32 over another way, so that above 1 the other is faster. `torch` needs PyTorch installed.
"""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from . import torch_resnet
from .layers import trainer
from .timing import in_turn, ratio

SIX = (4, 6, 10, 12, 16, 18)
_REWRITE = "auto_mixed_precision_onednn_bfloat16"


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields the ratios for ResNet20, and for the one with six bottlenecks."""
    batch, rounds = (8, 1) if quick else (128, 9)
    for name, replaced in (("resnet20", ()), ("six_bottlenecks", SIX)):
        with contextlib.ExitStack() as stack:
            ways = _in_keras(replaced, batch)
            if importlib.util.find_spec("torch") is not None:
                for dtype in ("float32", "bfloat16"):
                    step = torch_resnet.trainer(replaced, batch, dtype)
                    ways[f"torch_{dtype}"] = stack.enter_context(step)
            seconds = dict(zip(ways, in_turn(list(ways.values()), rounds), strict=True))
        for way in list(ways)[1:]:
            yield f"float32_over_{way}_{name}", ratio(seconds["float32"], seconds[way])


def _in_keras(replaced: tuple[int, ...], batch: int) -> dict[str, Any]:
    import keras

    from keras_rram.models import resnet20

    ways = {"float32": trainer(resnet20(replaced=replaced), batch, 1)}
    with _policy("mixed_bfloat16"):
        ways["mixed_bfloat16"] = trainer(resnet20(replaced=replaced), batch, 1)
    if keras.config.backend() == "tensorflow":
        ways["onednn_bfloat16"] = trainer(resnet20(replaced=replaced), batch, 1)
        with _rewriting():
            ways["onednn_bfloat16"]()  # is compiled here
    return ways


@contextlib.contextmanager
def _policy(name: str) -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def _rewriting() -> Iterator[None]:
    """Has TensorFlow rewrite graphs that are compiled now to bfloat16, where it finds it safe."""
    import tensorflow as tf

    before = tf.config.optimizer.get_experimental_options().get(_REWRITE, False)
    tf.config.optimizer.set_experimental_options({_REWRITE: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({_REWRITE: before})
