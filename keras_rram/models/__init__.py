"""Networks made of Drop-Connect blocks."""

from keras_rram.models.blocks import basic_block, conv_bn, linear_bottleneck
from keras_rram.models.layer_factory import LayerFactory
from keras_rram.models.mini_mobilenet import mini_mobilenet
from keras_rram.models.mobilenet_v2 import mobilenet_v2
from keras_rram.models.resnet import resnet
from keras_rram.models.resnet20 import resnet20
from keras_rram.models.small import lenet5, perceptron
from keras_rram.models.vgg13 import vgg13

__all__ = [
    "LayerFactory",
    "basic_block",
    "conv_bn",
    "lenet5",
    "linear_bottleneck",
    "mini_mobilenet",
    "mobilenet_v2",
    "perceptron",
    "resnet",
    "resnet20",
    "vgg13",
]
