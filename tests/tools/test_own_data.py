"""A plain Keras model that is not ours, on data that are not ours, through every tool."""

import json
import re
import shutil

import keras
import numpy as np
import pytest
from absl import flags

from keras_rram import StuckAtZero, bake, data, faulty_layers, to_drop_connect
from keras_rram.evaluation import evaluate_population
from tests.classifiers import classifier, right_answers
from tests.run_tools import ROOT, load_tool, run_in_turn, run_main

COUNT = 200


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A model that scales pixels itself, its data as bytes, and what `model.evaluate` says."""
    folder = tmp_path_factory.mktemp("foreign")
    digits = data.load("digits", normalize="none")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, strides=3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    model.fit(digits.train_images, digits.train_labels, 32, epochs=2, verbose=0)
    model.save(folder / "model.keras")
    np.savez(
        folder / "mine.npz",
        x_train=digits.train_images,
        y_train=digits.train_labels,
        x_test=digits.test_images,
        y_test=digits.test_labels,
    )
    images, labels = digits.arrays("test", COUNT)
    assert images.dtype == np.uint8
    _, healthy = model.evaluate(images, labels, verbose=0)
    assert healthy > 0.8
    return folder, round(healthy * COUNT) / COUNT


@pytest.mark.slow
def test_healthy_accuracy_in_every_tool_is_that_of_keras(foreign, tmp_path, capsys):
    """Those of place, quantize, demo and `reproduce --benchmark` are held in their own tests.

    Train says what chips have, and search_networks keeps none of the networks that it trains: there
    is nothing to hold.
    """
    folder, healthy = foreign
    common = [f"--model={folder}/model.keras", "--convert", f"--data={folder}/mine.npz"]
    common.append(f"--images={COUNT}")
    few = ["--chips=2", "--fault_rate=0.1"]
    errors = run_in_turn(
        ["evaluate", *common, "--chips=2", f"--out={tmp_path}/evaluate"],
        ["evaluate", *common, "--chips=2", "--engine=keras", f"--out={tmp_path}/keras"],
        ["levels", *common, *few, "--bits=8", "--methods=uniform", "--quantizations=float32",
         f"--out={tmp_path}/levels"],
        ["compare_faults", *common, "--chips=2", "--fault_rates=0.1",
         "--fault_model=row_faults", f"--out={tmp_path}/faults"],
        ["export_tflite", *common, *few, "--quantization=float32", f"--out={tmp_path}/export"],
        ["explain", *common, "--fault_rate=0.1", f"--out={tmp_path}/explain"],
        ["sensitivity", *common, "--chips=2", "--fault_rates=0.1", "--images_per_chip=0",
         "--estimate_images=0", f"--out={tmp_path}/sensitivity"],
        ["export_models", f"--files={folder}/model.keras:0:float32", f"--data={folder}/mine.npz",
         f"--images={COUNT}", f"--out={tmp_path}/models"],
    )  # fmt: skip
    assert errors == [""] * len(errors)
    printed = capsys.readouterr()
    line = f"Data: mine, {COUNT} test samples of shape (28, 28, 1), float32 from 0 to 255, mean 3"
    assert printed.out.count(line) == 7 and "(normalization: none)." in printed.out
    assert "WARNING" not in printed.err

    def read(name):
        return json.loads((tmp_path / name).read_text())

    found = [
        read("evaluate/results.json")["summary"][0]["fault_free"],
        read("keras/results.json")["summary"][0]["fault_free"],
        read("levels/levels.json")["rows"][0]["fault_free"],
        read("faults/fault_models.json")["rows"][0]["fault_free"],
        read("export/base.tflite.json")["verification"]["keras_accuracy"],
        read("export/base.tflite.json")["verification"]["accuracy"],
        read("explain/explanation.json")["steps"][0]["accuracy"],
        *(
            one["fault_free"]["estimate"]
            for one in read("sensitivity/sensitivity.json")["results"].values()
        ),
        *(one["verification"]["accuracy"] for one in read("models/index.json")["files"]),
    ]
    assert found == [healthy] * len(found)


@pytest.mark.slow
def test_the_wrong_preprocessing_is_a_loud_warning_that_names_it(foreign, tmp_path, capsys):
    folder, _ = foreign
    common = ["evaluate", f"--model={folder}/model.keras", "--convert", "--chips=2"]
    common += [f"--data={folder}/mine.npz", f"--images={COUNT}"]
    run_main(*common, "--normalize=standard", f"--out={tmp_path}/wrong")
    printed = capsys.readouterr()
    assert "(normalization: standard)" in printed.out
    shares = r"right on ([\d.]+)% of 200 samples, where always the same class is on ([\d.]+)%"
    right, guess = map(float, re.search(f"WARNING: .* {shares}", printed.err).groups())
    assert right < guess + 18 and guess < 15
    warning = printed.err[printed.err.index("WARNING") :]
    assert "Is the preprocessing that of the training?" in warning and "--normalize" in warning
    held = json.loads((tmp_path / "wrong" / "results.json").read_text())["summary"][0]
    assert held["fault_free"] == pytest.approx(right / 100)


@pytest.mark.parametrize("rate, normalization", [(0.3, True), (0.3, False), (0.0, True)])
def test_drops_are_named_where_statistics_may_be_those_of_masked_weights(
    rate, normalization, capsys
):
    layers = [keras.Input((4,)), keras.layers.Dense(8)]
    layers += [keras.layers.BatchNormalization()] if normalization else []
    model = to_drop_connect(keras.Sequential([*layers, keras.layers.Dense(10)]), rate)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(100, 4)).astype("float32"), np.arange(100) % 10
    load_tool("evaluate").inputs.warn_of_chance(model, images, labels)
    printed = capsys.readouterr().err
    named = "In training it drops up to 30% of a layer's weights"
    assert printed.startswith("WARNING: ") and "where always the same class is on 10.0%" in printed
    assert (named in printed) is (rate > 0 and normalization)
    assert "Is the preprocessing that of the training?" in printed and "--normalize" in printed


@pytest.mark.slow
def test_tokens_go_in_as_integers(tmp_path, capsys):
    """Sentences whose class is the token they have most: no image anywhere."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 3
    tokens = np.where(rng.random((400, 12)) < 0.5, labels[:, None], rng.integers(3, 20, (400, 12)))
    inputs = keras.Input((12,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 8)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(pooled))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
    model.fit(tokens[:300], labels[:300], 30, epochs=5, verbose=0)
    _, healthy = model.evaluate(tokens[300:], labels[300:], verbose=0)
    model.save(tmp_path / "model.keras")
    arrays = {"x_train": tokens[:300], "y_train": labels[:300], "x_test": tokens[300:]}
    np.savez(tmp_path / "words.npz", **arrays, y_test=labels[300:])
    run_main(
        "evaluate",
        f"--model={tmp_path}/model.keras",
        "--convert",
        f"--data={tmp_path}/words.npz",
        "--chips=3",
        f"--out={tmp_path}/run",
    )
    assert "Data: words, 100 test samples of shape (12,), int32 from 0" in capsys.readouterr().out
    held = json.loads((tmp_path / "run" / "results.json").read_text())["summary"][0]
    assert held["fault_free"] == pytest.approx(healthy) and healthy > 0.9


