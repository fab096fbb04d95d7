import hashlib
import itertools
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_rram import Chip, StuckAtZero, bake, erase, faulty_layers, population
from keras_rram.chips import STREAMS, program
from keras_rram.faults import Fault, parse
from keras_rram.layers import DropConnectDense
from keras_rram.layers.drop_connect import DropConnect
from tests.helpers import tiny_images, tiny_model, to_numpy


@pytest.fixture
def model():
    return tiny_model()


def masks(model):
    return {
        f"{name}/{slot}": to_numpy(mask)
        for name, layer in faulty_layers(model).items()
        for slot, mask in layer.fault_masks.items()
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_faults_depend_on_seed_index_and_layer_name_alone(model):
    chip = Chip(StuckAtZero(0.3), seed=5, index=2)
    faults = chip.faults(model)
    # The documented derivation, spelled out independently.
    for name, fault in faults.items():
        words = [
            int.from_bytes(hashlib.sha256(name.encode()).digest()[4 * i : 4 * i + 4], "little")
            for i in range(4)
        ]
        draws = np.random.default_rng([5, 2, *words]).random(fault.mask.shape, dtype=np.float32)
        np.testing.assert_array_equal(fault.mask, draws >= np.float32(0.3))
    head_only = keras.Sequential(
        [keras.Input(model.get_layer("head").input.shape[1:]), model.get_layer("head")]
    )
    np.testing.assert_array_equal(
        Chip(StuckAtZero(0.3), seed=5, index=2).faults(head_only)["head/kernel"].mask,
        faults["head/kernel"].mask,
    )


def test_masks_of_a_chip_are_pinned():
    """A golden value: a chip of today must be the same chip in every later version."""
    model = keras.Sequential(
        [keras.Input((3,)), DropConnectDense(4, drop_connect=0.0, name="dense")]
    )
    mask = Chip(StuckAtZero(0.5), seed=1, index=2).faults(model)["dense/kernel"].mask
    assert mask.astype(int).tolist() == GOLDEN


GOLDEN = [[0, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]]


def test_another_process_draws_the_same_chip(model):
    code = (
        "import hashlib\n"
        "from keras_rram import Chip, StuckAtZero\n"
        "from tests.helpers import tiny_model\n"
        "faults = Chip(StuckAtZero(0.2), seed=3, index=1).faults(tiny_model())\n"
        "print(hashlib.sha256(b''.join(f.mask.tobytes() for f in faults.values())).hexdigest())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    faults = Chip(StuckAtZero(0.2), seed=3, index=1).faults(model)
    assert (
        printed == hashlib.sha256(b"".join(f.mask.tobytes() for f in faults.values())).hexdigest()
    )


def test_chips_and_layers_differ(model):
    chips = population(StuckAtZero(0.3), 3, seed=1)
    drawn = [chip.faults(model)["head/kernel"].mask for chip in chips]
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[1] != drawn[2]).any()
    other_seed = Chip(StuckAtZero(0.3), seed=2).faults(model)["head/kernel"].mask
    assert (drawn[0] != other_seed).any()


def test_streams_share_no_chip_whatever_the_seeds():
    """Not one generator of one stream is one of another, and so equal masks are chance alone."""
    layers = tuple(f"layer{number}/kernel" for number in range(4))
    seen = {}
    for stream in STREAMS:
        for seed, index in itertools.product((0, 1, 2, 7, 2**32 - 1), (0, 1, 2, 2**32 - 1)):
            for name in layers:
                key = Chip(StuckAtZero(0.1), seed, index, stream=stream)._key(name)
                state = str(np.random.default_rng(key).bit_generator.state)
                assert state not in seen, (seen[state], (stream, seed, index, name))
                seen[state] = stream, seed, index, name
    assert len(seen) == 4 * 20 * 4


@given(
    one=st.tuples(st.sampled_from(STREAMS), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    other=st.tuples(st.sampled_from(STREAMS), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
)
def test_the_key_of_a_kernel_is_that_of_one_chip(one, other):
    """Lengths differ between evaluation and the others, and all else is in a digest."""
    keys = [
        Chip(StuckAtZero(0.1), seed, index, stream=stream)._key("block/kernel")
        for stream, seed, index in (one, other)
    ]
    assert (keys[0] == keys[1]) == (one == other)
    for key, (stream, *_) in zip(keys, (one, other), strict=True):
        assert len(key) == (6 if stream == "evaluation" else 8)
        assert all(0 <= word < 2**32 for word in key)


def test_masks_of_two_streams_are_independent(model):
    draws = [
        Chip(StuckAtZero(0.5), seed=0, stream=stream).faults(model)["head/kernel"].mask
        for stream in STREAMS
    ]
    size = draws[0].size
    for one, other in itertools.combinations(draws, 2):
        assert abs((one == other).mean() - 0.5) < 4 * (0.25 / size) ** 0.5


def test_the_stream_is_part_of_the_identity(tmp_path):
    chip = Chip(StuckAtZero(0.1), 3, 4, stream="calibration")
    assert chip != Chip(StuckAtZero(0.1), 3, 4)
    assert repr(chip).endswith("seed=3, index=4, stream='calibration')")
    assert "stream" not in repr(Chip(StuckAtZero(0.1)))
    chip.save(tmp_path / "chip.npz")
    assert Chip.load(tmp_path / "chip.npz") == chip
    assert population(StuckAtZero(0.1), 5, 3, stream="calibration")[4] == chip
    with pytest.raises(ValueError, match="`stream` must be one of"):
        Chip(StuckAtZero(0.1), stream="test")


def test_chips_with_measured_maps_compare_and_hash():
    mask = np.array([[1.0, 0.0]], "float32")
    chips = [Chip(measured={"a": Fault(mask.copy(), offset)}) for offset in (None, 1 - mask)]
    same = [Chip(measured={"a": Fault(mask.copy(), offset)}) for offset in (None, 1 - mask)]
    assert chips == same
    assert chips[0] != chips[1]
    assert chips[0] != Chip(measured={"a": Fault(1 - mask)})
    assert chips[0] != Chip(measured={"b": Fault(mask)})
    assert len({*chips, *same}) == 2
    assert Fault(mask) != mask.tolist()


def test_program_writes_and_erase_restores_ones(model):
    chip = Chip(StuckAtZero(0.3), seed=1)
    chip.program(model)
    assert_same(masks(model), {name: fault.mask for name, fault in chip.faults(model).items()})
    erase(model)
    assert all((mask == 1).all() for mask in masks(model).values())


def test_context_managers_restore_what_was_there_also_on_error(model):
    first, second = population(StuckAtZero(0.3), 2)
    first.program(model)
    before = masks(model)
    with second.program(model) as programmed:
        assert programmed is model
        assert (masks(model)["head/kernel"] != before["head/kernel"]).any()
    assert_same(masks(model), before)
    with pytest.raises(RuntimeError, match="in the block"), second.program(model):
        raise RuntimeError("in the block")
    assert_same(masks(model), before)
    with erase(model):
        assert (masks(model)["head/kernel"] == 1).all()
    assert_same(masks(model), before)


def test_outputs_equal_a_plain_model_with_masked_weights(model):
    images, _ = tiny_images()
    chip = Chip(StuckAtZero(0.3), seed=1)
    plain = bake(model)
    for name, fault in chip.faults(model).items():
        layer, slot = name.split("/")
        layer = plain.get_layer(layer)
        variable = getattr(layer, f"_{slot}", getattr(layer, slot))
        variable.assign(to_numpy(variable) * fault.mask)
    with chip.program(model):
        np.testing.assert_allclose(to_numpy(model(images)), to_numpy(plain(images)), atol=1e-6)


def test_compiled_functions_see_each_chip_and_new_offsets(model):
    images, _ = tiny_images()
    healthy = model.predict(images, verbose=0)
    with Chip(StuckAtZero(0.5), seed=1).program(model):
        assert np.abs(model.predict(images, verbose=0) - healthy).max() > 1e-4
    np.testing.assert_array_equal(model.predict(images, verbose=0), healthy)
    shape = to_numpy(model.get_layer("head").kernel).shape
    stuck = Chip(measured={"head": Fault(np.zeros(shape, "float32"), np.ones(shape, "float32"))})
    with stuck.program(model):
        outputs = model.predict(images, verbose=0)
        np.testing.assert_allclose(outputs, outputs[:, :1].repeat(4, 1), rtol=1e-5)
        assert np.abs(outputs - healthy).max() > 1e-3
    np.testing.assert_array_equal(model.predict(images, verbose=0), healthy)


def test_faults_carry_the_scale_of_their_layer():
    layers = [
        DropConnectDense(4, drop_connect=DropConnect(0.2, rescale=True), name="scaled"),
        DropConnectDense(4, drop_connect=0.2, name="unscaled"),
    ]
    model = keras.Sequential([keras.Input((5,)), *layers])
    chip = Chip(StuckAtZero(0.2), seed=1)
    faults = chip.faults(model)
    assert {name: fault.scale for name, fault in faults.items()} == chip.scales(model)
    assert chip.scales(model) == {"scaled/kernel": 1.25, "unscaled/kernel": 1.0}
    assert set(np.unique(faults["scaled/kernel"].mask)) == {0, 1}
    with program(model, faults) as programmed:
        scaled = to_numpy(programmed.get_layer("scaled").fault_masks["kernel"])
        np.testing.assert_array_equal(scaled, faults["scaled/kernel"].mask * np.float32(1.25))
        assert scaled.max() == 1.25
    # Those of a measured chip are at its achieved rate, whatever scale they came with.
    measured = Chip(measured=faults)
    rate = faults["scaled/kernel"].rate
    assert measured.scales(model)["scaled/kernel"] == 1 / (1 - rate)
    assert measured.faults(model)["scaled/kernel"].scale == 1 / (1 - rate)


def test_faults_of_another_model_are_refused_and_nothing_is_programmed(model):
    before = masks(model)
    shape = before["head/kernel"].shape
    faults = {name: Fault(np.zeros(shape, "float32")) for name in ("head/kernel", "no/kernel")}
    with pytest.raises(ValueError, match=r"\['no/kernel'\]"):
        program(model, faults)
    assert_same(masks(model), before)


def test_rescale_scales_the_healthy_weights_of_a_chip():
    model = keras.Sequential(
        [keras.Input((5,)), DropConnectDense(4, drop_connect=DropConnect(0.2, rescale=True))]
    )
    with Chip(StuckAtZero(0.2), seed=1).program(model):
        (mask,) = masks(model).values()
        assert set(np.unique(mask)) <= {np.float32(0), np.float32(1.25)}


def test_save_and_load_identity_and_faults(model, tmp_path):
    chip = Chip(StuckAtZero(0.3, exact=True), seed=4, index=9)
    chip.save(tmp_path / "identity.npz")
    assert Chip.load(tmp_path / "identity.npz") == chip
    chip.save(tmp_path / "faults.npz", model)
    loaded = Chip.load(tmp_path / "faults.npz", model)
    assert (loaded.fault_model, loaded.seed, loaded.index) == (chip.fault_model, 4, 9)
    for name, fault in chip.faults(model).items():
        np.testing.assert_array_equal(loaded.faults(model)[name].mask, fault.mask)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_measured_map_round_trip_with_offsets(model, tmp_path):
    shape = to_numpy(model.get_layer("b1_expand").kernel).shape
    mask = np.random.default_rng(0).integers(0, 2, shape)
    offset = np.where(mask == 0, 0.25, 0.0)
    np.savez(tmp_path / "map.npz", **{"b1_expand": mask, "b1_expand:offset": offset})
    chip = Chip.load(tmp_path / "map.npz", model)
    chip.save(tmp_path / "again.npz")
    fault = Chip.load(tmp_path / "again.npz").faults(model)["b1_expand/kernel"]
    np.testing.assert_array_equal(fault.mask, mask)
    np.testing.assert_array_equal(fault.offset, offset)
    assert fault.rate == np.mean(mask == 0)


def map_file(tmp_path, **arrays):
    np.savez(tmp_path / "map.npz", **arrays)
    return tmp_path / "map.npz"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"nowhere": np.ones(3)}, "no such layer"),
        ({"head": np.ones(3)}, "must have the kernel's shape"),
        ({"separable_conv": np.ones(3)}, "name one"),
        ({"head": np.full((16, 4), np.nan)}, "NaN"),
        ({"head": np.full((16, 4), 2.0)}, r"values in \[0, 1\]"),
        ({"head": np.full((16, 4), -1)}, r"values in \[0, 1\]"),
        ({"head": np.full((16, 4), "x")}, "must be numbers"),
        ({"head:offset": np.ones((16, 4))}, "without 'head'"),
        ({"head": np.ones((16, 4)), "head/kernel": np.ones((16, 4))}, "two arrays"),
        ({}, "holds no array"),
    ],
)
def test_bad_maps_are_clear_errors(model, tmp_path, arrays, message):
    kernel = tuple(model.get_layer("head").kernel.shape)
    fitted = {
        name: np.resize(array, kernel) if array.shape == (16, 4) else array
        for name, array in arrays.items()
    }
    with pytest.raises(ValueError, match=message):
        Chip.load(map_file(tmp_path, **fitted), model)


