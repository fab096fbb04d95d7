"""Own tasks: binary, multi-label, several outputs, regression, sequences; any measure of a chip."""

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero, layers
from keras_rram.evaluation import (
    KerasEngine,
    StopRule,
    evaluate_population,
    load_run,
    paired_difference,
)
from keras_rram.evaluation.engines.protocol import Task
from keras_rram.evaluation.measure import measure_of
from keras_rram.evaluation.statistics.two_way import two_way_interval

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype("float32")
SEQUENCES = RNG.normal(size=(60, 5, 4)).astype("float32")


def dense(units, activation=None, name="head", shape=(6,), seed=1):
    inputs = keras.Input(shape)
    hidden = layers.DropConnectDense(8, activation="relu", drop_connect=0.1, name="first")(inputs)
    outputs = layers.DropConnectDense(units, activation=activation, drop_connect=0.1, name=name)
    return seeded(keras.Model(inputs, outputs(hidden), name="own"), seed)


def seeded(model, seed=1):
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape) * 0.7)
    return model


def predicted(model, x, chips=3, rate=0.2):
    """Outputs of each chip, by the user's own loop: the oracle."""
    found = []
    for index in range(chips):
        with Chip(StuckAtZero(rate), 0, index).program(model):
            found.append(model.predict(x, verbose=0))
    return found


def evaluate(model, data, chips=3, **options):
    return evaluate_population(model, 0.2, data, chips, progress=False, **options)


@pytest.mark.parametrize("engine", ["keras", "auto"])
def test_a_binary_head_counts_right_answers(engine):
    model, labels = dense(1, "sigmoid"), RNG.integers(0, 2, 60)
    result = evaluate(model, (X, labels), engine=engine)
    wanted = [(outputs[:, 0] > 0.5) == labels for outputs in predicted(model, X)]
    np.testing.assert_array_equal(result.matrix, wanted)
    assert result.is_counted and result.measure == "accuracy"
    assert result.mean_interval() == two_way_interval(np.array(wanted))
    model.compile(loss="binary_crossentropy", metrics=["accuracy"])
    assert result.fault_free == pytest.approx(model.evaluate(X, labels, verbose=0)[1], abs=1e-6)
    column = evaluate(model, (X, labels[:, None].astype("float32")), engine="keras")
    np.testing.assert_array_equal(column.matrix, wanted)


def test_logits_and_regression_ask_for_a_measure():
    labels = RNG.integers(0, 2, 60)
    with pytest.raises(ValueError, match=r"expected metric=.*BinaryAccuracy\(threshold=0.0\)"):
        evaluate(dense(1), (X, labels))
    with pytest.raises(ValueError, match="expected metric=.*Received: none"):
        evaluate(dense(1), (X, RNG.normal(size=60)))
    metric = keras.metrics.BinaryAccuracy(threshold=0.0)
    result = evaluate(dense(1), (X, labels[:, None]), metric=metric)
    wanted = [((out[:, 0] > 0) == labels).mean() for out in predicted(dense(1), X)]
    np.testing.assert_allclose(result.accuracies, wanted)


def test_multi_label_and_sequences_score_the_share_of_an_image():
    model, labels = dense(4, "sigmoid"), RNG.integers(0, 2, (60, 4))
    result = evaluate(model, (X, labels))
    wanted = [((out > 0.5) == labels).mean(1) for out in predicted(model, X)]
    np.testing.assert_allclose(result.matrix, wanted, atol=1e-6)
    tagger = dense(3, "softmax", shape=(5, 4))
    tags = RNG.integers(0, 3, (60, 5))
    result = evaluate(tagger, (SEQUENCES, tags))
    wanted = [(out.argmax(-1) == tags).mean(1) for out in predicted(tagger, SEQUENCES)]
    np.testing.assert_allclose(result.matrix, wanted, atol=1e-6)
    tagger.compile(metrics=["accuracy"], loss="sparse_categorical_crossentropy")
    assert result.fault_free == pytest.approx(tagger.evaluate(SEQUENCES, tags, verbose=0)[1])


def test_regression_is_scored_by_a_keras_metric_and_has_means(tmp_path):
    model, targets = dense(1), RNG.normal(size=(60, 1))
    metric = keras.metrics.MeanSquaredError(name="mse")
    result = evaluate(model, (X, targets), 6, metric=metric, out=tmp_path / "run")
    squares = np.array([(out - targets)[:, 0] ** 2 for out in predicted(model, X, 6)])
    np.testing.assert_allclose(result.matrix, squares, rtol=1e-4, atol=1e-6)
    assert result.measure == "mse" and not result.higher_is_better and not result.is_counted
    interval = two_way_interval(squares / 7, scale="raw")
    assert result.mean_interval().low == pytest.approx(7 * interval.low, rel=1e-4)
    assert result.mean_interval().high == pytest.approx(7 * interval.high, rel=1e-4)
    assert result.worst.index == squares.mean(1).argmax()
    assert result.drop == pytest.approx(result.mean - result.fault_free)
    limit = float(np.median(squares.mean(1)))
    assert result.yield_at(limit, images="test_set").passed == 3
    assert result.quantile(0, images="test_set") == pytest.approx(squares.mean(1).max())
    assert load_run(tmp_path / "run") == [result]
    assert "mse: mean" in str(result) and "%" not in str(result).splitlines()[3]
    assert result.summary()["measure"] == "mse" and result.summary()["sd"] >= 0
    with pytest.raises(ValueError, match="What differs is measure"):
        evaluate(model, (X, targets), 6, metric="mae", out=tmp_path / "run", resume=True)


