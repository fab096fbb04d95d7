import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rram.faults.crossbar import Block, Crossbar, KernelShape, checked_tile


def matrix(crossbar, kernel):
    """The unrolled kernel, weight by weight; zero where there is none."""
    out = np.zeros((crossbar.rows, crossbar.columns))
    row, column = crossbar.positions()
    np.add.at(out, (row, column), kernel.reshape(crossbar.split))
    return out


def patches(images, height, width):
    """All windows of images (N, H, W, C), shape (N, positions, height, width, C)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (height, width), axis=(1, 2))
    windows = windows.transpose(0, 1, 2, 4, 5, 3)
    return windows.reshape(len(images), -1, *windows.shape[3:])


RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 6, 5, 4)).astype("float32")


def test_a_convolution_is_the_patches_times_the_unrolled_kernel():
    import keras

    layer = keras.layers.Conv2D(6, (3, 2), use_bias=False)
    expected = keras.ops.convert_to_numpy(layer(IMAGES))
    crossbar = Crossbar.dense(tuple(layer.kernel.shape))
    assert (crossbar.rows, crossbar.columns, crossbar.is_full) == (3 * 2 * 4, 6, True)
    lines = patches(IMAGES, 3, 2).reshape(2, -1, crossbar.rows)
    found = lines @ matrix(crossbar, keras.ops.convert_to_numpy(layer.kernel))
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_depthwise_convolution_is_the_channels_times_a_block_diagonal_matrix(multiplier):
    import keras

    layer = keras.layers.DepthwiseConv2D(3, depth_multiplier=multiplier, use_bias=False)
    expected = keras.ops.convert_to_numpy(layer(IMAGES))
    crossbar = Crossbar.depthwise(tuple(layer.kernel.shape))
    assert (crossbar.rows, crossbar.columns) == (9 * 4, 4 * multiplier)
    # Word lines run over the windows of one channel after another.
    lines = patches(IMAGES, 3, 3).transpose(0, 1, 4, 2, 3).reshape(2, -1, crossbar.rows)
    unrolled = matrix(crossbar, keras.ops.convert_to_numpy(layer.kernel))
    np.testing.assert_allclose((lines @ unrolled).reshape(expected.shape), expected, atol=1e-5)
    blocks = np.kron(np.eye(4), np.ones((9, multiplier)))
    np.testing.assert_array_equal(unrolled != 0, blocks != 0)


def test_a_grouped_convolution_has_one_block_for_each_group():
    import keras

    layer = keras.layers.Conv2D(6, 2, groups=2, use_bias=False)
    expected = keras.ops.convert_to_numpy(layer(IMAGES))
    crossbar = Crossbar.grouped(tuple(layer.kernel.shape), 2)
    assert (crossbar.rows, crossbar.columns) == (2 * 2 * 4, 6)
    lines = patches(IMAGES, 2, 2).reshape(2, -1, 2, 2, 2, 2).transpose(0, 1, 4, 2, 3, 5)
    unrolled = matrix(crossbar, keras.ops.convert_to_numpy(layer.kernel))
    found = lines.reshape(2, -1, crossbar.rows) @ unrolled
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)
    assert Crossbar.grouped((3, 3, 4, 6), 1) == Crossbar.dense((3, 3, 4, 6))


@pytest.mark.parametrize(
    ("equation", "shape", "rows", "columns"),
    [
        ("abc,cde->abde", (5, 2, 3), 5, 6),  # queries of attention
        ("abcd,cde->abe", (2, 3, 5), 6, 5),  # its output
        ("...x,xy->...y", (5, 3), 5, 3),
        ("abc,bcd->abd", (4, 5, 3), 20, 12),  # a matrix for each of the four b
    ],
)
def test_an_einsum_kernel_is_a_matrix_of_its_inputs_and_outputs(equation, shape, rows, columns):
    crossbar = Crossbar.einsum(shape, equation)
    assert (crossbar.rows, crossbar.columns) == (rows, columns)
    assert crossbar.is_full == (rows * columns == np.prod(shape))
    kernel = RNG.normal(size=shape)
    assert (matrix(crossbar, kernel) != 0).sum() == kernel.size


def test_other_kernels_have_outputs_in_the_last_axis():
    recurrent = Crossbar.of((7, 12))
    assert (recurrent.rows, recurrent.columns) == (7, 12)
    assert Crossbar.dense((4, 2, 3), outputs=2).columns == 6
    assert (Crossbar.of((5,)).rows, Crossbar.of((5,)).columns) == (1, 5)
    assert (Crossbar.of(()).rows, Crossbar.of(()).columns, Crossbar.of(()).size) == (1, 1, 1)


def test_a_plain_shape_is_guessed_and_a_kernel_shape_knows():
    assert Crossbar.of((3, 3, 8, 1)) == Crossbar.depthwise((3, 3, 8, 1))
    assert Crossbar.of((1, 1, 8, 1)) == Crossbar.dense((1, 1, 8, 1))
    assert Crossbar.of((3, 3, 8, 2)) == Crossbar.dense((3, 3, 8, 2))
    known = KernelShape(Crossbar.depthwise((3, 3, 8, 2)))
    assert known == (3, 3, 8, 2)
    assert np.zeros(known).shape == known
    for same in (known, copy.deepcopy(known), pickle.loads(pickle.dumps(known))):
        assert Crossbar.of(same) == Crossbar.depthwise((3, 3, 8, 2))


SHAPES = st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple)
TILES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, tile=TILES, kind=st.sampled_from(["dense", "depthwise"]))
def test_every_weight_is_in_one_block_at_its_place(shape, tile, kind):
    crossbar = getattr(Crossbar, kind)(shape)
    blocks = crossbar.blocks(tile)
    row, column = (np.broadcast_to(i, crossbar.split).ravel() for i in crossbar.positions())
    assert len(set(zip(row, column, strict=True))) == crossbar.size
    located = (np.broadcast_to(i, crossbar.split).ravel() for i in crossbar.locate(tile))
    used = [set() for _ in blocks]
    for r, c, number, y, x in zip(row, column, *located, strict=True):
        block = blocks[number]
        assert (block.top + y, block.left + x) == (r, c)
        assert y < block.shape[0] and x < block.shape[1]
        assert (r // tile[0], c // tile[1]) == (block.top // tile[0], block.left // tile[1])
        used[number].add((y, x))
    for block, weights in zip(blocks, used, strict=True):
        # The smallest rectangle: a weight on each of its sides.
        assert min(y for y, _ in weights) == min(x for _, x in weights) == 0
        assert (max(y for y, _ in weights) + 1, max(x for _, x in weights) + 1) == block.shape
        assert block.shape[0] <= tile[0] and block.shape[1] <= tile[1]


def test_blocks_of_a_matrix_with_partial_tiles():
    assert Crossbar.dense((200, 130)).blocks((128, 128)) == [
        Block(0, 128, 0, 128),
        Block(0, 128, 128, 130),
        Block(128, 200, 0, 128),
        Block(128, 200, 128, 130),
    ]
    # 20 channels of 9 weights: 180 rows. Row 128 is in channel 14, whose column is 14.
    assert Crossbar.depthwise((3, 3, 20, 1)).blocks((128, 128)) == [
        Block(0, 128, 0, 15),
        Block(128, 180, 14, 20),
    ]


def test_cells_stand_side_by_side_in_a_row():
    crossbar = Crossbar.dense((2, 3)).with_cells(2)
    assert (crossbar.shape, crossbar.rows, crossbar.columns) == ((2, 3, 2), 2, 6)
    unrolled = matrix(crossbar, np.arange(12.0).reshape(2, 3, 2))
    np.testing.assert_array_equal(unrolled, np.arange(12).reshape(2, 6))
    channels = Crossbar.depthwise((3, 3, 4, 1)).with_cells(2)
    assert (channels.rows, channels.columns, channels.size) == (36, 8, 72)


def test_what_is_no_tile_or_crossbar_is_an_error():
    assert checked_tile(64) == checked_tile([64, 64]) == (64, 64)
    for tile in (0, (128,), (0, 3), (1.5, 2), True, "128", None):
        with pytest.raises(ValueError, match="`tile` must be"):
            checked_tile(tile)
    with pytest.raises(ValueError, match="`groups` must divide"):
        Crossbar.grouped((3, 3, 4, 6), 4)
    with pytest.raises(ValueError, match="`equation` must be"):
        Crossbar.einsum((3, 4), "abc,cde->abde")
    with pytest.raises(ValueError, match="depthwise kernel"):
        Crossbar.depthwise((3,))
    with pytest.raises(ValueError, match="`cells`"):
        Crossbar.dense((3, 4)).with_cells(0)
