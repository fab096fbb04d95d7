"""Evaluation of a model on a population of chips.

What is here is for users. `engines` has one interface and two engines behind it, `statistics` pure
functions of arrays; a run goes through `population`, an engine, its chips, and into a `run_folder`.
"""

from keras_rram.evaluation.callback import PopulationAccuracy
from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.comparison import (
    PairedDifference,
    VarianceSplit,
    paired_difference,
    variance_split,
)
from keras_rram.evaluation.engines.choose import ENGINES
from keras_rram.evaluation.engines.keras import KerasEngine
from keras_rram.evaluation.engines.protocol import QUANTIZATIONS, Engine
from keras_rram.evaluation.explanation import Explanation, explain
from keras_rram.evaluation.layer_effects import LayerEffect
from keras_rram.evaluation.population import RateCurve, evaluate_population, evaluate_rates
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.run_folder import load_run, merge_runs
from keras_rram.evaluation.statistics.intervals import (
    Interval,
    Yield,
    quantile_bound,
    smallest_population,
    wilson_interval,
)
from keras_rram.evaluation.statistics.stopping import StopRule
from keras_rram.evaluation.statistics.two_way import bootstrap_interval, two_way_interval

__all__ = [
    "ENGINES",
    "QUANTIZATIONS",
    "ChipResult",
    "Engine",
    "Explanation",
    "Interval",
    "KerasEngine",
    "LayerEffect",
    "PairedDifference",
    "PopulationAccuracy",
    "PopulationResult",
    "RateCurve",
    "StopRule",
    "VarianceSplit",
    "Yield",
    "bootstrap_interval",
    "evaluate_population",
    "evaluate_rates",
    "explain",
    "load_run",
    "merge_runs",
    "paired_difference",
    "quantile_bound",
    "smallest_population",
    "two_way_interval",
    "variance_split",
    "wilson_interval",
]
