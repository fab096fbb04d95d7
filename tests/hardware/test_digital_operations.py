"""Tests of what normalizations cost the digital periphery."""

import keras

from keras_rram.hardware import summary_table
from keras_rram.layers import CenteredInput, FusedGroupNormalization
from keras_rram.models import mini_mobilenet


def test_counts_of_single_layers_and_of_a_shared_one():
    inputs = x = keras.Input((6, 5, 4))
    center = CenteredInput(name="center")
    x = center(x)
    x = FusedGroupNormalization(2, name="group")(x)
    x = keras.layers.GroupNormalization(-1, name="instance")(center(x))
    x = keras.layers.BatchNormalization(name="batch")(x)
    summary = summary_table(keras.Model(inputs, x))
    values = 6 * 5 * 4
    assert {row.name: row.digital_operations for row in summary.rows} == {
        "center": 2 * values,
        "group": 6 * values,
        "instance": 6 * values,
        "batch": 0,
    }
    assert summary.digital_operations == 14 * values == summary.to_dict()["digital_operations"]
    assert f"digital operations of normalizations: {14 * values:,}" in str(summary)


def test_a_network_of_batch_normalization_has_none():
    summary = summary_table(mini_mobilenet(1, drop_connect=0.1))
    assert summary.digital_operations == 0
    assert "digital operations" not in str(summary)
