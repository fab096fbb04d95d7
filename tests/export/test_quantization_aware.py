import itertools
import json
import os

import keras
import numpy as np
import pytest
from absl import flags

from keras_rram import Chip, StuckAtZero, data, faults, faulty_layers, layers
from keras_rram.export import ExportError, LiteRTModel, PatchableModel, convert
from keras_rram.export.flatbuffer import parse
from keras_rram.export.kernels import kernels_of
from keras_rram.export.quantization_aware import (
    _DropConnectQuantizer,
    quantization_aware_train,
)
from keras_rram.export.tf_keras_twin import legacy_keras, tf_keras_twin
from keras_rram.models import mini_mobilenet, resnet20
from tests import export_models
from tests.classifiers import keras_accuracy
from tests.run_tools import load_tool, run_main


def small_model(rate=0.2):
    keras.utils.set_random_seed(3)
    model = mini_mobilenet(1, drop_connect=rate, expansion=2, input_shape=(12, 12, 1), classes=4)
    return export_models.set_batch_norm(model)


def batch(count=64):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, count)
    images = rng.normal(scale=0.3, size=(count, 12, 12, 1)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 3] += 1.5
    return images, labels


@pytest.fixture(scope="module")
def model():
    """Trained a little: statistics of batch normalization that fit."""
    model = small_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(*batch(), batch_size=32, epochs=15, shuffle=False, verbose=0)
    return model


@pytest.fixture(scope="module")
def result(model):
    return quantization_aware_train(model, *batch(), epochs=3, batch_size=16, learning_rate=1e-3)


def builders():
    yield small_model()
    yield resnet20(replaced=(7,), drop_connect=0.1, width=4)
    yield resnet20(shortcut="projection", width=4)
    yield keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.DropConnectConv2D(4, 3, groups=2, activation="relu", drop_connect=0.1),
            keras.layers.Flatten(),
            layers.DropConnectDense(3, drop_connect=0.1),
        ]
    )


@pytest.mark.parametrize("number", range(4))
def test_the_twin_has_equal_outputs(number):
    model = list(builders())[number]
    if number in (1, 2):
        export_models.set_batch_norm(model)
    images = np.random.default_rng(1).normal(size=(3, *model.input_shape[1:])).astype(np.float32)
    expected = model.predict_on_batch(images)
    if faulty_layers(model):
        Chip(StuckAtZero(0.5)).program(model)  # the twin is of the trained weights
    with legacy_keras():
        twin = tf_keras_twin(model)
    assert type(twin).__module__.startswith("tf_keras")
    outputs = twin.predict_on_batch(images)
    np.testing.assert_allclose(outputs, expected, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.slow
def test_the_file_is_full_int8_and_holds_what_was_learned(model, result):
    assert len(result.losses) == len(result.accuracies) == 3
    assert result.losses[-1] < 1.5 * result.losses[0]
    assert result.accuracies[-1] > 0.5
    graph = parse(result.tflite)
    ends = [graph.tensors[number].type for number in (*graph.inputs, *graph.outputs)]
    assert ends == ["INT8", "INT8"]
    names = {operator.name for operator in graph.operators}
    assert names == {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN"}
    images, _ = batch()
    expected = result.model.predict_on_batch(images)
    outputs = LiteRTModel(result.tflite).predict(images)
    assert np.mean(outputs.argmax(-1) == expected.argmax(-1)) >= 0.95
    assert np.abs(outputs - expected).max() < 0.1 * np.abs(expected).max()
    assert list(faulty_layers(result.model)) == list(faulty_layers(model))
    for new, old in zip(result.model.weights, model.weights, strict=True):
        changed = not np.array_equal(new, old)
        assert changed == (not new.name.endswith(("mask", "drop_rate"))), new.path


@pytest.mark.slow
def test_chips_are_patched_into_its_file(model, result):
    patcher = PatchableModel(result.model, result.tflite)
    assert set(patcher.places) == set(kernels_of(model))
    chip = Chip(StuckAtZero(0.3), seed=2)
    faults = chip.faults(result.model)
    tflite = patcher.patch(faults)
    patcher.check(tflite, faults)
    for name, fault in faults.items():
        (place,) = patcher.places[name]
        held = place.restore(place.view(tflite))
        assert not held[fault.mask == 0].any()
    images, _ = batch()
    with chip.program(result.model):
        expected = result.model.predict_on_batch(images)
    outputs = LiteRTModel(tflite).predict(images)
    assert np.mean(outputs.argmax(-1) == expected.argmax(-1)) >= 0.85


def test_the_given_model_and_the_process_stay_as_they_were():
    model = tiny_model()
    before = model.get_weights()
    quantization_aware_train(model, *batch(16), batch_size=16, learning_rate=1e-2)
    for new, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert len(convert(model, "int8", batch()[0])) > 1000


def tiny_model(rate=0.3, units=4, activation=None):
    keras.utils.set_random_seed(4)
    inputs = keras.Input((12, 12, 1))
    x = layers.DropConnectConv2D(2, 3, strides=3, activation="relu", drop_connect=rate)(inputs)
    x = keras.layers.Flatten()(x)
    return keras.Model(
        inputs, layers.DropConnectDense(units, activation=activation, drop_connect=rate)(x)
    )


def with_softmax():
    model = tiny_model(0.0)
    return keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]))


