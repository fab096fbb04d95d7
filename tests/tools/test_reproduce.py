import pytest

from tests.run_tools import run_main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--panel=9Z",), "--panel must be panels"),
        (("--panel=2A", "--network=resnet20"), "Panel 2A can be run with"),
        (("--panel=", "--publish=docs"), "Expected finished runs"),
    ],
)
def test_bad_flags_are_clear_errors(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run_main("reproduce", "--scale=smoke", *arguments)
