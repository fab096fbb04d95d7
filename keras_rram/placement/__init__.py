"""Which layers may be on faulty hardware: sensitivities, and the search for placements."""

from keras_rram.placement.agreement import RankAgreement, rank_agreement
from keras_rram.placement.bench import Bench
from keras_rram.placement.estimate import Estimate, estimate_sensitivity
from keras_rram.placement.front import FrontPoint, hypervolume, pareto
from keras_rram.placement.search import (
    TrainedTrials,
    Trial,
    Trials,
    best,
    greedy_plan,
    random_plan,
)
from keras_rram.placement.sensitivity import (
    GROUPINGS,
    GroupSensitivity,
    Sensitivity,
    group_layers,
    macs_shares,
    measure_sensitivity,
    rank_correlation,
)
from keras_rram.placement.stages import StagedNetwork
from keras_rram.placement.study import WAYS, Study
from keras_rram.placement.walk import Placement

__all__ = [
    "GROUPINGS",
    "WAYS",
    "Bench",
    "Estimate",
    "FrontPoint",
    "GroupSensitivity",
    "Placement",
    "RankAgreement",
    "Sensitivity",
    "StagedNetwork",
    "Study",
    "TrainedTrials",
    "Trial",
    "Trials",
    "best",
    "estimate_sensitivity",
    "greedy_plan",
    "group_layers",
    "hypervolume",
    "macs_shares",
    "measure_sensitivity",
    "pareto",
    "random_plan",
    "rank_agreement",
    "rank_correlation",
]