@pytest.mark.parametrize(
    "model",
    [tiny_model(0.0), tiny_model(0.0, 4, "softmax"), with_softmax(), tiny_model(0.0, 1, "sigmoid")],
    ids=["logits", "softmax", "softmax layer", "sigmoid"],
)
def test_the_loss_is_that_of_the_models_own_outputs(model):
    """By NumPy, of the model before training; what differs is the rounding."""
    images, labels = batch()
    units = model.output_shape[-1]
    labels = labels % max(units, 2)
    found = model.predict(images, verbose=0).astype(np.float64)
    if getattr(model.layers[-1], "activation", None) is keras.activations.linear:
        found = np.exp(found) / np.exp(found).sum(1, keepdims=True)
    found = np.concatenate([1 - found, found], axis=1) if units == 1 else found
    expected = -np.log(found[np.arange(len(labels)), labels]).mean()
    result = quantization_aware_train(
        model, images, labels, batch_size=len(labels), learning_rate=1e-12
    )
    assert result.losses == (pytest.approx(expected, abs=0.005),)
    assert result.accuracies == (np.mean(found.argmax(1) == labels),)
    outputs = LiteRTModel(result.tflite).predict(images)
    np.testing.assert_allclose(
        outputs, model.predict(images, verbose=0), atol=0.02 if units == 1 else 0.05
    )


def test_the_longer_training_in_float_has_the_loss_of_the_models_head(monkeypatch):
    tool = load_tool("quantize")
    flags.FLAGS(["quantize", "--calibration_chips=0"])
    monkeypatch.setattr(PatchableModel, "convert", lambda *_: None)
    files = tool._files(tiny_model(activation="softmax"), None, *batch(16))
    longer = [model for _, model, _ in itertools.islice(files, 3)][-1]
    assert longer.loss.get_config()["from_logits"] is False


@pytest.mark.slow
def test_a_seed_repeats_the_training():
    images, labels = batch(32)
    model = tiny_model()
    first, second, other = (
        quantization_aware_train(model, images, labels, batch_size=16, seed=seed).losses
        for seed in (1, 1, 2)
    )
    np.testing.assert_allclose(first, second, rtol=1e-5)
    assert abs(first[0] - other[0]) > 1e-6


def test_dropped_weights_get_no_gradient_and_masks_are_fresh():
    import tensorflow as tf

    def rounded(inputs, training, weights):
        return inputs + tf.stop_gradient(tf.round(inputs) - inputs)

    kernel = tf.Variable(tf.random.stateless_uniform((40, 50), (1, 2), 1, 2))
    quantizer = _DropConnectQuantizer(rounded, 0.3, False, seed=5)
    masks = []
    for _ in range(2):
        with tf.GradientTape() as tape:
            outputs = quantizer(kernel, True, {})
            loss = tf.reduce_sum(outputs)
        gradient = tape.gradient(loss, kernel).numpy()
        dropped = outputs.numpy() == 0
        assert abs(dropped.mean() - 0.3) < 0.05
        np.testing.assert_array_equal(gradient, np.where(dropped, 0.0, 1.0))
        masks.append(dropped)
    assert not np.array_equal(*masks)
    np.testing.assert_array_equal(quantizer(kernel, False, {}), np.round(kernel))
    scaled = _DropConnectQuantizer(rounded, 0.5, True, seed=5)(kernel, True, {}).numpy()
    assert set(np.unique(scaled)) <= {0.0, 2.0, 4.0}


