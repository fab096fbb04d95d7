import contextlib
import json
import pathlib
import zipfile

import numpy as np
import pytest

from keras_rram.files import check_zip, content_sha256, one_writer, page, read_npz, written_whole
from keras_rram.files.schemas import CHIP_LINE, KINDS, RUN

ROOT = pathlib.Path(__file__).parent.parent


def test_the_file_appears_whole(tmp_path):
    path = tmp_path / "file.txt"
    with written_whole(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_page_of_formats_is_current():
    """`python -m keras_rram.files.page docs/formats.md` makes it anew."""
    assert (ROOT / "docs" / "formats.md").read_text() == page.page()
    assert all(f"`{kind.record.__name__}`" in page.page() or kind.key for kind in KINDS)


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    with one_writer(tmp_path):
        second = one_writer(tmp_path)
        with pytest.raises(ValueError, match="is being written by another process"), second:
            pass
        with one_writer(tmp_path / "file.npz"):
            assert len(list(tmp_path.iterdir())) == 2
    assert not list(tmp_path.iterdir())
    (tmp_path / ".writer.lock").write_text("of a process that was killed")
    with one_writer(tmp_path), contextlib.suppress(ZeroDivisionError):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


LINE = {"index": 1, "fault_rate": 0.1, "achieved_fault_rate": 0.1, "correct": 1, "total": 2}
LINE |= {"fold": 0, "folds": 1}


def test_a_record_is_what_was_written_or_an_error():
    text = CHIP_LINE.line(LINE)
    assert CHIP_LINE.parse(text, "a", 1) == LINE
    assert CHIP_LINE.parse(json.dumps({**LINE, "later": 1}), "a", is_sealed=False)["later"] == 1
    for change in (
        text.replace('"index": 1', '"index": 2'),
        text.replace('"index": 1', '"index": 1.0'),
        text.replace('"index"', '"Index"'),
        text.replace("digest", "digesu"),
        text.replace("0.1", "NaN"),
        text.replace("0.1", "1e999"),
        text.replace("1,", "[" * 100_000, 1),
        json.dumps({**LINE, "digest": None}),
        json.dumps({k: v for k, v in LINE.items() if k != "total"}),
        text[:-20],
        "[]",
        "",
    ):
        with pytest.raises(ValueError, match="'a', line 7, is damaged.*Delete the line") as error:
            CHIP_LINE.parse(change, "a", 7, is_sealed=True)
        assert len(str(error.value)) < 600


def test_wrong_types_and_ranges_are_named_although_the_digest_fits():
    for wrong in (
        {"index": -1},
        {"index": "1"},
        {"fault_rate": 1.5},
        {"total": True},
        {"fold": []},
    ):
        with pytest.raises(ValueError, match=f"expected the line of a chip.*{next(iter(wrong))}"):
            CHIP_LINE.line(LINE | wrong)
        content = LINE | wrong
        sealed = json.dumps({**content, "digest": content_sha256(content)})
        with pytest.raises(ValueError, match=f"is damaged.*{next(iter(wrong))}"):
            CHIP_LINE.parse(sealed, "a")
    with pytest.raises(ValueError, match="not JSON compliant"):
        CHIP_LINE.line(LINE | {"score": float("nan")})


def test_a_digest_counts_whatever_the_version():
    """Or a flipped version would switch it off."""
    golden = ROOT / "tests" / "evaluation" / "golden_run" / "run.json"
    text = golden.read_text()
    with pytest.raises(ValueError, match="content is not what its digest"):
        RUN.parse(text.replace("run/3", "run/2"), golden)
    with pytest.raises(ValueError, match="expected the schema 'keras_rram.run/3'"):
        RUN.parse(text.replace("run/3", "run/4"), golden)


def test_arrays_are_bounded_and_hidden_members_are_found(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(6.0), b=np.eye(2), c=np.array("text"))
    found = read_npz(path)
    assert found["a"].tolist() == list(range(6)) and str(found["c"]) == "text"
    whole = path.read_bytes()
    # The comment of the first entry of the directory grows over the second one.
    entry = whole.index(b"PK\x01\x02")
    hidden = bytearray(whole)
    hidden[entry + 32] = 46 + len("b.npy")
    path.write_bytes(hidden)
    with pytest.raises(ValueError, match="a.npz' is not .*comment"):
        read_npz(path)
    for data in (b"x" + whole, whole + b"x", whole[:-1], whole[:100], b""):
        path.write_bytes(data)
        for read in (read_npz, check_zip):
            with pytest.raises(ValueError, match="a.npz' is"):
                read(path)
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(ValueError, match="must be numbers"):
        read_npz(path)
    # An array that says it is larger than it is, with a checksum that fits.
    huge = str({"descr": "<f8", "fortran_order": False, "shape": (10**12,)}).ljust(117) + "\n"
    for text in (huge, "(" * 5000, "{'descr': '<f8'", "\x00"):
        with zipfile.ZipFile(path, "w") as archive:
            head = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little")
            archive.writestr("a.npy", head + text.encode())
        with pytest.raises(ValueError, match="a.npz' is not an `.npz` file"):
            read_npz(path)
