import pytest

from keras_rram.files import written_whole


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
