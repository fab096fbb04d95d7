"""Every fault model that the tools take as text: chips, both engines, repair and export."""

import hashlib
import re

import keras
import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from keras_rram import Chip, layers, population
from keras_rram.evaluation.engines.keras import KerasEngine
from keras_rram.evaluation.engines.litert import LiteRTEngine, convert_once
from keras_rram.evaluation.engines.protocol import Task
from keras_rram.export import Thresholds, read_sidecar
from keras_rram.export.exporter import Exporter
from keras_rram.faults import Composed, StuckAtZero, StuckCells, at_rate, parse, spec
from keras_rram.faults.cells import MAPPINGS
from keras_rram.faults.text import NAMES, describe
from keras_rram.repair.batch_norm import BatchNormRecalibration, recalibrate_batch_norm
from tests.classifiers import classifier, digits, right_answers, training_digits
from tools import fault_flags

SPECS = {
    "stuck_at_zero": "stuck_at_zero:rate=0.2,exact=true",
    "row_faults": "row_faults:rate=0.2,tile=16x4",
    "column_faults": "column_faults:rate=0.2,tile=16x16,mapping=differential_pair,stuck=on",
    "spread_faults": "spread_faults:rate=0.2,tile=16x16,concentration=4.0",
    "clustered_faults": "clustered_faults:rate=0.2,mapping=centred_pair,stuck=open,length=2.0",
    "differential_pair": "differential_pair:stuck_off=0.0904,stuck_on=0.0175",
    "stuck_at_values": "stuck_at_values:rate=0.1,values=0/2e-06/8e-05,mapping=reference_column",
    "lognormal_variation": "lognormal_variation:sigma=0.3",
    "drift": "drift:seconds=3600.0,nu=0.05,nu_sd=0.02,mapping=reference_column",
    "finite_on_off": "finite_on_off:ratio=5.0",
    "bit_slices": "differential_pair:mapping=bit_slices,stuck_on=0.02",
    "composition": "stuck_at_zero:rate=0.1+row_faults:rate=0.05+lognormal_variation:sigma=0.1",
}
every_spec = pytest.mark.parametrize("text", SPECS.values(), ids=SPECS)
SWEPT = [text for text in SPECS.values() if parse(text).rate]


@pytest.fixture(scope="module")
def model():
    return classifier()


@pytest.fixture(scope="module")
def converted(model):
    return convert_once(model, digits(200)[0], Chip(StuckAtZero(0.2)))


@pytest.fixture(scope="module")
def exporters(model):
    images, labels = digits(100)
    loose = Thresholds(agreement=0.0, accuracy=1.0)  # ranges of int8 are the fault-free model's
    calibration = training_digits()[0][:50]
    return {
        "float32": Exporter(model, "float32", None, images, labels),
        "int8": Exporter(model, "int8", calibration, images, labels, thresholds=loose),
    }


@pytest.fixture(scope="module")
def normalized():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.DropConnectConv2D(4, 3, strides=3, drop_connect=0.1, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            layers.DropConnectDense(10, drop_connect=0.1, name="head"),
        ]
    )


def test_every_name_is_here():
    assert set(NAMES) <= set(SPECS)
    assert all(text.startswith(name) for name, text in SPECS.items() if name in NAMES)


@every_spec
def test_a_text_is_its_chips_on_both_engines(model, converted, text):
    images, labels = digits(200)
    tasks = [Task(chip) for chip in population(parse(text), 3, seed=2)]
    fast = LiteRTEngine(converted, labels, threads=1).answer(tasks)
    slow = KerasEngine(model, images, labels).answer(tasks)
    for task, one, other in zip(tasks, fast, slow, strict=True):
        np.testing.assert_array_equal(
            other.correct, right_answers(model, task.chip, images, labels)
        )
        assert np.mean(one.correct == other.correct) >= 0.99
        assert one.fault_rate == other.fault_rate > 0


