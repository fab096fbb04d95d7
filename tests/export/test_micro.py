import errno
import json
import pathlib
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_rram.export import ExportError, PatchableModel, convert
from keras_rram.export.c_source import c_array
from keras_rram.export.litert_model import decode, encode
from keras_rram.export.micro import MicroModel, MicroReport, run_micro
from keras_rram.models import mini_mobilenet
from tests import export_models
from tests.run_tools import run_main


@pytest.fixture(scope="module")
def runtime():
    return pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")


@pytest.fixture(scope="module")
def small():
    """The smallest mini-MobileNet as an int8 file, with images."""
    keras.utils.set_random_seed(1)
    model = mini_mobilenet(1, drop_connect=0.1, expansion=2)
    export_models.set_batch_norm(model)
    images = np.random.default_rng(0).normal(size=(40, 28, 28, 1)).astype(np.float32)
    return convert(model, "int8", images), images


def test_outputs_are_within_a_step_of_litert(runtime, small):
    tflite, images = small
    report = run_micro(tflite, images[:20])
    report.check()
    assert report.max_steps <= 1 and report.xnnpack_steps <= 1
    assert report.agreement == 1
    assert report.size == len(tflite)
    assert (
        report.operators
        == (
            "ADD",
            "CONV_2D",
            "DEPTHWISE_CONV_2D",
            "FULLY_CONNECTED",
            "MEAN",
        )
        or "CONV_2D" in report.operators
    )


@pytest.mark.parametrize(
    ("images", "others", "steps", "error"),
    [
        (20, 0, 1, None),
        (20, 1, 0, "same class on 95.0% of 20 images.*more of them"),
        (200, 4, 1, None),
        (200, 5, 1, "same class on 97.5% of 200 images"),
        (20, 0, 2, "differ by 2 quantization steps"),
    ],
)
def test_what_differs_more_is_an_error_that_says_how_to_go_on(images, others, steps, error):
    report = MicroReport(1000, ("ADD",), 100, images, steps, 1 - others / images)
    with nullcontext() if error is None else pytest.raises(ExportError, match=error):
        report.check()


def test_every_kind_of_kernel_and_a_chip_run(runtime):
    calibration = export_models.images(30)
    patcher = PatchableModel.convert(export_models.model(), "int8", calibration, batch_size=1)
    for chip in (None, export_models.chip()):
        tflite = patcher.tflite
        if chip is not None:
            tflite = patcher.patch(chip.faults(export_models.model()))
        report = run_micro(tflite, calibration[:10])
        assert report.max_steps == 0
        assert report.xnnpack_steps <= 4  # a step here and there in a dozen layers
        outputs = MicroModel(tflite).predict(calibration[:3])
        np.testing.assert_array_equal(outputs, reference(tflite, calibration[:3]))


