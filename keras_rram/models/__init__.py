"""Networks made of Drop-Connect blocks, and the table of what they cost."""

from keras_rram.models.blocks import basic_block, conv_bn, linear_bottleneck
from keras_rram.models.cost import HardwareCost, hardware_cost
from keras_rram.models.mini_mobilenet import mini_mobilenet
from keras_rram.models.mobilenet_v2 import mobilenet_v2
from keras_rram.models.placement import Placement
from keras_rram.models.resnet import resnet
from keras_rram.models.resnet20 import resnet20
from keras_rram.models.small import lenet5, perceptron
from keras_rram.models.summary import Summary, SummaryRow, summary_table
from keras_rram.models.vgg13 import vgg13

__all__ = [
    "HardwareCost",
    "Placement",
    "Summary",
    "SummaryRow",
    "basic_block",
    "conv_bn",
    "hardware_cost",
    "lenet5",
    "linear_bottleneck",
    "mini_mobilenet",
    "mobilenet_v2",
    "perceptron",
    "resnet",
    "resnet20",
    "summary_table",
    "vgg13",
]
