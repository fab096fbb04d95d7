import keras
import pytest

from keras_rram import faulty_layers
from keras_rram.chips.unrolling import kernel_shape
from keras_rram.faults import BitSlices, DifferentialPair, ReferenceColumn
from keras_rram.faults.crossbar import Block
from keras_rram.hardware.tile_placement import Part, cells_of, place
from keras_rram.layers import DropConnectDense
from tests.helpers import tiny_model


@pytest.fixture
def dense():
    return keras.Sequential(
        [
            keras.Input((5,)),
            DropConnectDense(3, drop_connect=0.0, name="a"),
            DropConnectDense(2, drop_connect=0.0, name="b"),
        ]
    )


def test_parts_by_hand(dense):
    assert place(dense, tile=(4, 2)).parts == (
        Part("a/kernel", Block(0, 4, 0, 2), 0, 0, 0),
        Part("a/kernel", Block(0, 4, 2, 3), 1, 0, 0),
        Part("a/kernel", Block(4, 5, 0, 2), 2, 0, 0),
        Part("a/kernel", Block(4, 5, 2, 3), 3, 0, 0),
        Part("b/kernel", Block(0, 3, 0, 2), 4, 0, 0),
    )
    # Two fit on one tile where they share no line: (4, 5) x (0, 2) below nothing, and so on.
    shared = place(dense, tile=(8, 5), share=True)
    assert shared.parts == (
        Part("a/kernel", Block(0, 5, 0, 3), 0, 0, 0),
        Part("b/kernel", Block(0, 3, 0, 2), 0, 5, 3),
    )
    assert (shared.tiles, place(dense, tile=(8, 5)).tiles) == (1, 2)
    assert [len(parts) for parts in shared.kernels.values()] == [1, 1]


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("mapping", [None, DifferentialPair(), ReferenceColumn(), BitSlices(2)])
def test_no_two_parts_share_a_line_and_every_weight_has_a_place(mapping, share):
    model = tiny_model()
    placement = place(model, mapping, tile=(16, 20), share=share)
    lines = set()
    for part in placement.parts:
        height, width = part.block.shape
        assert part.row + height <= placement.room[0]
        assert part.column + width <= placement.room[1]
        taken = {(part.tile, "row", part.row + i) for i in range(height)}
        taken |= {(part.tile, "column", part.column + i) for i in range(width)}
        assert not taken & lines
        lines |= taken
    assert {part.tile for part in placement.parts} == set(range(placement.tiles))
    for name, layer in faulty_layers(model).items():
        for slot in layer.kernels:
            crossbar = kernel_shape(layer, slot).crossbar.with_cells(placement.cells_per_weight)
            blocks = [part.block for part in placement.kernels[f"{name}/{slot}"]]
            assert blocks == crossbar.blocks(placement.room)


def test_cells_of_mappings():
    mappings = (None, DifferentialPair(), ReferenceColumn(), BitSlices(2))
    assert [cells_of(one) for one in mappings] == [(1, 0), (2, 0), (1, 1), (8, 0)]
    assert cells_of(BitSlices(2, "offset_binary")) == (4, 1)
    with pytest.raises(TypeError, match="`mapping` must be"):
        cells_of("differential_pair")


def test_what_cannot_be_placed_is_an_error(dense):
    with pytest.raises(ValueError, match="to_drop_connect"):
        place(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="no room"):
        place(dense, ReferenceColumn(), tile=(4, 1))
    with pytest.raises(ValueError, match="`tile` must be"):
        place(dense, tile=0)
