"""Train, evaluate, repair and deploy Keras models on fault-prone RRAM chips."""

from keras_rram import analog, constraints, data, faults, layers, models, normalization, roles
from keras_rram.audit import Audit, audit
from keras_rram.chips import Chip, erase, population
from keras_rram.constraints import DropConnect, WeightNoise
from keras_rram.faults import Fault, FaultModel, StuckAtZero
from keras_rram.fresh_chips import FreshChips
from keras_rram.layers import (
    DropConnectConv2D,
    DropConnectDense,
    DropConnectDepthwiseConv2D,
    DropConnectSeparableConv2D,
    faulty_layers,
    set_drop_rate,
)
from keras_rram.noise import NoiseInjection, read_noise
from keras_rram.repair import BatchNormRecalibration, recalibrate_batch_norm
from keras_rram.transform import bake, to_drop_connect

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
    "analog",
    "audit",
    "bake",
    "constraints",
    "data",
    "erase",
    "faults",
    "faulty_layers",
    "layers",
    "models",
    "normalization",
    "population",
    "read_noise",
    "recalibrate_batch_norm",
    "roles",
    "set_drop_rate",
    "to_drop_connect",
]
