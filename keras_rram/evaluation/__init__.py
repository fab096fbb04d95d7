"""Evaluation of a model on a population of chips.

What is here is for users. The engines behind `engine=` are `KerasEngine` in `keras_engine` and
`LiteRTEngine` in `litert_engine`, which needs TensorFlow and is imported where it is used.
"""

from keras_rram.evaluation.access import access_tier
from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.comparison import (
    PairedDifference,
    VarianceSplit,
    paired_difference,
    variance_split,
)
from keras_rram.evaluation.engines.choose import ENGINES, QUANTIZATIONS
from keras_rram.evaluation.engines.keras import KerasEngine, Repair
from keras_rram.evaluation.engines.protocol import Engine
from keras_rram.evaluation.population import (
    Evaluation,
    evaluate_population,
    load_run,
    run_population,
)
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.run_folder import merge_runs
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
    "Evaluation",
    "Interval",
    "KerasEngine",
    "PairedDifference",
    "PopulationResult",
    "Repair",
    "StopRule",
    "VarianceSplit",
    "Yield",
    "access_tier",
    "bootstrap_interval",
    "evaluate_population",
    "load_run",
    "merge_runs",
    "paired_difference",
    "quantile_bound",
    "run_population",
    "smallest_population",
    "two_way_interval",
    "variance_split",
    "wilson_interval",
]
