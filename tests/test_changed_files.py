"""Files with one bit flipped, or cut short: a clear error, or the same result.

The share of the suite is small. The whole campaign, with the counts by kind, is

    KERAS_RRAM_FLIPS=2000 python -m pytest -s tests/test_changed_files.py
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rram import Chip, StuckAtZero, data
from keras_rram.evaluation import load_run
from keras_rram.export.sidecar import MODELS, check_described, read_index
from keras_rram.files.schemas import (
    BENCHMARK,
    INDEX_LINE,
    KINDS,
    MODELS_INDEX,
    PANEL,
    SIDECAR,
    TRAINING,
)
from keras_rram.hardware.tile_maps import load_tiles, save_tiles
from keras_rram.layers import DropConnectDense
from keras_rram.study.answers import read_answers
from keras_rram.training.checkpoint import restore_checkpoint, save_checkpoint
from tests.run_tools import ROOT
from tools import inputs

FLIPS = int(os.environ.get("KERAS_RRAM_FLIPS", "320"))
GOLDEN = ROOT / "tests" / "golden"
ENTRY = ROOT / "docs" / "benchmark" / "mnist-30" / "drop_connect_at_30_recalibrated.json"
PUBLISHED = ROOT / "docs" / "reproduction" / "2B-strided-text-short"


@dataclasses.dataclass(frozen=True)
class File:
    """A file that is changed, and what reads it.

    `read` returns all that a tool would print or write of it; `weight` is its share of the flips.
    """

    path: pathlib.Path
    read: Callable[[], Any]
    weight: int = 2


def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    found = keras.Sequential(
        [keras.Input((6,)), DropConnectDense(4, drop_connect=0.1, name="head")], name="small"
    )
    found.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=False)
    return found


def plain(value: Any) -> Any:
    """Returns a value that can be compared."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, File]:
    folder = tmp_path_factory.mktemp("files")
    held = model()
    found: dict[str, File] = {}

    run = folder / "run"
    shutil.copytree(ROOT / "tests" / "evaluation" / "golden_run", run)

    def results():
        return [result.to_json() for result in load_run(run)]

    found["header of a run"] = File(run / "run.json", results)
    found["lines of a run"] = File(run / "chips.jsonl", results, 4)

    def chip(path):
        one = Chip.load(path)
        faults = {k: (f.mask, f.offset) for k, f in (one.measured or {}).items()}
        return plain([repr(one.fault_model), one.seed, one.index, one.stream, one.name, faults])

    Chip(StuckAtZero(0.3), 1, 2, name="mine").save(folder / "chip.npz", held)
    found["chip"] = File(folder / "chip.npz", lambda: chip(folder / "chip.npz"), 3)
    np.savez_compressed(folder / "map.npz", head=np.eye(6, 4), other=np.ones(3))
    found["map of faults"] = File(folder / "map.npz", lambda: chip(folder / "map.npz"))
    tiles = [np.arange(12).reshape(3, 4) % 3, np.zeros((3, 4), int)]
    save_tiles(folder / "tiles.npz", tiles)
    found["map of tiles"] = File(
        folder / "tiles.npz", lambda: plain(load_tiles(folder / "tiles.npz"))
    )
    save_tiles(folder / "tiles", tiles, "png")
    picture = folder / "tiles" / "tile_0.png"
    found["picture of a tile"] = File(picture, lambda: plain(load_tiles(picture)))

    save_checkpoint(held, folder / "checkpoint.npz", 3, [{"loss": 0.5}] * 3, {"seed": 1})

    def restored():
        fresh = model()
        begin = plain([weight.numpy() for weight in fresh.weights])
        try:
            state = restore_checkpoint(fresh, folder / "checkpoint.npz", {"seed": 1})
        except ValueError:
            assert plain([weight.numpy() for weight in fresh.weights]) == begin
            raise
        values = [np.asarray(each) for each in (*fresh.variables, *fresh.optimizer.variables)]
        return plain([state.epoch, list(state.history), values])

    found["checkpoint"] = File(folder / "checkpoint.npz", restored)

    tflite = folder / "chip_3_00007.tflite"
    tflite.write_bytes(np.random.default_rng(0).bytes(1234))
    digest = {"sha256": hashlib.sha256(tflite.read_bytes()).hexdigest()}
    SIDECAR.write(f"{tflite}.json", golden("sidecar", digest))
    line = golden("sidecar", digest)
    summary = {key: line[key] for key in json.loads((GOLDEN / "index.jsonl").read_text())}
    (folder / "index.jsonl").write_text(INDEX_LINE.line(summary))

    def described():
        return check_described(tflite, tflite.read_bytes()), read_index(folder / "index.jsonl")

    found["TFLite file"] = File(tflite, described)
    found["sidecar"] = File(pathlib.Path(f"{tflite}.json"), described, 3)
    found["index of an export"] = File(folder / "index.jsonl", described, 3)
    models = folder / "models"
    models.mkdir()
    for path in (tflite, pathlib.Path(f"{tflite}.json")):
        shutil.copy(path, models)
    about = {"command": None, "commit": "abc", "data": "digits", "seed": 0, "files": [summary]}
    MODELS_INDEX.write(models / MODELS, about)
    copy = models / tflite.name
    found["index of models"] = File(
        models / MODELS, lambda: check_described(copy, copy.read_bytes())
    )

    trained = folder / "trained"
    trained.mkdir()
    held.save(trained / "model.keras")
    TRAINING.write(
        trained / "config.json",
        {"command": "train", "seed": 3, "scope": ["head"], "data": {"source": "digits"}},
    )
    found["record of a training"] = File(
        trained / "config.json", lambda: inputs.Training.beside(trained / "model.keras")
    )
    found["model"] = File(
        trained / "model.keras",
        lambda: plain([w.numpy() for w in inputs.load_model(str(trained / "model.keras")).weights]),
        1,
    )
    panel = folder / "panel"
    panel.mkdir()
    PANEL.write(panel / "record.json", PANEL.read(PUBLISHED / "record.json"))
    bits = {"images": np.arange(40, dtype=np.uint32), "chips": np.full((3, 5), 0xA5, np.uint8)}
    np.savez_compressed(panel / "answers.npz", **bits)
    found["record of a panel"] = File(
        panel / "record.json", lambda: PANEL.read(panel / "record.json"), 3
    )
    entry = folder / "my_method.json"
    shutil.copy(ENTRY, entry)
    found["entry of the benchmark"] = File(entry, lambda: BENCHMARK.read(entry))
    found["answers of a panel"] = File(
        panel / "answers.npz", lambda: plain(dataclasses.astuple(read_answers(panel)))
    )
    rng = np.random.default_rng(1)
    arrays = {f"x_{split}": rng.random((8, 3, 3, 1)) for split in ("train", "test")}
    arrays |= {f"y_{split}": np.arange(8) % 2 for split in ("train", "test")}
    np.savez(folder / "data.npz", **arrays)

    def dataset():
        data.sources._load_npz.cache_clear()
        one = data.load(str(folder / "data.npz"))
        return plain([one.train_images, one.train_labels, one.test_images, one.test_labels])

    found["data set"] = File(folder / "data.npz", dataset)
    return found


