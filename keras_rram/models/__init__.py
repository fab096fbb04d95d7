"""Networks made of Drop-Connect blocks, and the table of what they cost."""

from keras_rram.models.blocks import basic_block, conv_bn, linear_bottleneck
from keras_rram.models.cost import HardwareCost, hardware_cost
from keras_rram.models.mini_mobilenet import mini_mobilenet
from keras_rram.models.placement import Placement
from keras_rram.models.resnet20 import resnet20
from keras_rram.models.summary import Summary, SummaryRow, summary_table

__all__ = [
    "HardwareCost",
    "Placement",
    "Summary",
    "SummaryRow",
    "basic_block",
    "conv_bn",
    "hardware_cost",
    "linear_bottleneck",
    "mini_mobilenet",
    "resnet20",
    "summary_table",
]
