import pathlib
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import pytest
import tqdm
from absl import flags

from keras_rram.files import one_writer
from tests.run_tools import ROOT, run_here, run_main, run_tool
from tools import COMMANDS, cli, inputs


def test_output_folder_is_made(tmp_path):
    assert cli.output_folder(str(tmp_path / "a" / "b")).is_dir()


def test_output_folder_refuses_what_would_be_overwritten(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="not empty"):
        cli.output_folder(str(tmp_path))
    assert cli.output_folder(str(tmp_path), resume=True) == tmp_path
    with pytest.raises(ValueError, match="is a file"):
        cli.output_folder(str(tmp_path / "file"))
    with pytest.raises(ValueError, match="--out is missing"):
        cli.output_folder(None)
    with pytest.raises(OSError):
        cli.output_folder("/proc/nowhere/out")


def test_a_folder_has_one_writer(tmp_path):
    """The second one ends at once, whatever its flags; what it would have written is not there."""
    folder = cli.output_folder(str(tmp_path / "run"))
    for resume in (False, True):
        with pytest.raises(ValueError, match="run' is being written by another process"):
            cli.output_folder(str(folder), resume)
    cli.done()
    assert not list(folder.iterdir())
    train = ["--out", folder, "--resume", "--train_images=100", "--bottlenecks=1"]
    with one_writer(folder):
        with pytest.raises(ValueError, match="run' is being written by another process"):
            run_main("train", *train)
        assert [path.name for path in folder.iterdir()] == [".writer.lock"]
    cli.output_folder(str(folder))
    cli.done()


def test_a_shared_folder_has_many_workers_and_one_writer(tmp_path, monkeypatch):
    folder = cli.output_folder(str(tmp_path / "run"), is_shared=True)
    assert cli.output_folder(str(folder), resume=True, is_shared=True) == folder
    written = []

    def write(name):
        with cli.writing(folder):
            written.append(name)
            time.sleep(0.2)
            written.append(name)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, "abc"))
    assert written[::2] == written[1::2] and sorted(written) == list("aabbcc")
    assert not list(folder.iterdir())
    monkeypatch.setattr(cli, "_PATIENCE", 0.1)
    with one_writer(folder):
        with pytest.raises(ValueError, match="run' is being written by another process"):
            cli.output_folder(str(folder), resume=True, is_shared=True)
        with pytest.raises(ValueError, match="is being written"), cli.writing(folder):
            pass


def test_load_model_refuses_what_is_no_model(tmp_path):
    with pytest.raises(ValueError, match="--model is missing"):
        inputs.load_model(None)
    with pytest.raises(ValueError, match="no such file"):
        inputs.load_model(str(tmp_path / "none.keras"))
    (tmp_path / "bad.keras").write_text("not a model")
    with pytest.raises(ValueError, match="cannot be loaded"):
        inputs.load_model(str(tmp_path / "bad.keras"))


def test_load_model_refuses_weights_that_are_no_numbers(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="head")])
    model.layers[0].bias.assign([0.0, float("nan")])
    model.save(tmp_path / "nan.keras")
    with pytest.raises(ValueError, match="nan.keras': .*NaN or infinite values in 'head/bias'"):
        inputs.load_model(str(tmp_path / "nan.keras"))


def test_an_error_has_a_line_of_its_own_after_a_bar(capsys):
    bar = tqdm.tqdm(total=2, file=sys.stderr)
    with pytest.raises(SystemExit):
        cli.fail("what is wrong")
    assert bar.disable or "\nerror: what is wrong\n" in capsys.readouterr().err


def test_a_message_can_be_read():
    assert len(cli.in_a_line(ValueError("word " * 2000))) <= 600
    assert cli.in_a_line(MemoryError()) == "MemoryError"


def test_fail_ends_the_process_with_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.fail("what is wrong", code=3)
    assert ended.value.code == 3
    assert capsys.readouterr().err == "error: what is wrong\n"


def test_command_is_what_a_user_types(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/tools/train.py", "--seed=1"])
    assert cli.command() == "python -m tools.train --seed=1"


def test_commit_is_a_hash_or_none():
    commit = cli.commit()
    assert commit is None or len(commit.removesuffix("-modified")) == 12


def test_every_tool_documents_its_command_line():
    assert flags.FLAGS is not None
    folder = pathlib.Path(cli.__file__).parent
    tools = {path.stem for path in folder.glob("*.py") if "\n    cli.run(main" in path.read_text()}
    assert tools == {*COMMANDS.values(), "check", "notebooks"}
    for name in tools:
        assert f"python -m tools.{name}" in (folder / f"{name}.py").read_text().split('"""')[1]


def test_help_is_short_and_in_sections():
    texts = [run_tool("evaluate", flag) for flag in ("-h", "--help")]
    for text in texts:
        assert text.startswith("Evaluates a trained model on a population of faulty chips.\n")
        sections = re.findall(r"^(\w+):$", text, re.MULTILINE)
        assert sections == ["flags", "model", "data", "faults", "chips", "measure", "repair"]
        assert (
            "  --engine: <auto|keras|litert>: What computes; auto takes the faster. [auto]" in text
        )
        assert "\n  --seed: Seed of the population of chips. [0]\n" in text
        assert text.index("\nflags:") < text.index("  --engine:") < text.index("\nmodel:")
        assert text.index("\ndata:") < text.index("  --data_dir:") < text.index("\nfaults:")
    assert "  row_faults: rate, tile=128x128" in run_here("evaluate", "--help_faults")
    assert "  batch_norm (tier B): images=512" in run_here("evaluate", "--help_repairs")


def test_the_command_lists_the_tools_and_hints_at_a_name():
    def run(*arguments, code):
        command = [sys.executable, "-m", "keras_rram_command", *arguments]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert found.returncode == code
        return found.stdout + found.stderr

    listed = run(code=0)
    assert listed == run("-h", code=0)
    assert [line.split()[0] for line in listed.splitlines()[1:]] == list(COMMANDS)
    assert "  evaluate       Evaluates a trained model on a population of faulty chips." in listed
    assert "did you mean 'train'?" in run("trian", code=1)
