import numpy as np
import pytest
from absl import flags

from keras_rram import Chip
from keras_rram.export import Exporter, Thresholds, read_sidecar
from keras_rram.export.sidecar import repair_record
from keras_rram.files import array_sha256
from keras_rram.repair import BatchNormRecalibration
from tests import export_models
from tests.run_tools import ROOT, load_tool, run_here


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a model, its fault-free int8 file and a chip's."""
    folder = tmp_path_factory.mktemp("exported")
    exporter = Exporter(
        export_models.model(),
        "int8",
        export_models.images(),
        thresholds=Thresholds(agreement=0.5),
        command="the command",
        commit="c0ffee",
        tflite=export_models.patchable("int8").tflite,
    )
    exporter.write(folder / "base.tflite")
    exporter.write(folder / "chip.tflite", export_models.chip(1))
    export_models.model().save(folder / "model.keras")
    return folder


def run_main(*arguments):
    tool = load_tool("inspect_tflite")
    flags.FLAGS(tool.name_first_argument(["inspect_tflite", *map(str, arguments)]))
    tool.main(["inspect_tflite"])


def test_prints_layers_and_origin(exported, capsys):
    run_main(exported / "chip.tflite")
    output = capsys.readouterr().out
    for text in (
        "DEPTHWISE_CONV_2D",
        "12x3x3x2",
        "model every_kernel",
        "int8, patched by keras_rram",
        "stuck_at_zero:rate=0.3",
        '"seed": 3, "index": 1',
        "verified on 64 images",
        "made by: the command (commit c0ffee)",
    ):
        assert text in output
    run_main(f"--tflite={exported / 'base.tflite'}")
    assert "fault-free" in capsys.readouterr().out


def test_says_how_a_chip_was_repaired(exported):
    sidecar = read_sidecar(exported / "chip.tflite")
    origin = load_tool("inspect_tflite")._origin
    assert "repaired" not in origin(sidecar)
    images = export_models.images()
    sidecar["repair"] = repair_record(BatchNormRecalibration(images))
    digest = array_sha256(images)[:16]
    assert (
        f"repaired by batch_norm:images=64/{sidecar['repair']['repair'][-16:]} (access tier B), "
        f"64 images of SHA-256 {digest}"
    ) in origin(sidecar)


def test_a_file_of_this_project_says_all_about_itself(capsys):
    folder = ROOT / "exported_models"
    run_main(next(folder.glob("*int8_faults20.tflite")))
    output = capsys.readouterr().out
    for text in (
        "verified on 10000 images of mnist: same top-1",
        "on 1000 images of digits",
        "TensorFlow Lite Micro: an arena of ",
        "stuck_at_zero:rate=0.2",
        "tools.export_models",
    ):
        assert text in output


def test_writes_the_map_of_the_chip(exported, tmp_path, capsys):
    run_main(
        exported / "chip.tflite",
        f"--base={exported / 'base.tflite'}",
        f"--model={exported / 'model.keras'}",
        f"--map={tmp_path / 'map.npz'}",
    )
    model = export_models.model()
    patcher = export_models.patchable("int8")
    found = Chip.load(tmp_path / "map.npz", model).faults(model)
    assert patcher.patch(found) == (exported / "chip.tflite").read_bytes()
    expected = sum(
        int(np.sum(place.view(patcher.tflite)[place.transpose(fault.mask) == 0] != 0))
        for name, fault in export_models.chip(1).faults(model).items()
        for place in patcher.places[name]
    )
    assert f"{expected:,} weights differ" in capsys.readouterr().out


def test_a_changed_file_or_a_lost_sidecar_is_said(exported, tmp_path, capsys):
    path = tmp_path / "chip.tflite"
    path.write_bytes((exported / "base.tflite").read_bytes())
    run_main(path)
    assert "No sidecar" in capsys.readouterr().out
    (tmp_path / "chip.tflite.json").write_bytes((exported / "chip.tflite.json").read_bytes())
    with pytest.raises(ValueError, match="chip.tflite' is not the file that its sidecar describes"):
        run_main(path)
    with pytest.raises(ValueError, match="chip.tflite' is not the file"):
        run_main(exported / "chip.tflite", f"--base={path}")


def test_bad_input_is_a_clear_error(exported, tmp_path):
    data = (exported / "chip.tflite").read_bytes()
    (tmp_path / "cut.tflite").write_bytes(data[: len(data) // 2])
    (tmp_path / "foreign.tflite").write_bytes(b"PK\x03\x04 something else")
    chip, base = exported / "chip.tflite", f"--base={exported / 'base.tflite'}"
    for arguments, message in (
        ((), "no file is named"),
        ((tmp_path / "cut.tflite",), "cut.tflite: A damaged or truncated"),
        ((tmp_path / "foreign.tflite",), "foreign.tflite: Not a TFLite file"),
        ((chip, f"--base={tmp_path / 'foreign.tflite'}"), "Not a TFLite file"),
        ((chip, f"--map={tmp_path / 'm.npz'}"), "needs --base"),
        ((chip, base, "--model=x.keras"), "for --map"),
        ((chip, base, "--model=x.keras", f"--map={tmp_path / 'm.npz'}"), "no such file"),
        (
            (chip, base, f"--model={exported / 'model.keras'}", f"--map={tmp_path / 'm.txt'}"),
            ".npz",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run_main(*arguments)
    with pytest.raises(FileNotFoundError):
        run_main(tmp_path / "absent.tflite")
    assert {path.name for path in tmp_path.iterdir()} == {"cut.tflite", "foreign.tflite"}


def test_a_truncated_file_ends_the_tool_with_one_line(exported, tmp_path):
    (tmp_path / "cut.tflite").write_bytes((exported / "chip.tflite").read_bytes()[:5000])
    output = run_here("inspect_tflite", tmp_path / "cut.tflite", code=1)
    assert output.startswith("error: ") and len(output.splitlines()) == 1