def test_a_metric_of_whole_chips_has_an_interval_over_chips():
    model, labels = dense(1, "sigmoid"), RNG.integers(0, 2, 60)
    result = evaluate(model, (X, labels[:, None]), 6, metric=keras.metrics.AUC(name="auc"))
    for chip, outputs in zip(result.chips, predicted(model, X, 6), strict=True):
        metric = keras.metrics.AUC()
        metric.update_state(labels[:, None], outputs)
        assert chip.accuracy == pytest.approx(float(metric.result()))
        assert chip.answers is None and chip.total == 60
    interval = result.mean_interval()
    assert interval.question == "new chips, this test set"
    reach = result.accuracies.std(ddof=1) / 6**0.5
    assert interval.half_width >= 2.5 * reach  # Student's t of five degrees of freedom is 2.57
    with pytest.raises(ValueError, match="score of each image"):
        result.mean_interval(images="new")


def two_heads():
    inputs = keras.Input((6,))
    hidden = layers.DropConnectDense(8, activation="relu", drop_connect=0.1, name="first")(inputs)
    kind = layers.DropConnectDense(3, drop_connect=0.1, name="kind")(hidden)
    size = layers.DropConnectDense(1, drop_connect=0.1, name="size")(hidden)
    return seeded(keras.Model(inputs, {"kind": kind, "size": size}, name="own"))


def kind_is_right(outputs, labels):
    return outputs["kind"].argmax(-1) == labels["kind"]


def test_several_outputs_are_scored_by_a_function():
    model = two_heads()
    labels = {"kind": RNG.integers(0, 3, 60), "size": RNG.normal(size=(60, 1))}
    with pytest.raises(ValueError, match="expected metric=.*a model with 2 outputs"):
        evaluate(model, (X, labels))
    result = evaluate(model, (X, labels), metric=kind_is_right)
    wanted = [out["kind"].argmax(-1) == labels["kind"] for out in predicted(model, X)]
    np.testing.assert_array_equal(result.matrix, wanted)
    assert result.is_counted and result.measure == "kind_is_right"
    with pytest.raises(ValueError, match="one output for the metric"):
        evaluate(model, (X, labels), metric="mse")
    with pytest.raises(ValueError, match="engine='keras'.*one output"):
        evaluate(model, (X, labels), metric=kind_is_right, engine="litert")
    stopped = evaluate(model, (X, labels), 8, metric=kind_is_right,
                       stop=StopRule(0.2, pilot_chips=4, pilot_images=30))  # fmt: skip
    assert stopped.stop_interval is not None


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.first = layers.DropConnectDense(8, activation="relu", drop_connect=0.1, name="first")
        self.head = layers.DropConnectDense(3, drop_connect=0.1, name="head")

    def call(self, inputs):
        return self.head(self.first(inputs))


def test_a_subclassed_model_evaluates():
    model, labels = Subclassed(name="own"), RNG.integers(0, 3, 60)
    model(X[:1])
    seeded(model)
    result = evaluate(model, (X, labels))
    wanted = [out.argmax(-1) == labels for out in predicted(model, X)]
    np.testing.assert_array_equal(result.matrix, wanted)
    assert result.engine == "keras float32"
    twin = dense(3)
    twin.set_weights([np.array(weight) for weight in model.weights])
    same = evaluate(twin, (X, labels), engine="keras")
    np.testing.assert_array_equal(same.matrix, wanted)


def test_scores_are_compared_on_the_same_chips():
    targets = RNG.normal(size=(60, 1))
    a, b = (evaluate(dense(1, seed=s), (X, targets), 8, metric="mse") for s in (1, 2))
    found = paired_difference(a, b)
    wanted = two_way_interval((a.matrix - b.matrix).astype(float), scale="raw")
    assert found.interval.estimate == pytest.approx(wanted.estimate, rel=1e-5)
    assert found.interval.half_width == pytest.approx(wanted.half_width, rel=1e-5)


def test_a_stop_rule_needs_counts():
    data = (X, RNG.normal(size=(60, 1)))
    with pytest.raises(ValueError, match="counts right answers with stop="):
        evaluate(dense(1), data, 8, metric="mse", stop=0.1)


def test_engines_with_a_measure_travel():
    import pickle

    measure = measure_of(lambda outputs, labels: -np.abs(outputs - labels)[:, 0])
    engine = KerasEngine(dense(1), X, X[:, :1], measure=measure)
    again = pickle.loads(pickle.dumps(engine))
    for one in (engine, again):
        (answers,) = one.answer([Task(Chip(StuckAtZero(0.2)), np.arange(7, 20))])
        outputs = predicted(dense(1), X[7:20], 1)[0]
        np.testing.assert_allclose(answers.correct, -np.abs(outputs - X[7:20, :1])[:, 0], rtol=1e-4)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda outputs, labels: np.zeros((3, 2)), "score for each of 60 images"),
        (lambda outputs, labels: outputs[:, 0] * np.nan, "expected finite scores"),
    ],
)
def test_bad_scores_are_errors(metric, message):
    with pytest.raises(ValueError, match=message):
        evaluate(dense(1), (X, X[:, :1]), metric=metric)


def test_fewer_false_answers_are_better():
    """Keras gives counts of false answers no direction."""
    for name in ("FalseNegatives", "FalsePositives", "mse"):
        assert not measure_of(name).higher_is_better
    for name in ("TruePositives", "AUC", "binary_accuracy"):
        assert measure_of(name).higher_is_better

    class Own(keras.metrics.TruePositives):
        higher_is_better = False

    assert not measure_of(Own()).higher_is_better