@pytest.mark.parametrize("quantization", ["float32", "int8"])
@every_spec
def test_an_exported_chip_is_verified_and_replayed_from_its_sidecar(
    model, exporters, tmp_path, text, quantization
):
    exporter = exporters[quantization]
    report = exporter.write(tmp_path / "chip.tflite", Chip(parse(text), seed=4, index=1))
    assert report.method == "patched"
    drawn = Chip(parse(text), 4, 1).faults(model)
    has_offsets = any(fault.offset is not None for fault in drawn.values())
    assert (report.stuck_values is not None) == has_offsets
    sidecar = read_sidecar(tmp_path / "chip.tflite")
    described = sidecar["chip"]
    assert parse(described["fault_model"]) == parse(text)
    again = Chip(parse(described["fault_model"]), described["seed"], described["index"])
    patched = bytes(exporter.patchable.patch(again.faults(model)))
    assert hashlib.sha256(patched).hexdigest() == sidecar["sha256"]


@every_spec
def test_batch_normalization_is_recalibrated_on_every_kind_of_chip(normalized, text):
    images, labels = digits(100)
    others = training_digits()[0][:64]
    (chip,) = population(parse(text), 1, seed=3)
    repair = BatchNormRecalibration(others)
    (found,) = KerasEngine(normalized, images, labels, repair).answer([Task(chip)])
    with chip.program(normalized), recalibrate_batch_norm(normalized, others):
        expected = right = normalized.predict(images, batch_size=100, verbose=0).argmax(-1)
    np.testing.assert_array_equal(found.correct, right == labels)
    assert expected.shape == labels.shape


def test_help_has_every_name_with_its_keys_and_every_mapping(capsys):
    fault_flags.print_help()
    printed = capsys.readouterr().out
    for name in NAMES:
        assert f"\n  {name}: {describe(name)}\n" in printed
    assert all(name in printed for name in MAPPINGS)
    for text in re.findall(r"--fault_model=(\S+)", printed):
        assert fault_flags.parse(text, 0.1, [0.2])
    assert len(re.findall(r"--fault_model=(\S+)", printed)) == 3


def test_flags_belong_to_the_tool_that_asks_for_them():
    defined = flags.FLAGS.key_flags_by_module_dict()
    assert not any(flag.name == "fault_model" for flag in defined.get("tools.fault_flags", ()))


@given(st.sampled_from(SWEPT), st.floats(0.001, 0.6))
def test_a_rate_is_the_mean_share_whatever_the_model(text, rate):
    model = fault_flags.parse(text, None, [rate])
    assert model == parse(text)
    swept = at_rate(model, rate)
    assert swept.rate == pytest.approx(rate, abs=1e-9)
    assert parse(spec(swept)) == swept


def test_a_text_without_a_rate_gets_one():
    assert fault_flags.parse("stuck_at_zero", 0.2) == StuckAtZero(0.2)
    assert fault_flags.parse("row_faults:tile=8x8", 0.2).rate == 0.2
    assert fault_flags.parse("stuck_at_zero:rate=0.3", 0.2) == StuckAtZero(0.3)
    pair = "differential_pair:stuck_off=0.02,stuck_on=0.01"
    assert fault_flags.parse(pair, 0.2) == StuckCells(0.02, 0.01)
    exact = fault_flags.parse("clustered_faults:exact=true", 0.2)
    assert exact.exact and exact.rate == 0.2
    assert isinstance(fault_flags.parse(SPECS["composition"], 0.2, [0.3]), Composed)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("stuck_at_zro", {}, "did you mean 'stuck_at_zero'"),
        ("row_faults:rates=0.1", {}, "did you mean 'rate'"),
        ("row_faults", {"otherwise": None}, "row_faults needs rate"),
        ("row_faults+stuck_at_zero", {}, "needs rate: write row_faults:rate="),
        ("differential_pair", {}, "expected stuck cells.*give it shares"),
        ("stuck_at_zero:rate=0.1+differential_pair", {}, "expected stuck cells"),
        ("lognormal_variation:sigma=0.1", {"rates": [0.1]}, "expected a fault model with a rate"),
        ("row_faults:exact=true", {}, "has no key 'exact'"),
        ("stuck_at_zero", {"rates": [1.0]}, r"in \[0, 1\)"),
        ("column_faults:rate=0.1,stuck=on", {}, "needs a `mapping`"),
    ],
)
def test_errors_name_the_flag_what_was_expected_and_how_to_mend_it(text, options, message):
    with pytest.raises(ValueError, match=message) as found:
        fault_flags.parse(text, **{"otherwise": 0.1, **options})
    assert str(found.value).startswith(f"--fault_model='{text}': ")
