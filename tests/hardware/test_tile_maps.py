import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, faulty_layers
from keras_rram.faults import BitSlices, DifferentialPair, ReferenceColumn, RowFaults
from keras_rram.hardware.tile_maps import chip_from_tiles, load_tiles, save_tiles, tiles_from_chip
from keras_rram.hardware.tile_placement import place
from keras_rram.layers import DropConnectDense
from tests.helpers import tiny_model, to_numpy

TILE = (16, 20)


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def dense():
    return keras.Sequential([keras.Input((2,)), DropConnectDense(2, drop_connect=0.0, name="a")])


def random_tiles(count, codes=(0, 1, 2), shape=TILE, seed=0):
    return list(np.random.default_rng(seed).choice(codes, (count, *shape)).astype(np.int8))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("fault_model", [StuckAtZero(0.3), RowFaults(0.3, tile=TILE)])
def test_a_chip_to_tiles_and_back_is_the_chip(model, tmp_path, share, fault_model):
    placement = place(model, tile=TILE, share=share)
    chip = Chip(fault_model, seed=3)
    tiles = tiles_from_chip(chip, model, placement)
    assert len(tiles) == placement.tiles
    save_tiles(tmp_path / "tiles.npz", tiles)
    measured = chip_from_tiles(model, load_tiles(tmp_path / "tiles.npz"), placement)
    measured.save(tmp_path / "chip.npz")
    loaded = Chip.load(tmp_path / "chip.npz", model)
    for name, fault in chip.faults(model).items():
        np.testing.assert_array_equal(measured.faults(model)[name].mask, fault.mask)
        np.testing.assert_array_equal(loaded.faults(model)[name].mask, fault.mask)
    used = sum((tile >= 0).sum() for tile in tiles)
    kernels = [k for layer in faulty_layers(model).values() for k in layer.kernels.values()]
    assert used == sum(np.prod(kernel.shape) for kernel in kernels)


def test_tiles_to_a_chip_and_back_are_the_tiles_in_use(model):
    placement = place(model, ReferenceColumn(), tile=TILE)
    tiles = random_tiles(placement.tiles, (0, 1, 2))
    chip = chip_from_tiles(model, tiles, placement, ReferenceColumn())
    for before, after in zip(tiles, tiles_from_chip(chip, model, placement), strict=True):
        # Both kinds of stuck cell have a value, which is all that the inverse knows.
        np.testing.assert_array_equal((before > 0)[after >= 0], (after > 0)[after >= 0])


def test_a_weight_is_on_its_word_line_and_bit_line(dense):
    """By hand: the weight from input 1 to output 0 in row 1, its pair in columns 0 and 1."""
    kernel = np.array([[0.5, -1.0], [0.25, -0.5]], "float32")
    dense.layers[0].kernel.assign(kernel)
    pair = DifferentialPair()
    placement = place(dense, pair, tile=(4, 8))
    for column, code, expected in [
        (0, 1, 0.0),  # G+ off: 0.25 becomes 0
        (0, 2, 1.0),  # G+ on: the largest weight
        (1, 1, 0.25),  # G- off: it was off
        (1, 2, 0.25 - 1.0),  # G- on
    ]:
        tile = np.zeros((4, 8), int)
        tile[1, column] = code
        chip = chip_from_tiles(dense, [tile], placement, pair)
        effective = chip.faults(dense)["a/kernel"].apply(kernel)
        wanted = kernel.copy()
        wanted[1, 0] = expected
        np.testing.assert_allclose(effective, wanted, atol=1e-6)


def test_tiles_are_in_the_order_of_the_numbers_in_their_names(tmp_path):
    """Ten is after nine, whoever wrote the names: NumPy, a tester, or `save_tiles`."""
    tiles = [np.eye(4, 8, number, dtype=np.int8) for number in range(-3, 8)]
    tiles += [tile * 2 for tile in tiles]
    np.savez(tmp_path / "numpy.npz", *tiles)
    np.savez(tmp_path / "mixed.npz", **{f"x{n // 11}_y{n % 11}": t for n, t in enumerate(tiles)})
    (tmp_path / "tester").mkdir()
    for number, tile in enumerate(tiles):
        np.savetxt(tmp_path / "tester" / f"tile_{number}.csv", tile, "%d", ",")
    save_tiles(tmp_path / "padded.npz", tiles)
    save_tiles(tmp_path / "pictures", tiles, "png")
    for name in ("numpy.npz", "mixed.npz", "tester", "padded.npz", "pictures"):
        np.testing.assert_array_equal(load_tiles(tmp_path / name), tiles)


@pytest.mark.parametrize(
    "mapping", [DifferentialPair(), ReferenceColumn(), BitSlices(2)], ids=lambda m: type(m).__name__
)
def test_measured_conductances_are_what_the_mapping_reads(dense, mapping):
    """Against the mapping's own two directions; NaN is healthy."""
    kernel = np.array([[0.5, -1.0], [0.25, -0.5]], "float32")
    kernel = mapping.quantize(kernel)
    dense.layers[0].kernel.assign(kernel)
    placement = place(dense, mapping, tile=(2, 40))
    rng = np.random.default_rng(0)
    values = rng.uniform(mapping.g_min, mapping.g_max, (2, 40))
    tile = np.where(rng.random((2, 40)) < 0.5, values, np.nan)
    fault = chip_from_tiles(dense, [tile], placement, mapping).faults(dense)["a/kernel"]
    count = mapping.cells_per_weight
    cells = mapping.conductances(kernel, mapping.scale(kernel))
    for i in range(2):
        for j in range(2):
            for cell in range(count):
                measured = tile[i, j * count + cell]
                if not np.isnan(measured):
                    cells[cell, i, j] = measured
    expected = mapping.weights(cells, mapping.scale(kernel))
    np.testing.assert_allclose(fault.apply(kernel), expected, atol=1e-5)


