"""Training: recipes, the loop with checkpoints and exact resume, chips and drop rates in it."""

from keras_rram.training.fixed_statistics import FixedStatistics
from keras_rram.training.fresh_chips import FreshChips
from keras_rram.training.loop import TrainingResult, train
from keras_rram.training.muon import KernelMuon, vectors_of
from keras_rram.training.on_chips import ChipValidation, Reprogram
from keras_rram.training.recipes import RECIPES, Recipe
from keras_rram.training.records import Checkpoint, EpochRecords
from keras_rram.training.schedule import DropRates, DropRateSchedule

__all__ = [
    "RECIPES",
    "Checkpoint",
    "ChipValidation",
    "DropRateSchedule",
    "DropRates",
    "EpochRecords",
    "FixedStatistics",
    "FreshChips",
    "KernelMuon",
    "Recipe",
    "Reprogram",
    "TrainingResult",
    "train",
    "vectors_of",
]