def golden(name: str, other: dict) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text()) | other


def outcome(file: File, content: bytes, expected: Any) -> str:
    """Returns what becomes of a changed file: "refused", "same" or "silent"."""
    file.path.write_bytes(content)
    try:
        found = file.read()
    except (ValueError, OSError) as error:
        said = " ".join(str(error).split())
        assert file.path.name.partition(".")[0] in said, said
        assert 20 < len(said) < 800, said
        return "refused"
    return "same" if found == expected else "silent"


def test_a_flipped_bit_is_never_silent(files):
    rng = np.random.default_rng(FLIPS)
    counts: dict[str, Counter] = {}
    total = sum(file.weight for file in files.values())
    for name, file in files.items():
        whole, expected = file.path.read_bytes(), file.read()
        assert file.read() == expected
        counts[name] = Counter()
        for _ in range(-(-FLIPS * file.weight // total)):
            changed = bytearray(whole)
            bit = int(rng.integers(8 * len(whole)))
            changed[bit // 8] ^= 1 << bit % 8
            found = outcome(file, bytes(changed), expected)
            assert found != "silent", f"{name}: bit {bit}"
            counts[name][found] += 1
        file.path.write_bytes(whole)
    for name, found in counts.items():
        print(f"{name}: {sum(found.values())} flips, {dict(found)}")
    print(f"{sum(sum(found.values()) for found in counts.values())} flips in all")


def test_a_file_that_was_cut_short_is_never_silent(files):
    """But for whole lines at the end of an index, whose files are then written anew."""
    rng = np.random.default_rng(FLIPS)
    for name, file in files.items():
        whole, expected = file.path.read_bytes(), file.read()
        lines = name == "index of an export"
        for size in {0, 1, len(whole) - 1, *map(int, rng.integers(0, len(whole), 4))}:
            if lines:
                file.path.write_bytes(whole[:size])
                with contextlib.suppress(ValueError):
                    assert len(str(file.read())) <= len(str(expected))
            else:
                assert outcome(file, whole[:size], expected) == "refused" or size, name
        file.path.write_bytes(whole)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(ANYTHING)
def test_what_is_no_record_is_refused(value):
    """None of the kinds takes anything but its own form; a training's may say nothing."""
    for kind in KINDS:
        content = value
        if isinstance(value, dict) and kind.key:
            content = value | {kind.key: kind.version}
        with pytest.raises(ValueError, match="'a' is "):
            kind.parse(json.dumps(content), "a", is_sealed=True)
        if kind is not TRAINING:
            with pytest.raises(ValueError, match="'a' is "):
                kind.parse(json.dumps(content), "a", is_sealed=False)
