"""Files of repaired chips: what Keras computes, what a fresh conversion holds, byte by byte."""

import functools
import itertools
import json

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, layers, population, recalibrate_batch_norm
from keras_rram.export import (
    ExportError,
    LiteRTModel,
    PatchableModel,
    Thresholds,
    UnmappableError,
    compare,
    convert,
    export_population,
    export_tflite,
    read_sidecar,
)
from keras_rram.export.flatbuffer import parse
from keras_rram.export.kernel_places import bias_tensors, weight_tensors
from keras_rram.export.repairable import RepairableModel, quantize_on_repaired
from keras_rram.repair import (
    BatchNormRecalibration,
    LeastSquares,
    MapCorrection,
    Remapping,
    Retraining,
)
from tests.repair import networks

IMAGES = networks.images(200, seed=3)
RECALIBRATION = BatchNormRecalibration(IMAGES[:100])


@functools.cache
def model():
    return networks.settled(networks.network())


@functools.cache
def repairable(quantization):
    if quantization == "int8":
        chips = [chip(), chip(1)]
        base = quantize_on_repaired(model(), IMAGES, chips, RECALIBRATION, {})
        with RECALIBRATION(model(), None):
            patchable = PatchableModel(model(), base)
            return RepairableModel(model(), patchable, IMAGES[:1]), patchable
    else:
        calibration = IMAGES if quantization == "int16x8" else None
        patchable = PatchableModel.convert(model(), quantization, calibration)
    return RepairableModel(model(), patchable, IMAGES[:1]), patchable


def chip(index=0, rate=0.2):
    return Chip(StuckAtZero(rate), seed=1, index=index)


REPAIRS = {
    "batch_norm": RECALIBRATION,
    "map": MapCorrection(),
    "least_squares": LeastSquares(IMAGES[:50]),
    "remap": Remapping(rounds=1).then(RECALIBRATION),
}


@pytest.mark.parametrize(
    ("quantization", "name"),
    [
        *itertools.product(["float32"], REPAIRS),
        # Its ranges are those of recalibrated chips, which the map's prediction leaves.
        *itertools.product(["int8"], ["batch_norm", "least_squares", "remap"]),
        *itertools.product(("float16", "dynamic", "int16x8"), ["batch_norm"]),
    ],
)
def test_a_patched_file_is_the_repaired_model(quantization, name):
    one, patchable = repairable(quantization)
    with chip().program(model()), REPAIRS[name](model(), chip()):
        tflite = one.patch()
        one.check(tflite)
        found = compare(model(), tflite, IMAGES)
        unrepaired = compare(model(), patchable.patch(chip().faults(model())), IMAGES)
    allowed = {"float32": 1e-5, "float16": 4e-3, "dynamic": 2e-2, "int8": 0.1, "int16x8": 0.05}
    assert found.max_difference <= allowed[quantization]
    assert unrepaired.max_difference > 2 * found.max_difference  # the repair did something


@pytest.mark.parametrize("name", ["batch_norm", "least_squares"])
def test_what_an_int8_file_stands_for_is_what_a_fresh_conversion_holds(name):
    """The oracle is the converter: weights and biases times their steps, tensor by tensor."""
    with chip().program(model()), REPAIRS[name](model(), chip()):
        tflite = repairable("int8")[0].patch()
        fresh = convert(model(), "float32")
    for tensors in (lambda graph: [each for each, _ in weight_tensors(graph)], _biases):
        held, wanted = tensors(parse(tflite)), tensors(parse(fresh))
        assert len(held) == len(wanted) == 4
        for one, other in zip(held, wanted, strict=True):
            steps = np.expand_dims(
                one.scales, [axis for axis in range(len(one.shape)) if axis != one.axis]
            )
            error = np.abs(one.read(tflite) * steps - other.read(fresh).reshape(one.shape))
            assert (error <= 0.51 * steps).all(), one.name


def _biases(graph):
    order = [operator.inputs[2] for operator in graph.operators if operator.name in
             ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]  # fmt: skip
    assert {each.index for each in bias_tensors(graph)} == set(order)
    return [graph.tensors[number] for number in order]


def test_recalibration_leaves_every_int8_weight_what_the_chip_holds():
    one, patchable = repairable("int8")
    plain = patchable.patch(chip().faults(model()))
    with chip().program(model()), RECALIBRATION(model(), chip()):
        assert not one.wrote_weights
        repaired = one.patch()
    assert repaired != plain
    for place in (places[0] for places in patchable.places.values()):
        np.testing.assert_array_equal(place.view(repaired), place.view(plain))
    with RECALIBRATION(model(), None):
        assert bytes(one.patch()) == patchable.tflite


