import numpy as np
import pytest
from matplotlib.image import imread

from keras_rram import Chip
from keras_rram.faults import ClusteredFaults
from keras_rram.hardware.tile_maps import tiles_from_chip
from keras_rram.hardware.tile_placement import place
from keras_rram.plots.tiles import tile_maps
from tests.helpers import tiny_model

CODES = [np.random.default_rng(n).choice([-1, 0, 1, 2], (20, 30)) for n in range(3)]
CONDUCTANCES = [np.where(tile > 0, tile * 1e-5, np.nan) for tile in CODES]


def of_a_chip():
    model = tiny_model()
    placement = place(model, tile=(64, 32), share=True)
    return tiles_from_chip(Chip(ClusteredFaults(0.2, 2.0, tile=(64, 32))), model, placement)


@pytest.mark.parametrize(
    "make",
    [lambda: CODES, lambda: CODES[:1], lambda: CONDUCTANCES, lambda: [np.full((4, 4), np.nan)],
     of_a_chip],
    ids=["codes", "one", "conductances", "healthy", "chip"],
)  # fmt: skip
def test_a_picture_is_a_small_png_that_is_always_the_same(make, tmp_path):
    for name in ("a.png", "b.png"):
        tile_maps(make(), tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) < 200_000
    assert content == (tmp_path / "b.png").read_bytes()


def test_stuck_cells_have_their_colours(tmp_path):
    tile = np.zeros((10, 10), int)
    tile[:5] = 1
    tile[5] = 2
    tile_maps([tile], tmp_path / "a.png", ["half"])
    pixels = np.round(imread(tmp_path / "a.png")[..., :3] * 255).astype(int).reshape(-1, 3)
    off, on, healthy = (
        (pixels == colour).all(axis=1).sum()
        for colour in ([0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00], [0xDD, 0xDD, 0xDD])
    )
    # Five rows, one and four, and the patches of the legend.
    assert 3.5 < off / on < 5.5 and 3 < healthy / on < 4.5


def test_bad_tiles_are_errors(tmp_path):
    with pytest.raises(ValueError, match="holds no tile"):
        tile_maps([], tmp_path / "a.png")
    with pytest.raises(ValueError, match="expected 3 titles"):
        tile_maps(CODES, tmp_path / "a.png", ["one"])
    with pytest.raises(ValueError, match="Received: both"):
        tile_maps([CODES[0], CONDUCTANCES[0]], tmp_path / "a.png")
    with pytest.raises(ValueError, match="has the codes"):
        tile_maps([np.full((2, 2), 9)], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
