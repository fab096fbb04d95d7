"""Every fault model of cells through everything that a chip goes through."""

import keras
import numpy as np
import pytest

from keras_rram import Chip, bake, faulty_layers
from keras_rram.chips import audit
from keras_rram.evaluation import evaluate_rates, load_run
from keras_rram.evaluation.engines.keras import KerasEngine
from keras_rram.evaluation.engines.litert import LiteRTEngine, convert_once
from keras_rram.evaluation.engines.protocol import Task
from keras_rram.export import PatchableModel
from keras_rram.export.kernels import kernels_of
from keras_rram.faults import (
    BitSlices,
    CentredPair,
    DifferentialPair,
    Drift,
    FiniteOnOff,
    LognormalVariation,
    ReferenceColumn,
    SameCells,
    StuckAtValues,
    StuckCells,
    at_rate,
    parse,
)
from tests.classifiers import classifier, digits, right_answers, training_digits
from tests.helpers import tiny_model, to_numpy

CHANNEL = {"scaling": "channel"}
MODELS = [
    StuckCells(0.05, 0.02),
    StuckCells(0.05, 0.02, mapping=CentredPair(**CHANNEL)),
    StuckCells(0.02, 0.05, mapping=ReferenceColumn()),
    StuckCells(0.02, 0.01, mapping=BitSlices(2, **CHANNEL)),
    StuckCells(0.02, 0.01, mapping=BitSlices(4, "offset_binary")),
    StuckAtValues(0.1, (0.0, 2e-6, 6e-5)),
    LognormalVariation(0.2, mapping=DifferentialPair(g_min=1e-5)),
    Drift(3600.0, nu=0.05, nu_sd=0.02, mapping=CentredPair()),
    FiniteOnOff(20.0, mapping=DifferentialPair(g_min=0.0)),
    SameCells((LognormalVariation(0.1), StuckCells(0.05, 0.02))),
]
every_model = pytest.mark.parametrize("fault_model", MODELS, ids=lambda one: _name(one))


def _name(model):
    mapping = model.mapping
    detail = f"-{mapping.bits}-{mapping.encoding}" if isinstance(mapping, BitSlices) else ""
    return f"{type(model).__name__}-{type(mapping).__name__}{detail}"


@pytest.fixture(scope="module")
def model():
    return classifier()


@pytest.fixture(scope="module")
def int8(model):
    return PatchableModel.convert(model, "int8", training_digits()[0][:100])


@pytest.fixture(scope="module")
def converted(model):
    return convert_once(model, digits()[0], Chip(MODELS[0], seed=9))


@every_model
def test_program_save_load_audit_and_bake(model, fault_model, tmp_path):
    chip = Chip(fault_model, seed=1, index=3)
    images = digits(50)[0]
    healthy = to_numpy(model(images))
    chip.save(tmp_path / "identity.npz")
    chip.save(tmp_path / "faults.npz", model)
    with chip.program(model):
        outputs = to_numpy(model(images))
        assert np.abs(outputs - healthy).max() > 1e-3
        table = audit(model)
        faults = chip.faults(model)
        assert {row.layer: row.faulty for row in table.rows if row.programmable} == {
            name.split("/")[0]: int(fault.faulty.sum()) for name, fault in faults.items()
        }
        assert table.rate >= 0.5 * fault_model.rate and table.rate > 0
        baked = bake(model)
        for name, layer in faulty_layers(model).items():
            np.testing.assert_array_equal(
                to_numpy(baked.get_layer(name).kernel), to_numpy(layer.effective_kernel())
            )
    np.testing.assert_allclose(to_numpy(baked(images)), outputs, atol=1e-5)
    np.testing.assert_array_equal(to_numpy(model(images)), healthy)
    for name in ("identity", "faults"):
        loaded = Chip.load(tmp_path / f"{name}.npz", model)
        assert loaded.fault_model == fault_model
        with loaded.program(model):
            np.testing.assert_array_equal(to_numpy(model(images)), outputs)
    with chip.program(model):
        model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(again(images)), outputs, atol=1e-6)


@every_model
def test_both_engines_agree_with_a_loop(model, converted, fault_model):
    images, labels = digits()
    tasks = [Task(Chip(fault_model, seed=2, index=index)) for index in range(2)]
    fast = LiteRTEngine(converted, labels, threads=1).answer(tasks)
    slow = KerasEngine(model, images, labels).answer(tasks)
    for task, one, other in zip(tasks, fast, slow, strict=True):
        expected = right_answers(model, task.chip, images, labels)
        np.testing.assert_array_equal(other.correct, expected)
        assert np.mean(one.correct == expected) >= 0.99
        assert one.fault_rate == other.fault_rate > 0


