"""Tests of `keras_rram.repair.batch_norm`."""

import pickle

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, layers
from keras_rram.faults import Fault
from keras_rram.layers.drop_connect import DropConnect
from keras_rram.models import mini_mobilenet
from keras_rram.repair.batch_norm import BatchNormRecalibration, recalibrate_batch_norm
from tests.helpers import tiny_images, to_numpy

FEATURES, CLASSES = 5, 3
EPSILON = 1e-3


def features(count=37, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(1.0, 2.0, size=(count, FEATURES)).astype("float32")


def dense_model(rate=0.4, bias=True):
    """Two batch normalizations, one behind the other, with random weights and statistics."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            layers.DropConnectDense(6, drop_connect=DropConnect(rate, seed=0), name="one"),
            keras.layers.BatchNormalization(epsilon=EPSILON, name="bn1"),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.5),
            layers.DropConnectDense(4, drop_connect=rate, use_bias=bias, name="two"),
            keras.layers.BatchNormalization(epsilon=EPSILON, scale=False, name="bn2"),
            layers.DropConnectDense(CLASSES, drop_connect=rate, name="head"),
        ]
    )
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    for name in ("bn1", "bn2"):
        model.get_layer(name).moving_variance.assign(rng.uniform(1, 2, size=(6, 4)[name == "bn2"]))
    return model


def statistics(model):
    return {
        layer.name: (to_numpy(layer.moving_mean), to_numpy(layer.moving_variance))
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    }


def oracle(model, chip, images, batches):
    """The statistics by NumPy: each batch goes through and is normalized by itself."""
    faults = chip.faults(model)

    def dense(x, name):
        layer = model.get_layer(name)
        bias = 0 if layer.bias is None else to_numpy(layer.bias)
        return x @ (to_numpy(layer.kernels["kernel"]) * faults[f"{name}/kernel"].mask) + bias

    into = {"bn1": [], "bn2": []}
    for x in np.array_split(np.float64(images), batches):
        y = dense(x, "one")
        into["bn1"].append(y)
        y = (y - y.mean(0)) / np.sqrt(y.var(0) + EPSILON)
        gamma, beta = map(to_numpy, model.get_layer("bn1").trainable_variables)
        into["bn2"].append(dense(np.maximum(y * gamma + beta, 0), "two"))
    pooled = {name: np.concatenate(parts) for name, parts in into.items()}
    return {name: (values.mean(0), values.var(0)) for name, values in pooled.items()}


def assert_close(found, expected):
    for name in expected:
        np.testing.assert_allclose(found[name][0], expected[name][0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[name][1], expected[name][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "batches"), [(256, 1), (37, 1), (36, 2), (10, 4)])
def test_statistics_are_those_of_the_chip(batch_size, batches):
    model, images = dense_model(), features()
    chip = Chip(StuckAtZero(0.3), seed=1)
    with chip.program(model), recalibrate_batch_norm(model, images, batch_size):
        found = statistics(model)
    assert_close(found, oracle(model, chip, images, batches))


def test_one_batch_is_normalized_in_inference_as_it_was():
    model, images = dense_model(), features()
    with recalibrate_batch_norm(model, images):
        outputs = to_numpy(model.layers[1](model.layers[0](images), training=False))
    gamma, beta = map(to_numpy, model.get_layer("bn1").trainable_variables)
    np.testing.assert_allclose(outputs.mean(0), beta, atol=1e-4)
    np.testing.assert_allclose(outputs.std(0), np.abs(gamma), rtol=1e-3)


def test_everything_is_restored_also_after_an_error():
    model = dense_model()
    before = [to_numpy(variable) for variable in model.variables]
    with pytest.raises(KeyError), recalibrate_batch_norm(model, features()):
        assert not np.allclose(to_numpy(model.get_layer("bn1").moving_mean), 0)
        raise KeyError
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)
    # The layers normalize by their statistics again in inference and by the batch in training.
    outputs = to_numpy(model(features(), training=False))
    few = to_numpy(model(features()[:5], training=False))
    np.testing.assert_allclose(outputs[:5], few, rtol=1e-4, atol=1e-5)


def test_only_the_statistics_change():
    model = dense_model()
    before = {id(v): to_numpy(v) for v in model.variables}
    recalibrate_batch_norm(model, features())
    changed = [v.name for v in model.variables if not np.array_equal(to_numpy(v), before[id(v)])]
    assert changed == ["moving_mean", "moving_variance"] * 2


@pytest.mark.parametrize("keep", [False, True])
def test_statistics_can_be_kept(keep):
    model = dense_model()
    before = statistics(model)
    with recalibrate_batch_norm(model, features(), keep=keep):
        inside = statistics(model)
    assert_close(statistics(model), inside if keep else before)


def test_a_shared_layer_pools_its_calls():
    inputs = keras.Input((FEATURES,))
    shared = keras.layers.BatchNormalization(name="bn")
    outputs = shared(keras.layers.Rescaling(3.0, offset=1.0)(shared(inputs)))
    model, images = keras.Model(inputs, outputs), features()
    recalibrate_batch_norm(model, images)
    mean, deviation = images.mean(0), np.sqrt(images.var(0) + EPSILON)
    both = np.concatenate([images, 3 * (images - mean) / deviation + 1])
    assert_close(statistics(model), {"bn": (both.mean(0), both.var(0))})


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = dense_model()
        self.norm = keras.layers.BatchNormalization(trainable=False, name="last")

    def call(self, inputs, training=None):
        return self.norm(self.inner(inputs, training=training), training=training)


def test_nested_and_subclassed_models_and_frozen_layers():
    model, images = Subclassed(), features()
    model(images)
    chip = Chip(StuckAtZero(0.2), seed=3)
    with chip.program(model), recalibrate_batch_norm(model, images):
        found = statistics(model)
    expected = oracle(model.inner, chip, images, 1)
    assert_close(found, expected)
    assert np.abs(found["last"][0]).max() > 0.01


def test_a_compiled_repair_follows_the_chips_and_their_offsets():
    model, images = dense_model(), features()
    repair = BatchNormRecalibration(images, batch_size=20)
    for index in range(3):
        chip = Chip(StuckAtZero(0.3), seed=1, index=index)
        with chip.program(model), repair(model, chip.faults(model)):
            assert_close(statistics(model), oracle(model, chip, images, 2))
    kernel = model.get_layer("one").kernels["kernel"]
    stuck = Fault(np.zeros(kernel.shape, "float32"), np.full(kernel.shape, 0.5, "float32"))
    with Chip(measured={"one/kernel": stuck}).program(model), repair(model, {}):
        expected = images.sum(1) * 0.5 + to_numpy(model.get_layer("one").bias)[0]
        np.testing.assert_allclose(
            to_numpy(model.get_layer("bn1").moving_mean)[0], expected.mean(), rtol=1e-4
        )
    other = dense_model(bias=False)
    with repair(other):
        assert not np.allclose(to_numpy(other.get_layer("bn1").moving_mean), 0)


def test_a_repair_is_known_by_its_images_and_can_be_sent_to_workers():
    repair = BatchNormRecalibration(features(), batch_size=20)
    with repair(dense_model()):
        pass
    copy = pickle.loads(pickle.dumps(repair))
    assert copy.fingerprint == repair.fingerprint
    np.testing.assert_array_equal(copy.images, repair.images)
    with copy(dense_model()):
        pass
    others = [
        BatchNormRecalibration(features(), batch_size=21),
        BatchNormRecalibration(features(seed=1), batch_size=20),
    ]
    assert len({repair.fingerprint, *(other.fingerprint for other in others)}) == 3


def nan_model():
    model = dense_model()
    model.get_layer("one").kernels["kernel"].assign(np.full((FEATURES, 6), np.nan))
    return model


def masked_model():
    inputs = keras.Input((4, FEATURES))
    return keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Masking()(inputs)))


@pytest.mark.parametrize(
    ("model", "images", "options", "message"),
    [
        (lambda: keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]), features(), {},
         "no batch normalization"),
        (dense_model, features()[:0], {}, "non-empty"),
        (dense_model, features()[:, :4], {}, r"\('n', 5\)"),
        (dense_model, features()[0], {}, r"\('n', 5\)"),
        (dense_model, features().astype("str"), {}, "must be numbers"),
        (dense_model, features(), {"batch_size": 0}, "batch_size"),
        (nan_model, features(), {}, "'bn1'.*not finite"),
        (dense_model, np.full((4, 5), np.inf, "float32"), {}, "must be finite"),
        (masked_model, np.ones((6, 4, 5), "float32"), {}, "mask"),
    ],
)  # fmt: skip
def test_errors(model, images, options, message):
    built = model()
    before = [to_numpy(variable) for variable in built.variables]
    with pytest.raises(ValueError, match=message):
        recalibrate_batch_norm(built, images, **options)
    for variable, value in zip(built.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)


def test_images_of_several_normalized_axes():
    images, _ = tiny_images(21)
    images = np.concatenate([images, 2 * images + 1], axis=-1)
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.BatchNormalization(name="last_axis")(inputs)
    model = keras.Model(inputs, keras.layers.BatchNormalization(axis=1, name="rows")(x))
    recalibrate_batch_norm(model, images)
    normalized = (images - images.mean((0, 1, 2))) / np.sqrt(images.var((0, 1, 2)) + EPSILON)
    expected = {
        "last_axis": (images.mean((0, 1, 2)), images.var((0, 1, 2))),
        "rows": (normalized.mean((0, 2, 3)), normalized.var((0, 2, 3))),
    }
    assert_close(statistics(model), expected)


@pytest.fixture(scope="module")
def digits():
    from keras_rram.data.sources import load

    return load("digits")


@pytest.fixture(scope="module")
def trained(digits):
    """A small network, trained on the offline digits with Drop-Connect at 30%."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("training takes minutes on this backend without a GPU")
    keras.utils.set_random_seed(0)
    model = mini_mobilenet(2, drop_connect=DropConnect(0.3, seed=0), scope="all", expansion=3)
    model.compile(
        keras.optimizers.Adam(5e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    images, labels = digits.arrays("train")
    model.fit(images, labels, batch_size=64, epochs=3, verbose=0)
    return model


def test_accuracy_is_recovered_on_chips(trained, digits):
    """Chips at the rate of training: the statistics of many masks are wrong for one."""
    images, labels = digits.arrays("test")
    repair = BatchNormRecalibration(digits.arrays("train")[0][:500])
    accuracies = {"as it is": [], "repaired": []}
    for index in range(4):
        with Chip(StuckAtZero(0.3), seed=0, index=index).program(trained):
            accuracies["as it is"].append(accuracy(trained, images, labels))
            with repair(trained):
                accuracies["repaired"].append(accuracy(trained, images, labels))
    means = {name: np.mean(values) for name, values in accuracies.items()}
    assert means["repaired"] > means["as it is"] + 0.15
    pairs = zip(accuracies["repaired"], accuracies["as it is"], strict=True)
    assert all(repaired > as_it_is for repaired, as_it_is in pairs)


def accuracy(model, images, labels):
    return np.mean(model.predict(images, batch_size=500, verbose=0).argmax(1) == labels)


def test_a_population_is_repaired_chip_by_chip(trained, digits):
    from keras_rram.evaluation.population import evaluate_population

    images, labels = (array[:300] for array in digits.arrays("test"))
    repair = BatchNormRecalibration(digits.arrays("train")[0][:300])
    result = evaluate_population(
        trained, StuckAtZero(0.3), (images, labels), 3, repair=repair, progress=False
    )
    assert (result.repair, result.access_tier) == (repair.fingerprint, "B")
    assert result.fault_free == pytest.approx(accuracy(trained, images, labels))
    with recalibrate_batch_norm(trained, repair.images):
        healthy = accuracy(trained, images, labels)
    # The model of much training on faults is better with the statistics of its healthy self.
    assert result.fault_free_repaired == pytest.approx(healthy)
    assert result.drop == pytest.approx(healthy - result.mean) and result.drop > 0
    for chip in result.chips:
        programmed = Chip(StuckAtZero(0.3), seed=0, index=chip.index).program(trained)
        with programmed, recalibrate_batch_norm(trained, repair.images):
            assert chip.accuracy == pytest.approx(accuracy(trained, images, labels))