def test_tf_data_and_pydataset_are_the_arrays(foreign):
    import tensorflow as tf

    folder, healthy = foreign
    model = to_drop_connect(keras.models.load_model(folder / "model.keras"), 0.0)
    images, labels = data.load(f"{folder}/mine.npz").arrays("test", COUNT)
    pairs = tf.data.Dataset.from_tensor_slices((images, labels))

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return COUNT // 50

        def __getitem__(self, index):
            chosen = slice(50 * index, 50 * index + 50)
            return images[chosen], labels[chosen]

    results = [
        evaluate_population(model, StuckAtZero(0.1), given, chips=2, progress=False)
        for given in ((images, labels), pairs, pairs.batch(32), Batches())
    ]
    assert all(result.fault_free == healthy for result in results)
    assert len({result.data for result in results}) == 1
    assert all((one.accuracies == results[0].accuracies).all() for one in results)


def test_the_data_is_that_of_the_training_and_no_other(tmp_path):
    """A model of other data is not scored on the digits, unless they are the same images."""
    dataset = data.load("digits").subset(train=2000)
    arrays = {
        f"{kind}_{split}": getattr(dataset, f"{split}_{name}")
        for kind, name in (("x", "images"), ("y", "labels"))
        for split in ("train", "test")
    }
    np.savez(tmp_path / "mine.npz", **arrays)
    mine = data.load(str(tmp_path / "mine.npz"), normalize="mnist")
    model = tmp_path / "model.keras"
    classifier().save(model)
    record = {"source": str(tmp_path / "mine.npz"), "fingerprint": mine.fingerprint}
    record["normalization"] = mine.normalization.describe()
    (tmp_path / "config.json").write_text(json.dumps({"data": record, "scope": ["head"]}))
    quick = ["evaluate", f"--model={model}", "--images=50", "--chips=2"]
    shutil.copy(tmp_path / "mine.npz", tmp_path / "copy.npz")
    *errors, other, wrong = run_in_turn(
        [*quick, f"--out={tmp_path}/recorded"],
        [*quick, f"--out={tmp_path}/same", f"--data={tmp_path}/copy.npz"],
        [*quick, f"--out={tmp_path}/asked", "--data=digits", "--normalize=mnist"],
        [*quick, f"--out={tmp_path}/digits", "--data=digits"],
        [*quick, f"--out={tmp_path}/digits", "--normalize=none"],
    )
    assert not any(errors)
    assert "expected --normalize=mnist, which the model was trained with" in wrong
    found = [
        json.loads((tmp_path / name / "results.json").read_text())["summary"][0]
        for name in ("recorded", "same", "asked")
    ]
    right = right_answers(classifier(), None, *data.load("digits").arrays("test", 50)).mean()
    assert {summary["fault_free"] for summary in found} == {right} and right > 0.7
    assert f"expected --data={tmp_path}/mine.npz, which the model was trained on" in other
    assert "Received: --data=digits (MNIST's training digits)" in other
    assert not (tmp_path / "digits").exists()
    assert json.loads((tmp_path / "recorded" / "config.json").read_text())["data"] == "mine"
    # A plain model gets the roles that were trained.
    bake(classifier()).save(tmp_path / "plain.keras")
    tool = load_tool("evaluate")
    flags.FLAGS(["evaluate", f"--model={tmp_path}/plain.keras", "--convert"])
    assert list(faulty_layers(tool.inputs.faulty_model(flags.FLAGS.model))) == ["head"]
    # The study's runs name their data set alone.
    (tmp_path / "config.json").unlink()
    record = ROOT / "docs" / "reproduction" / "2B-strided-text-short" / "record.json"
    shutil.copy(record, tmp_path / "record.json")
    assert tool.inputs.Training.beside(model).data == "mnist"
    (error,) = run_in_turn([*quick, "--data=digits", f"--out={tmp_path}/digits"])
    assert "expected --data=mnist" in error
