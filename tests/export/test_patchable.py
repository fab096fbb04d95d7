import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rram import Chip, DropConnect, Fault, StuckAtZero, bake
from keras_rram.export import LiteRTModel, PatchableModel, UnmappableError, convert
from keras_rram.export.flatbuffer import parse
from keras_rram.export.kernels import chip_gains, kernels_of
from tests import export_models
from tests.export.test_kernels import rescaling_model


def random_faults(seed, rate=0.2, stuck=True, gain=1.0):
    """Faults of all kinds: lost weights, scaled ones, and ones stuck at a value."""
    rng = np.random.default_rng(seed)
    faults = {}
    for name, kernel in kernels_of(export_models.model()).items():
        shape = kernel.values.shape
        mask = rng.choice([0, 1, 0.7], p=[rate, 1 - 2 * rate, rate], size=shape)
        offset = np.zeros(shape, np.float32)
        if stuck:
            offset = np.where(mask == 0, rng.normal(size=shape), 0) * rng.integers(0, 2, shape)
            offset *= np.abs(kernel.values).max()
        faults[name] = Fault(
            (mask * gain).astype(np.float32), offset.astype(np.float32) if stuck else None
        )
    return faults


@pytest.mark.parametrize("index", range(3))
def test_patched_float32_is_a_fresh_conversion_of_the_baked_model(index):
    model, chip = export_models.model(), export_models.chip(index)
    with chip.program(model):
        fresh = convert(bake(model), "float32")
    patched = export_models.patchable("float32").patch(chip.faults(model))
    images = export_models.images()
    expected = LiteRTModel(fresh).predict(images)
    np.testing.assert_allclose(LiteRTModel(patched).predict(images), expected, atol=1e-5, rtol=0)
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("stuck", [False, True])
def test_patched_float32_is_keras_for_any_fault(stuck):
    model, faults = export_models.build(), random_faults(1, stuck=stuck)
    images = export_models.images()
    patched = export_models.patchable("float32").patch(faults)
    with Chip(measured=faults).program(model):
        expected = model.predict_on_batch(images)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(LiteRTModel(patched).predict(images), expected, atol=1e-5 * scale)


# The order of axes in the file, written out here once more, independently.
ORDERS = {
    "stem/kernel": (3, 0, 1, 2),
    "depthwise/kernel": (0, 1, 2, 3),
    "project/kernel": (3, 0, 1, 2),
    "separable/depthwise_kernel": (0, 1, 2, 3),
    "separable/pointwise_kernel": (3, 0, 1, 2),
    "grouped/kernel": (3, 0, 1, 2),
    "multiplied/kernel": (0, 1, 2, 3),
    "dilated/kernel": (3, 0, 1, 2),
    "hidden/kernel": (1, 0),
    "head/kernel": (1, 0),
}
NORMS = {
    "stem/kernel": "batch_normalization",
    "depthwise/kernel": "batch_normalization_1",
    "project/kernel": "batch_normalization_2",
    "separable/pointwise_kernel": "batch_normalization_3",
}


def oracle(name, values, tensor):
    """Folds, transposes and quantizes a kernel with the steps of the fault-free file."""
    model = export_models.model()
    if name in NORMS:
        norm = model.get_layer(NORMS[name])
        scale = np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
        values = values * (scale[:, None] if name.startswith("depthwise") else scale)
    values = values.transpose(ORDERS[name]).reshape(tensor.shape)
    if tensor.type != "INT8":
        return values
    steps = tensor.scales.reshape([-1 if a == tensor.axis else 1 for a in range(values.ndim)])
    return np.clip(values / steps, -127, 127)


@pytest.mark.parametrize("quantization", ["int8", "int16x8", "dynamic"])
@pytest.mark.parametrize("seed", [0, 1])
def test_integer_weights_are_the_quantized_masked_kernel(quantization, seed):
    patcher = export_models.patchable(quantization)
    kernels = kernels_of(export_models.model())
    faults = export_models.chip(seed).faults(export_models.model())
    if seed:
        faults = random_faults(seed)
    patched = patcher.patch(faults)
    graph = parse(patched)
    integers = 0
    for name, kernel in kernels.items():
        tensor = graph.tensors[patcher.places[name][0].tensor.index]
        wanted = oracle(name, faults[name].apply(kernel.values.astype(np.float64)), tensor)
        held = tensor.read(patched)
        if tensor.type != "INT8":
            np.testing.assert_allclose(held, wanted, rtol=1e-5, atol=1e-6)
            continue
        integers += 1
        # Byte for byte, but where the exact value is half way between two.
        tie = np.abs(np.abs(wanted - np.rint(wanted)) - 0.5) < 1e-3
        np.testing.assert_array_equal(held[~tie], np.rint(wanted)[~tie])
        assert np.abs(held - wanted).max() <= 0.501
        assert tie.mean() < 0.02
    assert integers == (2 if quantization == "dynamic" else len(kernels))


@pytest.mark.parametrize("quantization", ["int8", "float16", "float32", "dynamic"])
def test_only_the_lost_weights_bytes_change_and_become_zero_bytes(quantization):
    patcher, model = export_models.patchable(quantization), export_models.model()
    faults = export_models.chip().faults(model)
    patched = patcher.patch(faults)
    base = np.frombuffer(patcher.tflite, np.uint8)
    changed = np.frombuffer(patched, np.uint8) != base
    for name, (place,) in patcher.places.items():
        lost = faults[name].mask.transpose(ORDERS[name]).ravel() == 0
        size = place.tensor.dtype.itemsize
        span = slice(place.tensor.offset, place.tensor.offset + place.tensor.size)
        stored = np.frombuffer(patched, np.uint8)[span].reshape(-1, size)
        assert not stored[lost].any()
        np.testing.assert_array_equal(stored[~lost], base[span].reshape(-1, size)[~lost])
        changed[span] = False
    assert not changed.any()