def test_drop_connect_reaches_the_layers_that_have_it(monkeypatch):
    from keras_rram.export import quantization_aware

    seen = []
    model = tiny_model()
    monkeypatch.setattr(
        quantization_aware,
        "_add_drop_connect",
        lambda wrapper, rate, *rest: seen.append((wrapper.layer.name, rate)),
    )
    images, labels = batch(16)
    quantization_aware_train(model, images, labels, batch_size=16)
    assert [name for name, _ in seen] == list(faulty_layers(model))
    assert all(abs(rate - 0.3) < 1e-6 for _, rate in seen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(3, int)}, "64 integers"),
        ({"labels": np.zeros(64)}, "64 integers"),
        ({"labels": np.full(64, 4)}, "from 0 to 3"),
        ({"images": np.zeros((64, 5, 5, 1), np.float32)}, "12, 12, 1"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"drop_rate": 1.0}, "drop_rate"),
    ],
)
def test_bad_arguments_are_refused(model, change, message):
    images, labels = batch()
    with pytest.raises(ValueError, match=message):
        quantization_aware_train(model, **{"images": images, "labels": labels, **change})


def test_networks_without_a_twin_are_refused():
    inputs = keras.Input((4, 4, 1))
    with legacy_keras():
        with pytest.raises(ValueError, match="'odd'.*Cropping2D"):
            tf_keras_twin(keras.Model(inputs, keras.layers.Cropping2D(name="odd")(inputs)))
        twice = keras.layers.ReLU(name="twice")
        with pytest.raises(ValueError, match="'twice' is called more than once"):
            tf_keras_twin(keras.Model(inputs, twice(twice(inputs))))
        shape = keras.layers.Activation(lambda x: x * 2, name="own")
        with pytest.raises(ValueError, match="'own'"):
            tf_keras_twin(keras.Model(inputs, shape(inputs)))


def test_another_backend_is_refused(model, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ExportError, match="KERAS_BACKEND=tensorflow"):
        quantization_aware_train(model, *batch())


@pytest.mark.slow
def test_the_tool_compares_the_files(tmp_path, capsys):
    images, labels = batch(64)
    levels = np.clip(images * 60 + 100, 0, 255).astype(np.uint8)
    np.savez(
        tmp_path / "data.npz",
        x_train=levels,
        y_train=labels,
        x_test=levels,
        y_test=labels,
    )
    tiny_model().save(tmp_path / "model.keras")
    folder = tmp_path / "out"
    run_main(
        "quantize",
        f"--model={tmp_path}/model.keras",
        f"--data={tmp_path}/data.npz",
        "--normalize=standard",
        "--chips=3",
        "--calibration_chips=2",
        "--fault_model=differential_pair:stuck_off=0.05,stuck_on=0.01",
        "--fault_rate=0.1",
        f"--out={folder}",
    )
    report = json.loads((folder / "quantize.json").read_text())
    swept = faults.parse(report["fault_model"])
    assert (swept.rate, report["fault_rate"]) == (0.1, 0.1)
    assert swept.stuck_off == pytest.approx(5 * swept.stuck_on)
    assert [row["file"] for row in report["rows"]] == [
        "float32",
        "int8, post-training",
        "int8, calibrated on 2 chips",
        "int8, trained on in float",
        "int8, quantization-aware",
    ]
    assert all(0 <= row["worst"] <= row["mean"] <= 1 for row in report["rows"])
    normalized = data.load(f"{tmp_path}/data.npz", normalize="standard").arrays("test")
    healthy = keras_accuracy(tmp_path / "model.keras", *normalized)
    assert report["rows"][0]["fault_free"] == healthy
    accuracies = {name: np.array(found) for name, found in report["accuracies"].items()}
    for row in report["rows"]:
        gains = accuracies[row["file"]] - accuracies["int8, post-training"]
        assert row["gain"] == pytest.approx(gains.mean())
        assert row["gain_high"] - row["gain"] == pytest.approx(
            4.302653 * gains.std(ddof=1) / 3**0.5  # Student's t, 2 degrees of freedom
        )
    assert (folder / "quantize.png").stat().st_size < 150_000
    held = keras.models.load_model(folder / "model.keras")
    assert PatchableModel(held, (folder / "base.tflite").read_bytes()).unmappable is None
    assert "quantization-aware" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fault_model=row_fault"], "did you mean 'row_faults'"),
        (["--model=nowhere.keras"], "no such file"),
    ],
)
def test_bad_input_of_the_tool_leaves_nothing(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_main("quantize", f"--out={tmp_path}/out", *arguments)
    assert not (tmp_path / "out").exists()