def test_files_that_are_no_chip(tmp_path):
    with pytest.raises(FileNotFoundError):
        Chip.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("not a zip file")
    with pytest.raises(ValueError, match="not an `.npz` file"):
        Chip.load(tmp_path / "text.npz")
    np.savez(tmp_path / "bad.npz", __chip__=np.array("{"))
    with pytest.raises(ValueError, match="is damaged, or no identity of a chip: it is no JSON"):
        Chip.load(tmp_path / "bad.npz")
    config = {"format": 2, "seed": 0, "index": 0, "stream": "evaluation"}
    for described in ({"class": "os.system", "config": {}}, "os.system", "deserialize"):
        foreign = json.dumps({**config, "fault_model": described})
        np.savez(tmp_path / "foreign.npz", __chip__=np.array(foreign))
        with pytest.raises(ValueError, match="identity.*(Expected `str|Fault model)"):
            Chip.load(tmp_path / "foreign.npz")
    np.savez(tmp_path / "old.npz", __chip__=np.array(json.dumps({**config, "format": 1})))
    with pytest.raises(ValueError, match="expected the format 3"):
        Chip.load(tmp_path / "old.npz")
    with pytest.raises(ValueError, match="`.npz` file"):
        Chip(StuckAtZero(0.1)).save(tmp_path / "chip.json")


