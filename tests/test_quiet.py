import os
import runpy
import subprocess
import sys
import warnings

import pytest

from keras_rram import quiet


def test_stderr_is_held_back_and_can_be_read(capfd):
    with quiet.held_stderr() as messages:
        os.write(2, b"past Python\n")
        print("by Python", file=sys.__stderr__, flush=True)
        with quiet.held_stderr() as inner:
            os.write(2, b"deeper\n")
        assert inner is not messages
        assert messages() == "past Python\nby Python\n"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_stderr_comes_back_after_an_error(capfd):
    with pytest.raises(KeyError), quiet.quiet():
        warnings.warn("not shown", stacklevel=1)
        raise KeyError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_it_can_be_had_before_keras():
    code = (
        "import runpy, sys\n"
        f"with runpy.run_path({quiet.__file__!r})['held_stderr']():\n"
        "    print('held back', file=sys.stderr)\n"
        "assert not {'keras', 'keras_rram'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert not result.stderr
    assert "quiet" in runpy.run_path(quiet.__file__)