def test_no_stuck_cell_is_no_fault(model):
    placement = place(model, DifferentialPair(), tile=TILE)
    healthy = [np.full(TILE, np.nan)] * placement.tiles
    for tiles in (healthy, [np.zeros(TILE, int)] * placement.tiles):
        chip = chip_from_tiles(model, tiles, placement, DifferentialPair())
        for name, fault in chip.faults(model).items():
            assert fault.rate == 0, name
    with chip.program(model):
        assert (to_numpy(model.get_layer("head").fault_masks["kernel"]) == 1).all()


@pytest.mark.parametrize(("name", "form"), [("a.npz", None), ("folder", "csv"), ("folder", "png")])
@pytest.mark.parametrize("count", [1, 12])
def test_files_hold_codes(tmp_path, name, form, count):
    tiles = random_tiles(count, (-1, 0, 1, 2), (5, 7))
    save_tiles(tmp_path / name, tiles, form)
    loaded = load_tiles(tmp_path / name)
    assert len(loaded) == count
    for before, after in zip(tiles, loaded, strict=True):
        assert after.dtype == np.int8
        np.testing.assert_array_equal(before, after)
    assert not [path for path in tmp_path.rglob(".partial*")]


@pytest.mark.parametrize(("name", "form"), [("a.npz", None), ("folder", "csv")])
def test_files_hold_conductances(tmp_path, name, form):
    tiles = [np.array([[np.nan, 1.25e-5], [3e-6, 0.0]]), np.full((2, 2), np.nan)]
    save_tiles(tmp_path / name, tiles, form)
    for before, after in zip(tiles, load_tiles(tmp_path / name), strict=True):
        assert after.dtype == float
        np.testing.assert_allclose(before, after)


def test_one_csv_file_is_one_tile(tmp_path):
    (tmp_path / "tile.csv").write_text("0,1,0\n2,0,-1\n")
    (tile,) = load_tiles(tmp_path / "tile.csv")
    np.testing.assert_array_equal(tile, [[0, 1, 0], [2, 0, -1]])


def test_bad_files_are_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no map of tiles"):
        load_tiles(tmp_path / "none.npz")
    for name, text in (("a.csv", "0,x"), ("a.npz", "no zip file"), ("a.txt", "0")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name[:5]):
            load_tiles(tmp_path / name)
    (tmp_path / "codes.csv").write_text("0,3\n")
    # Not codes alone, so they are conductances of 0 and 3 siemens: a mapping will say what of it.
    assert load_tiles(tmp_path / "codes.csv")[0].dtype == float
    with pytest.raises(ValueError, match="Expected a folder"):
        (tmp_path / "empty").mkdir()
        load_tiles(tmp_path / "empty")
    np.savez(tmp_path / "shapes.npz", a=np.zeros((2, 2), int), b=np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="one shape"):
        load_tiles(tmp_path / "shapes.npz")
    from matplotlib.image import imsave

    imsave(tmp_path / "colours.png", np.random.default_rng(0).random((4, 4, 3)))
    with pytest.raises(ValueError, match="must be grey"):
        load_tiles(tmp_path / "colours.png")
    with pytest.raises(ValueError, match="not conductances"):
        save_tiles(tmp_path / "folder", [np.full((2, 2), np.nan)], "png")
    with pytest.raises(ValueError, match="Expected an `.npz` file"):
        save_tiles(tmp_path / "folder", [np.zeros((2, 2), int)])


def test_maps_that_do_not_fit_are_clear_errors(model, dense):
    placement = place(model, tile=TILE)
    tiles = random_tiles(placement.tiles, (0, 1))
    with pytest.raises(ValueError, match=f"needs {placement.tiles} tiles"):
        chip_from_tiles(model, tiles[:-1], placement)
    with pytest.raises(ValueError, match="tiles of"):
        chip_from_tiles(model, random_tiles(placement.tiles, (0, 1), (8, 8)), placement)
    with pytest.raises(ValueError, match=r"has the codes \[7\]"):
        chip_from_tiles(model, [tiles[0] + 7 * (tiles[0] == 1) - (tiles[0] == 1)] * 99, placement)
    with pytest.raises(ValueError, match="give the `mapping`"):
        chip_from_tiles(model, random_tiles(placement.tiles, (0, 2)), placement)
    with pytest.raises(ValueError, match="give the `mapping`"):
        chip_from_tiles(model, [np.full(TILE, 1e-6)] * placement.tiles, placement)
    with pytest.raises(ValueError, match="give `place` the same mapping"):
        chip_from_tiles(model, tiles, placement, DifferentialPair())
    with pytest.raises(ValueError, match="does not fit"):
        chip_from_tiles(dense, tiles, placement)
    with pytest.raises(ValueError, match="conductances >= 0"):
        chip_from_tiles(model, [np.full(TILE, -1e-6)] * placement.tiles, placement)


def test_a_form_may_say_what_the_ending_says(tmp_path):
    tiles = random_tiles(2)
    save_tiles(tmp_path / "a.npz", tiles, form="npz")
    for before, after in zip(tiles, load_tiles(tmp_path / "a.npz"), strict=True):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(ValueError, match="Expected an `.npz` file"):
        save_tiles(tmp_path / "a.npz", tiles, form="csv")
