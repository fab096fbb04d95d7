"""Which Drop-Connect layer is the twin of which Keras layer."""

from typing import Any

import keras

from keras_rram.layers import attention, convolution, dense, depthwise, recurrent

CONVERTIBLE: dict[type, Any] = {
    keras.layers.Dense: dense.DropConnectDense,
    keras.layers.EinsumDense: dense.DropConnectEinsumDense,
    keras.layers.Conv1D: convolution.DropConnectConv1D,
    keras.layers.Conv2D: convolution.DropConnectConv2D,
    keras.layers.Conv3D: convolution.DropConnectConv3D,
    keras.layers.Conv1DTranspose: convolution.DropConnectConv1DTranspose,
    keras.layers.Conv2DTranspose: convolution.DropConnectConv2DTranspose,
    keras.layers.Conv3DTranspose: convolution.DropConnectConv3DTranspose,
    keras.layers.DepthwiseConv1D: depthwise.DropConnectDepthwiseConv1D,
    keras.layers.DepthwiseConv2D: depthwise.DropConnectDepthwiseConv2D,
    keras.layers.SeparableConv1D: depthwise.DropConnectSeparableConv1D,
    keras.layers.SeparableConv2D: depthwise.DropConnectSeparableConv2D,
    keras.layers.SimpleRNN: recurrent.DropConnectSimpleRNN,
    keras.layers.LSTM: recurrent.DropConnectLSTM,
    keras.layers.GRU: recurrent.DropConnectGRU,
    keras.layers.ConvLSTM1D: recurrent.DropConnectConvLSTM1D,
    keras.layers.ConvLSTM2D: recurrent.DropConnectConvLSTM2D,
    keras.layers.ConvLSTM3D: recurrent.DropConnectConvLSTM3D,
    keras.layers.MultiHeadAttention: attention.DropConnectMultiHeadAttention,
    keras.layers.GroupQueryAttention: attention.DropConnectGroupQueryAttention,
}
"""Plain class -> Drop-Connect class. Subclasses of a plain class may compute something else."""

DIGITAL = (
    keras.layers.Embedding,
    keras.layers.PReLU,
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.UnitNormalization,
    keras.layers.Normalization,
)
"""Layers whose arrays of weights are no matrices that inputs are multiplied by: an embedding is
looked up in a memory, a scale is applied value by value. They are digital and stay clean."""
