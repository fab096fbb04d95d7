"""`--metric`: how good a chip is, where that is another question than the accuracy."""

import importlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli

flags.disclaim_key_flags()

FLAGS = flags.FLAGS


@cli.section("measure")
def define() -> None:
    """Defines `--metric`."""
    flags.DEFINE_string(
        "metric",
        None,
        "How good a chip is: the name of a Keras metric (mse, AUC), or MODULE:NAME of one, or of a "
        "function of (outputs, labels) that gives a score for each image, or one number; its "
        "attribute higher_is_better = False makes lower scores the better ones. Default: the "
        "accuracy of a classifier.",
    )


def given() -> Any:
    """Returns what `--metric` names, for `metric=`; None for the accuracy.

    Raises:
        ValueError: if there is no such metric.
    """
    return cli.parsed("metric", _found)


def _found(text: str) -> Any:
    if text == "accuracy":
        return None
    module, _, name = text.partition(":")
    found: Any = text
    if name:
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"cannot be imported: {error}") from error
    from keras_rram.evaluation.measure import measure_of

    measure_of(found)
    return found


def thresholds(is_accuracy: bool) -> list[float]:
    """Returns the numbers of `--yield_at`: accuracies, or scores of another measure."""
    return cli.numbers("yield_at", "[0, 1]" if is_accuracy else "(-inf, inf)")


def meant(asked: list[float], results: Sequence[Any]) -> list[float]:
    """Returns those of `--yield_at` that mean something: its default is about accuracies."""
    first = results[0]
    is_share = first.measure == "accuracy" or first.is_counted
    return asked if is_share or FLAGS["yield_at"].present else []


def check_share(name: str) -> None:
    """Raises ValueError for a flag beyond [0, 1] that is about an accuracy."""
    value, metric = FLAGS[name].value, FLAGS.flag_values_dict().get("metric")
    if metric in (None, "accuracy") and value is not None and not 0 <= value <= 1:
        raise ValueError(f"--{name} must be an accuracy in [0, 1]. Received: {value}")