def test_float16_follows_keras():
    model, chip = export_models.model(), export_models.chip()
    images = export_models.images()
    patched = export_models.patchable("float16").patch(chip.faults(model))
    with chip.program(model):
        expected = model.predict_on_batch(images)
    outputs = LiteRTModel(patched).predict(images)
    np.testing.assert_allclose(outputs, expected, atol=5e-3 * np.abs(expected).max())


def test_no_fault_is_the_base_and_the_base_is_never_touched():
    patcher = export_models.patchable("int8")
    before = bytes(patcher.tflite)
    assert patcher.patch({}) == before
    patcher.patch(export_models.chip().faults(export_models.model()))
    assert patcher.tflite == before


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["int8", "float32", "float16"]))
def test_check_accepts_what_patch_writes(seed, quantization):
    patcher, faults = export_models.patchable(quantization), random_faults(seed)
    patched = patcher.patch(faults)
    patcher.check(patched, faults)


def test_stuck_values_report_saturation_and_rounding():
    patcher = export_models.patchable("int8")
    kernel = kernels_of(export_models.model())["head/kernel"].values
    step = np.abs(kernel).max(axis=0) / 127
    mask, offset = np.ones_like(kernel), np.zeros_like(kernel)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = 0
    offset[0, 0] = 10 * step[0]  # held exactly
    offset[1, 1] = -1000 * step[1]  # saturates
    offset[2, 2] = 20.25 * step[2]
    faults = {"head/kernel": Fault(mask, offset)}
    place = patcher.places["head/kernel"][0]
    held = place.restore(place.view(patcher.patch(faults)))
    assert [held[i, i] for i in range(3)] == [10, -127, 20]
    report = patcher.stuck_values(faults)
    assert (report.count, report.saturated) == (3, 1)
    errors = np.array([0, (1000 - 127) * step[1], 0.25 * step[2]])
    np.testing.assert_allclose(report.mean_error, errors.mean(), rtol=1e-4)
    np.testing.assert_allclose(report.max_error, errors.max(), rtol=1e-4)
    assert patcher.stuck_values({"head/kernel": Fault(mask)}).count == 0


def test_rescaled_chips_follow_keras_in_float_and_do_not_saturate_in_int8():
    model, chip = rescaling_model(), Chip(StuckAtZero(0.5), seed=1)
    images = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    assert chip_gains([chip], model) == {"scaled/kernel": 2.0}
    with chip.program(model):
        expected = model.predict_on_batch(images)
    for quantization, calibration, chips, tolerance in (
        ("float32", None, [], 1e-6),
        ("float32", None, [chip], 1e-6),
        ("int8", images, [chip], 0.02),
    ):
        patcher = PatchableModel.convert(model, quantization, calibration, chips=chips)
        assert patcher.gains == ({"scaled/kernel": 2.0} if chips else {})
        outputs = LiteRTModel(patcher.patch(chip.faults(model))).predict(images)
        assert np.abs(outputs - expected).max() <= tolerance * np.abs(expected).max()
        healthy = LiteRTModel(patcher.patch({})).predict(images)
        reference = model.predict_on_batch(images)
        assert np.abs(healthy - reference).max() <= 2 * tolerance * np.abs(reference).max()
    assert isinstance(model.get_layer("scaled").drop_connect, DropConnect)


def test_calibration_on_chips_takes_their_ranges():
    model = rescaling_model()
    images = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    alone = PatchableModel.convert(model, "int8", images).tflite
    chips = [Chip(StuckAtZero(0.3), index=index) for index in range(3)]
    joined = PatchableModel.convert(model, "int8", images, calibration_chips=chips).tflite

    def output_step(tflite):
        graph = parse(tflite)
        return graph.tensors[graph.outputs[0]].scales[0]

    assert output_step(joined) > output_step(alone)
    with pytest.raises(ValueError, match="calibration_chips"):
        PatchableModel.convert(model, "float32", calibration_chips=chips)


def test_faults_of_another_model_are_refused():
    patcher = export_models.patchable("float32")
    with pytest.raises(ValueError, match="'elsewhere/kernel'.*another model"):
        patcher.patch({"elsewhere/kernel": Fault(np.ones((3, 3), np.float32))})
    with pytest.raises(ValueError, match=r"\(16, 10\).*another model"):
        patcher.patch({"head/kernel": Fault(np.ones((10, 16), np.float32))})


def test_a_value_in_a_channel_of_zeros_cannot_be_stored():
    model = rescaling_model()
    kernel = np.array(model.get_layer("unscaled").kernels["kernel"])
    kernel[:, 1] = 0
    model.get_layer("unscaled").kernels["kernel"].assign(kernel)
    patcher = PatchableModel.convert(model, "float32")
    mask, offset = np.ones_like(kernel), np.zeros_like(kernel)
    mask[0, 1] = 0
    patcher.patch({"unscaled/kernel": Fault(mask, offset)})
    offset[0, 1] = 0.5
    with pytest.raises(UnmappableError, match="'unscaled'.*unknown"):
        patcher.patch({"unscaled/kernel": Fault(mask, offset)})