def reference(tflite, images):
    """Returns the outputs of LiteRT's own reference kernels."""
    resolver = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(model_content=bytes(tflite), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    (inputs,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for image in images:
        interpreter.set_tensor(inputs["index"], encode(image[None], inputs))
        interpreter.invoke()
        rows.append(decode(interpreter.get_tensor(outputs["index"]), outputs)[0])
    return np.stack(rows)


PROBE = """
import sys
from tflite_micro.python.tflite_micro import runtime
data = open(sys.argv[1], "rb").read()
runtime.Interpreter.from_bytes(data, arena_size=int(sys.argv[2])).invoke()
"""


def test_the_arena_is_the_least(runtime, small, tmp_path):
    # In processes of their own: some sizes end the process.
    path = tmp_path / "base.tflite"
    path.write_bytes(small[0])
    size = MicroModel(small[0]).arena_size
    assert size % 16 == 0
    for arena, fits in ((size, True), (size - 16, False)):
        command = [sys.executable, "-c", PROBE, str(path), str(arena)]
        assert (subprocess.run(command, capture_output=True).returncode == 0) == fits
    assert MicroModel(small[0], size).arena_size == size
    with pytest.raises(ExportError, match=f"needs an arena of {size} bytes"):
        MicroModel(small[0], size - 16)


def test_the_interpreter_is_silent(runtime, small, capfd):
    run_micro(*small)
    assert capfd.readouterr() == ("", "")


def test_what_it_cannot_run_is_refused(runtime, small):
    tflite, images = small
    with pytest.raises(ValueError, match="full integer"):
        MicroModel(export_models.patchable("float32").tflite)
    with pytest.raises(ValueError, match="Not a TFLite file"):
        MicroModel(b"nothing of the kind")
    with pytest.raises(ValueError, match="truncated"):
        MicroModel(tflite[:3000])
    with pytest.raises(ValueError, match=r"'n', 28, 28, 1"):
        run_micro(tflite, images[:, :10])
    with pytest.raises(ValueError, match="at least one image"):
        run_micro(tflite, images[:0])


def test_an_operator_that_it_lacks_is_named(runtime):
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Lambda(lambda x: keras.ops.cumsum(keras.ops.sort(x, axis=1), axis=1))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    images = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype(np.float32)
    try:
        tflite = convert(model, "int8", images)
    except ExportError:
        pytest.skip("the converter of this TensorFlow does not translate the operator")
    with pytest.raises(ExportError, match="does not run"):
        MicroModel(tflite)


def test_the_missing_package_is_named(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro.python.tflite_micro", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-rram\[micro\]'"):
        MicroModel(small[0])


def test_the_report_judges():
    good = MicroReport(1024, ("CONV_2D",), 10, 100, 1, 0.99)
    good.check()
    with pytest.raises(ExportError, match="differ by 2 quantization steps"):
        MicroReport(1024, (), 10, 100, 2, 1.0).check()
    with pytest.raises(ExportError, match="97.0%"):
        MicroReport(1024, (), 10, 100, 1, 0.97).check()


def test_the_c_array_holds_every_byte(small):
    array = c_array(small[0], "chip_7")
    body = array.source.partition("= {")[2].partition("}")[0]
    assert bytes(int(byte, 16) for byte in re.findall(r"0x(..)", body)) == small[0]
    assert f"chip_7_len = {len(small[0])}u;" in array.source
    assert "extern const unsigned char chip_7[];" in array.header
    for name in ("", "7chip", "a-b", "a b", None):
        with pytest.raises(ValueError, match="C identifier"):
            c_array(small[0], name)
    for name in ("int", "class", "bool", "static_assert", "main"):
        with pytest.raises(ValueError, match="no word of C"):
            c_array(small[0], name)
    with pytest.raises(ValueError, match="Not a TFLite file"):
        c_array(b"", "model")


@pytest.mark.parametrize(("compiler", "suffix"), [("g++", "cc"), ("gcc", "c")])
def test_the_c_array_compiles(small, tmp_path, compiler, suffix):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    array = c_array(small[0], "model")
    (tmp_path / "model.h").write_text(array.header)
    (tmp_path / f"model.{suffix}").write_text(array.source)
    (tmp_path / f"main.{suffix}").write_text(
        '#include <stdio.h>\n#include "model.h"\n'
        "int main(void) { if ((unsigned long)model % 16) return 1;\n"
        "  fwrite(model, 1, model_len, stdout); return 0; }\n"
    )
    binary = tmp_path / "program"
    sources = [tmp_path / f"model.{suffix}", tmp_path / f"main.{suffix}"]
    standard = "-std=c++11" if suffix == "cc" else "-std=c11"
    subprocess.run([compiler, standard, "-Wall", "-Werror", *sources, "-o", binary], check=True)
    assert subprocess.run([binary], check=True, capture_output=True).stdout == small[0]


DIGITS = ("--data=digits", "--normalize=mnist")


def test_the_tool_writes_source_and_report(runtime, small, tmp_path, capsys):
    path = tmp_path / "base.tflite"
    path.write_bytes(small[0])
    folder = tmp_path / "out"
    flags = [f"--tflite={path}", *DIGITS, "--images=8", "--name=digits"]
    run_main("export_micro", *flags, f"--out={folder}")
    assert {file.name for file in folder.iterdir()} == {"digits.h", "digits.cc", "digits.json"}
    report = json.loads((folder / "digits.json").read_text())
    assert report["micro"]["images"] == 8
    assert report["micro"]["arena_size"] == MicroModel(small[0]).arena_size
    assert report["tflite"]["sidecar"] is None
    assert f"Results: {folder}" in capsys.readouterr().out


def test_the_tool_takes_bytes_as_the_numbers_that_they_are(runtime, tmp_path):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(3))
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (30, 6, 6, 1)), np.arange(30) % 3
    (tmp_path / "base.tflite").write_bytes(convert(model, "int8", pixels.astype("float32")))
    for name, kind in (("bytes", np.uint8), ("floats", np.float32)):
        x = pixels.astype(kind)
        arrays = {"x_train": x, "y_train": labels, "x_test": x, "y_test": labels}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        run_main(
            "export_micro", f"--tflite={tmp_path}/base.tflite", f"--data={tmp_path}/{name}.npz",
            "--images=9", f"--name={name}", f"--out={tmp_path}/{name}",
        )  # fmt: skip
    bytewise, floating = (
        json.loads((tmp_path / name / f"{name}.json").read_text())["micro"]
        for name in ("bytes", "floats")
    )
    assert bytewise == floating and bytewise["images"] == 9


def test_a_full_disk_leaves_no_source(runtime, small, tmp_path, monkeypatch):
    path = tmp_path / "base.tflite"
    path.write_bytes(small[0])
    write = pathlib.Path.write_text

    def full(place, text, *args, **kwargs):
        if place.suffix == ".json":  # the last
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(place, text, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        flags = [f"--tflite={path}", *DIGITS, "--images=2"]
        run_main("export_micro", *flags, f"--out={tmp_path / 'out'}")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--tflite is missing"),
        (["--tflite={path}", "--name=a-b"], "C identifier"),
        (["--tflite={path}", "--arena=100", *DIGITS], "needs an arena"),
        (["--tflite={path}"], "--data is missing"),
        (["--tflite={bad}"], "Not a TFLite file"),
    ],
)
def test_bad_input_leaves_nothing(runtime, small, tmp_path, arguments, message):
    path, bad, folder = tmp_path / "base.tflite", tmp_path / "bad.tflite", tmp_path / "out"
    path.write_bytes(small[0])
    bad.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=message):
        run_main(
            "export_micro", *(a.format(path=path, bad=bad) for a in arguments), f"--out={folder}"
        )
    assert not folder.exists()