@every_model
def test_int8_files_hold_the_effective_weights_saturated(model, int8, fault_model):
    chip = Chip(fault_model, seed=3)
    patched = int8.patch(chip.faults(model))
    int8.check(patched, chip.faults(model))
    saturated = 0
    for name, fault in chip.faults(model).items():
        place = int8.places[name][0]
        kernel = kernels_of(model)[name].values
        # The step of a channel comes from its trained weights.
        axes = tuple(range(kernel.ndim - 1))
        steps = 127 / np.abs(kernel).max(axes if place.factor.size > 1 else None)
        exact = fault.apply(kernel).astype(np.float64) * steps
        held = place.restore(place.view(patched)).astype(int)
        changed = fault.faulty
        assert np.abs(held - np.clip(exact, -127, 127))[changed].max() <= 0.51
        untouched = place.restore(place.view(int8.tflite))
        np.testing.assert_array_equal(held[~changed], untouched[~changed])
        saturated += int((np.abs(exact) > 127.5).sum())
    assert int8.stuck_values(chip.faults(model)).saturated >= saturated


@every_model
def test_layers_that_rescale(fault_model):
    model = classifier(rescale=True)
    chip = Chip(fault_model, seed=4)
    faults = chip.faults(model)
    scale = 1 / (1 - fault_model.rate)
    with chip.program(model):
        for name, layer in faulty_layers(model).items():
            kernel, fault = to_numpy(layer.kernel), faults[f"{name}/kernel"]
            np.testing.assert_allclose(
                to_numpy(layer.effective_kernel()),
                kernel * fault.mask * np.float32(scale) + fault.offset,
                rtol=1e-6,
                atol=1e-6,
            )
        if fault_model.rate > 0 and not isinstance(fault_model, SameCells):
            expected = sum(int(fault.faulty.sum()) for fault in faults.values())
            assert sum(row.faulty for row in audit(model).rows) == expected


def test_a_chip_file_runs_as_the_keras_model_does(model, int8):
    images, labels = digits(100)
    floats = PatchableModel.convert(model, "float32")
    for fault_model in (MODELS[0], MODELS[3], MODELS[-1]):
        chip = Chip(fault_model, seed=6)
        assert floats.verify(model, chip.faults(model), images, labels).max_difference < 1e-4
    mild = Chip(StuckCells(0.02, 0.0, mapping=CentredPair(**CHANNEL)), seed=6)
    assert int8.verify(model, mild.faults(model), images, labels).agreement >= 0.97


def test_populations_sweep_the_rate_of_cells(model, tmp_path):
    options = {"chips": 2, "data": digits(), "progress": False, "rates": [0.001, 0.07, 0.5]}
    options |= {"engine": "litert", "out": str(tmp_path / "run")}
    found = list(evaluate_rates(model, MODELS[0], **options))
    assert [result.rate for result in found] == [0.001, 0.07, 0.5]
    assert found[0].mean > 0.8 and found[0].mean > found[1].mean > found[2].mean
    for result, rate in zip(load_run(str(tmp_path / "run")), options["rates"], strict=True):
        assert result.rate == rate
        assert parse(result.fault_model) == at_rate(MODELS[0], rate)
    reference = evaluate_rates(model, MODELS[0], **{**options, "engine": "keras", "out": None})
    for one, other in zip(found, reference, strict=True):
        np.testing.assert_allclose(one.mean, other.mean, atol=0.01)
    with pytest.raises(ValueError, match="rate to sweep"):
        evaluate_rates(model, LognormalVariation(0.1), **{**options, "out": None})


def test_scales_of_depthwise_channels_on_a_chip():
    """A depthwise kernel with a multiplier looks like any other, but for its layer."""
    network = tiny_model()
    layer = faulty_layers(network)["b1_depthwise"]
    fault_model = StuckCells(0.0, 0.3, mapping=DifferentialPair(scaling="channel"))
    fault = Chip(fault_model, seed=1).faults(network)["b1_depthwise/kernel"]
    scales = np.abs(to_numpy(layer.kernel)).max((0, 1), keepdims=True)
    sizes = np.abs(fault.offset) / scales
    assert (fault.offset != 0).any()
    assert np.isclose(sizes, np.rint(sizes), atol=1e-5).all()
    assert sizes.max() == pytest.approx(1, abs=1e-5)