def test_the_golden_file_is_read_as_ever(tmp_path):
    """`tests/golden/chip.npz` was saved when the format was made."""
    mask = np.array([[1, 0, 1], [0, 1, 1]], "float32")
    golden = Chip(
        parse("stuck_at_zero:rate=0.25+drift:seconds=60,nu=0.05,mapping=bit_slices(bits=4)"),
        seed=4,
        index=9,
        measured={"a": Fault(mask), "b/kernel": Fault(mask / 2, 1 - mask)},
        stream="calibration",
    )
    path = pathlib.Path(__file__).parent.parent / "golden" / "chip.npz"
    assert Chip.load(path) == golden == Chip.load(path.parent / "before" / "chip.npz")
    golden.save(tmp_path / "again.npz")
    with np.load(path) as old, np.load(tmp_path / "again.npz") as new:
        assert old.files == new.files
        for name in old.files:
            assert old[name].dtype == new[name].dtype
            np.testing.assert_array_equal(old[name], new[name])


def test_bad_identities():
    for arguments in ({"seed": -1}, {"index": 1.5}, {"seed": True}, {"index": 2**32}):
        with pytest.raises(ValueError, match="must be an integer >= 0"):
            Chip(StuckAtZero(0.1), **arguments)
    with pytest.raises(ValueError, match="needs a fault model"):
        Chip()
    with pytest.raises(ValueError, match="`count`"):
        population(StuckAtZero(0.1), 0)


def test_a_model_without_drop_connect_is_an_error():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="to_drop_connect"):
        Chip(StuckAtZero(0.1)).program(model)
