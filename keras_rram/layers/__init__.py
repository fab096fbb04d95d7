"""Keras layers whose kernels can be dropped in training and faulty on a chip.

One mixin substitutes the *effective kernel*: `drop_connect(kernel)` in training, then
`* fault_mask (+ fault_offset)` always. What remains of each layer is the operation, the bias and
the activation of its Keras parent.
"""

from keras_rram.layers.attention import (
    DropConnectGroupQueryAttention,
    DropConnectMultiHeadAttention,
)
from keras_rram.layers.centered_input import CenteredInput
from keras_rram.layers.convert import bake, to_drop_connect
from keras_rram.layers.convolution import (
    DropConnectConv1D,
    DropConnectConv1DTranspose,
    DropConnectConv2D,
    DropConnectConv2DTranspose,
    DropConnectConv3D,
    DropConnectConv3DTranspose,
)
from keras_rram.layers.dense import DropConnectDense, DropConnectEinsumDense
from keras_rram.layers.depthwise import (
    DropConnectDepthwiseConv1D,
    DropConnectDepthwiseConv2D,
    DropConnectSeparableConv1D,
    DropConnectSeparableConv2D,
)
from keras_rram.layers.drop_connect import DropConnect, WeightNoise
from keras_rram.layers.group_normalization import FusedGroupNormalization
from keras_rram.layers.heads import is_binary, is_sigmoid, loss_of
from keras_rram.layers.mixin import DropConnectMixin
from keras_rram.layers.network import (
    check_weights,
    faulty_layers,
    faulty_weights,
    set_drop_rate,
    weighted_layers,
)
from keras_rram.layers.normalization import FusedBatchNormalization
from keras_rram.layers.recurrent import (
    DropConnectConvLSTM1D,
    DropConnectConvLSTM2D,
    DropConnectConvLSTM3D,
    DropConnectGRU,
    DropConnectLSTM,
    DropConnectSimpleRNN,
)
from keras_rram.layers.statistics import fix_statistics, gather_statistics, statistics_layers
from keras_rram.layers.twins import CONVERTIBLE, DIGITAL
from keras_rram.layers.wrappers import DropConnectTimeDistributed

__all__ = [
    "CONVERTIBLE",
    "DIGITAL",
    "CenteredInput",
    "DropConnect",
    "DropConnectConv1D",
    "DropConnectConv1DTranspose",
    "DropConnectConv2D",
    "DropConnectConv2DTranspose",
    "DropConnectConv3D",
    "DropConnectConv3DTranspose",
    "DropConnectConvLSTM1D",
    "DropConnectConvLSTM2D",
    "DropConnectConvLSTM3D",
    "DropConnectDense",
    "DropConnectDepthwiseConv1D",
    "DropConnectDepthwiseConv2D",
    "DropConnectEinsumDense",
    "DropConnectGRU",
    "DropConnectGroupQueryAttention",
    "DropConnectLSTM",
    "DropConnectMixin",
    "DropConnectMultiHeadAttention",
    "DropConnectSeparableConv1D",
    "DropConnectSeparableConv2D",
    "DropConnectSimpleRNN",
    "DropConnectTimeDistributed",
    "FusedBatchNormalization",
    "FusedGroupNormalization",
    "WeightNoise",
    "bake",
    "fix_statistics",
    "gather_statistics",
    "statistics_layers",
    "check_weights",
    "is_binary",
    "is_sigmoid",
    "faulty_layers",
    "faulty_weights",
    "loss_of",
    "set_drop_rate",
    "to_drop_connect",
    "weighted_layers",
]