@pytest.mark.parametrize("quantization", ["float32", "int8", "float16"])
def test_the_map_is_read_back_from_a_repaired_file(quantization):
    one, patchable = repairable(quantization)
    faults = chip().faults(model())
    with chip().program(model()), RECALIBRATION(model(), chip()):
        tflite = one.patch()
    for name, fault in patchable.faults_in(tflite).items():
        place = patchable.places[name][0]
        invisible = place.restore(place.view(patchable.tflite)) == 0
        assert fault.offset is None
        np.testing.assert_array_equal(fault.mask, np.where(invisible, 1, faults[name].mask))
    with chip().program(model()), REPAIRS["least_squares"](model(), chip()):
        assert one.wrote_weights
        tflite = one.patch()
    with pytest.raises(ExportError, match="wrote new ones"):
        patchable.faults_in(tflite)


def test_a_wrong_byte_of_any_kind_is_found():
    for quantization in ("float32", "int8"):
        one, _ = repairable(quantization)
        with chip().program(model()), RECALIBRATION(model(), chip()):
            right = one.patch()
            graph = parse(right)
            weights, biases = weight_tensors(graph)[1][0], bias_tensors(graph)[0]
            places = [weights.offset + 3, biases.offset + 3, 40]
            places += [weights.scales_offset + 3] if quantization == "int8" else []
            for place in places:
                wrong = bytearray(right)
                wrong[place] ^= 0x55
                with pytest.raises((ExportError, ValueError)):
                    one.check(wrong)


def test_what_has_no_place_is_refused_by_name():
    """A batch normalization behind a sum is no part of a layer's weights."""
    inputs = keras.Input((7, 7, 2))
    x = layers.DropConnectConv2D(3, 3, padding="same", drop_connect=0.1, name="conv")(inputs)
    x = keras.layers.Add()([x, keras.layers.ReLU()(x)])
    x = keras.layers.BatchNormalization(name="alone")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    network = keras.Model(inputs, layers.DropConnectDense(3, drop_connect=0.1, name="head")(x))
    one = RepairableModel(network, PatchableModel.convert(network, "float32"), IMAGES[:1])
    one.patch()
    with (
        recalibrate_batch_norm(network, IMAGES),
        pytest.raises(UnmappableError, match="alone.*not known"),
    ):
        one.patch()


def test_a_folder_of_repaired_chips_resumes_and_says_what_was_done(tmp_path):
    images, labels = IMAGES, model().predict_on_batch(IMAGES).argmax(-1)
    chips = population(StuckAtZero(0.2), 3, seed=2)
    options = {
        "calibration": IMAGES,
        "calibration_chips": [chip(5)],
        "images": images,
        "labels": labels,
        "repair": RECALIBRATION,
        "thresholds": Thresholds(agreement=0.9, accuracy=0.1),
    }
    first = export_population(model(), tmp_path, chips[:2], "int8", **options)
    result = export_population(model(), tmp_path, chips, "int8", resume=True, **options)
    assert (first.written, result.written, result.kept, result.failed) == (2, 1, 2, ())
    for each in chips:
        path = tmp_path / f"chip_2_{each.index:05}.tflite"
        sidecar = read_sidecar(path)
        assert sidecar["method"] == "patched"
        assert sidecar["repair"]["repair"] == RECALIBRATION.fingerprint
        assert sidecar["repair"]["access_tier"] == "B"
        (data,) = sidecar["repair"]["data"]
        assert (data["repair"], data["array"], data["count"]) == ("batch_norm", "images", 100)
        with each.program(model()), RECALIBRATION(model(), each):
            expected = model().predict_on_batch(images).argmax(-1)
        same = LiteRTModel(path.read_bytes()).predict(images).argmax(-1) == expected
        assert same.mean() == sidecar["verification"]["agreement"] >= 0.9
    index = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert len(index) == 3
    with pytest.raises(ValueError, match="repair"):
        export_population(
            model(), tmp_path, chips, "int8", resume=True, **options | {"repair": None}
        )


def test_a_chip_that_cannot_be_patched_is_converted_as_it_was_repaired(tmp_path):
    """Retraining changes a head that is no longer one factor times its kernel in the file."""
    labels = model().predict_on_batch(IMAGES).argmax(-1)
    repair = Retraining(IMAGES, labels, steps=3, batch_size=16)
    inputs = keras.Input((7, 7, 2))
    x = layers.DropConnectConv2D(3, 3, drop_connect=0.1, name="conv")(inputs)
    x = keras.layers.LayerNormalization()(keras.layers.GlobalAveragePooling2D()(x))
    network = keras.Model(inputs, layers.DropConnectDense(3, drop_connect=0.1, name="head")(x))
    with pytest.warns(UserWarning, match="converted anew.*layer_normalization"):
        report = export_tflite(
            network, tmp_path / "c.tflite", chip(), "float32", images=IMAGES, repair=repair
        )
    assert report.method == "converted"
    assert report.verification.max_difference <= 1e-4
    assert len(report.source.repair["data"]) == 2
