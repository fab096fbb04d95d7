"""Train, evaluate, repair and deploy Keras models on fault-prone RRAM chips."""

from keras_rram import data, faults, hardware, layers, models, noise, repair, training
from keras_rram.chips import Audit, Chip, audit, erase, population
from keras_rram.faults import Fault, FaultModel, StuckAtZero
from keras_rram.hardware import summary_table
from keras_rram.layers import (
    DropConnect,
    DropConnectConv2D,
    DropConnectDense,
    DropConnectDepthwiseConv2D,
    DropConnectSeparableConv2D,
    WeightNoise,
    bake,
    faulty_layers,
    gather_statistics,
    set_drop_rate,
    to_drop_connect,
)
from keras_rram.noise import NoiseInjection, read_noise
from keras_rram.repair import BatchNormRecalibration, recalibrate_batch_norm
from keras_rram.training import FreshChips

__version__ = "0.1.0"

__all__ = [
    "Audit",
    "BatchNormRecalibration",
    "Chip",
    "DropConnect",
    "DropConnectConv2D",
    "DropConnectDense",
    "DropConnectDepthwiseConv2D",
    "DropConnectSeparableConv2D",
    "Fault",
    "FaultModel",
    "FreshChips",
    "NoiseInjection",
    "StuckAtZero",
    "WeightNoise",
    "audit",
    "bake",
    "data",
    "erase",
    "faults",
    "faulty_layers",
    "gather_statistics",
    "hardware",
    "layers",
    "models",
    "noise",
    "population",
    "read_noise",
    "recalibrate_batch_norm",
    "repair",
    "set_drop_rate",
    "summary_table",
    "to_drop_connect",
    "training",
]
