"""Evaluation of a model on a population of chips."""

from keras_rram.evaluation.comparison import paired_difference, variance_split
from keras_rram.evaluation.population import evaluate_population, run_population
from keras_rram.evaluation.results import PopulationResult
from keras_rram.evaluation.statistics import smallest_population, wilson_interval
from keras_rram.evaluation.stopping import StopRule

__all__ = [
    "PopulationResult",
    "StopRule",
    "evaluate_population",
    "paired_difference",
    "run_population",
    "smallest_population",
    "variance_split",
    "wilson_interval",
]
