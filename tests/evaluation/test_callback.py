"""Tests of `PopulationAccuracy`: its values are those of the chips, and reach who reads logs."""

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero
from keras_rram.evaluation import PopulationAccuracy
from keras_rram.evaluation.statistics.two_way import chip_interval
from keras_rram.layers import DropConnectDense
from tests.classifiers import classifier, digits, right_answers, training_digits
from tests.helpers import to_numpy

IMAGES, LABELS = digits(100)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    model = classifier()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    follow = PopulationAccuracy(
        IMAGES, LABELS, "stuck_at_zero:rate=0.2", chips=3, required=0.7, every=2, seed=5
    )
    callbacks = [follow]
    if keras.backend.backend() == "tensorflow":
        callbacks.append(keras.callbacks.TensorBoard(folder, write_graph=False))
    images, labels = training_digits(64)
    history = model.fit(images, labels, epochs=4, verbose=0, callbacks=callbacks).history
    return model, history, folder


def test_the_figures_are_those_of_the_population(trained):
    model, history, _ = trained
    chips = [Chip(StuckAtZero(0.2), 5, k, stream="validation") for k in range(3)]
    right = np.array([right_answers(model, chip, IMAGES, LABELS).sum() for chip in chips])
    assert len(history["val_population_accuracy"]) == 2  # of four epochs
    last = {name: values[-1] for name, values in history.items()}
    assert last["val_population_accuracy"] == pytest.approx(right.mean() / 100)
    assert last["val_population_worst"] == right.min() / 100
    assert last["val_population_yield"] == np.mean(right >= 70)
    found = chip_interval(right, np.full(3, 100), images="test_set")
    assert last["val_population_accuracy_low"] == found.low
    assert last["val_population_accuracy_high"] == found.high
    assert (to_numpy(model.get_layer("head").fault_masks["kernel"]) == 1).all()


def test_a_sigmoid_answers_yes_or_no():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(40, 5)).astype("float32"), rng.integers(0, 2, 40)
    inputs = keras.Input((5,))
    head = DropConnectDense(1, activation="sigmoid", drop_connect=0.1, name="head")
    model = keras.Model(inputs, head(inputs))
    follow = PopulationAccuracy(x, labels, "stuck_at_zero:rate=0.2", chips=3, seed=5)
    follow.set_model(model)
    logs = {}
    follow.on_epoch_end(0, logs)
    shares = []
    for index in range(3):
        with Chip(StuckAtZero(0.2), 5, index, stream="validation").program(model):
            outputs = to_numpy(model(x))
        shares.append(np.mean((outputs[:, 0] > 0.5) == labels))
    assert logs["val_population_accuracy"] == pytest.approx(np.mean(shares))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorBoard's callback")
def test_tensorboard_shows_them(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, history, folder = trained
    events = EventAccumulator(str(folder / "validation"), size_guidance={"tensors": 0})
    events.Reload()
    tag = "epoch_population_accuracy"
    assert tag in events.Tags()["tensors"]
    values = [float(np.frombuffer(one.tensor_proto.tensor_content, "<f4")[0])
              for one in events.Tensors(tag)]  # fmt: skip
    np.testing.assert_allclose(values, history["val_population_accuracy"], rtol=1e-6)


def fit(model, *callbacks):
    """Trains for two epochs, followed on chips; returns the curve of the mean."""
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    follow = PopulationAccuracy(IMAGES, LABELS, "stuck_at_zero:rate=0.2", chips=2, seed=5)
    options = {"epochs": 2, "verbose": 0, "callbacks": [follow, *callbacks]}
    return model.fit(*training_digits(64), **options).history["val_population_accuracy"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="mlflow.tensorflow")
def test_mlflow_records_them(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    mlflow.set_experiment("chips")
    mlflow.tensorflow.autolog(log_models=False)
    try:
        with mlflow.start_run() as run:
            expected = fit(classifier())
    finally:
        mlflow.tensorflow.autolog(disable=True)
    client = mlflow.MlflowClient()
    curve = client.get_metric_history(run.info.run_id, "val_population_accuracy")
    assert [each.value for each in curve] == expected


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_records_them(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    keras_callbacks = pytest.importorskip("wandb.integration.keras")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=tmp_path) as run:
        expected = fit(classifier(), keras_callbacks.WandbMetricsLogger())
        assert run.summary["epoch/val_population_accuracy"] == expected[-1]


def test_what_does_not_fit_is_an_error():
    faults = StuckAtZero(0.1)
    for options, message in (
        ({"every": 0}, "`every` must be"),
        ({"required": 90}, "`required` must be"),
        ({"chips": 0}, "`count` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            PopulationAccuracy(IMAGES, LABELS, faults, **options)
    with pytest.raises(ValueError, match="must be 99 integers"):
        PopulationAccuracy(IMAGES[:99], LABELS, faults)
    plain = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="no Drop-Connect layer"):
        PopulationAccuracy(IMAGES, LABELS, faults).set_model(plain)
