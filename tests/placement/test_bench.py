import itertools

import keras
import numpy as np
import pytest
from scipy import stats

from keras_rram import (
    Chip,
    StuckAtZero,
    layers,
    population,
    recalibrate_batch_norm,
    to_drop_connect,
)
from keras_rram.chips.chip import program
from keras_rram.evaluation import two_way_interval
from keras_rram.faults import parse
from keras_rram.placement import Bench, StagedNetwork
from keras_rram.placement.stages import Stage
from tests.placement.networks import images, residual

RATE = StuckAtZero(0.4)


@pytest.fixture(scope="module")
def network():
    return StagedNetwork(residual())


def subsets(names):
    return [
        frozenset(part) for n in range(len(names) + 1) for part in itertools.combinations(names, n)
    ]


def outputs_by_hand(model, chip, placement, x, calibration=None):
    """What a user would write: program some layers, recalibrate, predict."""
    faults = {k: f for k, f in chip.faults(model).items() if k.rpartition("/")[0] in placement}
    with program(model, faults):
        if calibration is None:
            return keras.ops.convert_to_numpy(model(x))
        with recalibrate_batch_norm(model, calibration):
            return keras.ops.convert_to_numpy(model(x))


@pytest.mark.parametrize("statistics", ["model", "chip"])
@pytest.mark.parametrize(
    "fault_model", [RATE, parse("differential_pair:stuck_off=0.1,stuck_on=0.2")], ids=str
)
def test_every_placement_answers_as_it_does_by_itself(network, statistics, fault_model):
    model, (x, y) = network.model, images()
    calibration = None if statistics == "model" else images(32, seed=1)[0]
    chips = population(fault_model, 3)
    bench = Bench(network, chips, (x, y), 10, statistics, calibration)
    assert bench.tier == ("A" if statistics == "model" else "B")
    found = bench.answers(subsets(network.layers))
    some = list(found) if statistics == "model" else subsets(network.layers)[1::3]
    for placement in some:
        answers = found[placement]
        for chip, own, right in zip(chips[:2], bench.folds, answers, strict=False):
            wanted = outputs_by_hand(model, chip, placement, x[own], calibration)
            np.testing.assert_array_equal(right, wanted.argmax(-1) == y[own])


def test_statistics_of_a_placement_are_those_over_its_chips(network):
    """Layer by layer, by NumPy: E[mean], and E[variance] + Var[mean], over the gathering chips."""
    model, (x, y) = network.model, images()
    calibration = images(30, seed=1)[0]
    gathering = population(RATE, 3, stream="calibration")
    bench = Bench(network, population(RATE, 2), (x, y), None, "placement", calibration, gathering)
    for placement in subsets(network.layers):
        (answers, _) = bench.answers([placement])[placement]
        held = {}
        for name in ("stem_bn", "c1_bn"):
            layer = model.get_layer(name)
            before = keras.Model(model.input, layer.input)
            means, variances = [], []
            for chip, part in zip(gathering, np.array_split(calibration, 3), strict=True):
                values = outputs_by_hand(before, chip, placement, part)
                means.append(values.mean((0, 1, 2)))
                variances.append(values.var((0, 1, 2)))
            held[layer] = [np.array(variable) for variable in layer.non_trainable_variables]
            layer.moving_mean.assign(np.mean(means, 0))
            layer.moving_variance.assign(np.mean(variances, 0) + np.var(means, 0))
        wanted = outputs_by_hand(model, bench.chips[0], placement, x)
        for layer, values in held.items():
            for variable, value in zip(layer.non_trainable_variables, values, strict=True):
                variable.assign(value)
        np.testing.assert_array_equal(answers, wanted.argmax(-1) == y)


def test_the_model_is_given_back(network):
    before = [np.array(variable) for variable in network.model.variables]
    bench = Bench(network, population(RATE, 2), images(), 10, "chip", images(16, seed=1)[0])
    with pytest.raises(ZeroDivisionError):
        bench.answers(subsets(network.layers), progress=lambda: 1 / 0)
    for variable, value in zip(network.model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_what_placements_have_in_common_is_computed_once(network, monkeypatch):
    calls = []
    run = Stage.run
    monkeypatch.setattr(Stage, "run", lambda self, *given: calls.append(self) or run(self, *given))
    bench = Bench(network, population(RATE, 2), images(), 10)
    everything = frozenset(network.layers)
    alone = [frozenset({name}) for name in network.layers]
    bench.answers([frozenset(), everything, *alone, *(everything - one for one in alone)], range(1))
    # stem, its normalization, c1, its normalization, head: 2 of the stem, 4 of c1, 8 leaves, where
    # one by one they were 8 x 5 stages.
    assert len(network.stages) == 5
    assert len(calls) == 2 + 2 + 4 + 4 + 8


def test_centred_inputs_are_gathered_but_not_recalibrated():
    network = StagedNetwork(residual(centered=True))
    x, y = images()
    calibration, chips = images(24, seed=1)[0], population(RATE, 2)
    placement = frozenset(network.layers)
    bench = Bench(network, chips, (x, y), None, "chip", calibration)
    wanted = outputs_by_hand(network.model, chips[0], placement, x, calibration)
    np.testing.assert_array_equal(bench.answers([placement])[placement][0], wanted.argmax(-1) == y)
    gathering = population(RATE, 2, stream="calibration")
    bench = Bench(network, chips, (x, y), None, "placement", calibration, gathering)
    bench.answers([placement])
    center = network.model.get_layer("c1_center")
    number = [stage.normalization for stage in network.stages].index(center)
    (mean,) = bench._known[number, frozenset({"stem"})]
    assert mean.shape == (4,) and abs(mean).max() > 0.1


def test_images_of_ones_own_are_disjoint_and_stratified():
    y = np.repeat(np.arange(3), 20)
    network = StagedNetwork(residual())
    bench = Bench(network, population(RATE, 5), (np.zeros((60, 6, 6, 2), "float32"), y), 12)
    assert np.unique(np.concatenate(bench.folds)).size == 60
    for own in bench.folds:
        np.testing.assert_array_equal(np.bincount(y[own]), [4, 4, 4])
    few = Bench(network, population(RATE, 5), (np.zeros((60, 6, 6, 2), "float32"), y), 6)
    assert {tuple(np.bincount(y[own])) for own in few.folds} == {(2, 2, 2)}


def test_intervals_are_those_of_their_designs(network):
    rng = np.random.default_rng(0)
    chips, data = population(RATE, 8), images()
    one, other = (list(rng.random((8, 5)) < p) for p in (0.9, 0.6))
    own = Bench(network, chips, data, 5).interval(one, other)
    values = np.array([a.mean() - b.mean() for a, b in zip(one, other, strict=True)])
    low, high = stats.t.interval(0.95, own.df, values.mean(), stats.sem(values))
    assert (own.low, own.high) == pytest.approx((low, high)) and own.df <= 7
    crossed = Bench(network, chips, data).interval(one, other)
    difference = np.stack(one).astype(int) - np.stack(other)
    assert crossed == two_way_interval(difference, scale="raw")


def test_own_images_interval_covers():
    """Chips with accuracies of their own, images with difficulties: nothing is shared."""
    from keras_rram.placement.bench import own_images_interval

    rng = np.random.default_rng(3)
    p = np.clip(rng.normal(0.8, 0.05, (400, 30, 1)), 0, 1)
    found = [own_images_interval(row, 20) for row in (rng.random((400, 30, 20)) < p).mean(-1)]
    covered = np.mean([one.low <= 0.8 <= one.high for one in found])
    assert 0.92 <= covered <= 0.98


def test_bad_input(network):
    data, chips = images(), population(RATE, 2)
    for given, message in (
        ({"images_per_chip": 21}, "images_per_chip from 2 to 20"),
        ({"statistics": "chips"}, "statistics as one of"),
        ({"statistics": "chip"}, "`calibration`, training images"),
        ({"calibration": data[0]}, "`calibration`, training images"),
        ({"statistics": "placement", "calibration": data[0]}, "`gathering`, chips"),
        ({"statistics": "placement", "calibration": data[0], "gathering": chips}, "other chips"),
    ):
        with pytest.raises(ValueError, match=message):
            Bench(network, chips, data, **given)
    with pytest.raises(ValueError, match="at least 2 chips"):
        Bench(network, chips[:1], data)
    with pytest.raises(ValueError, match="expected layers out of"):
        Bench(network, chips, data, 10).answers([frozenset({"stemm"})])


def with_one_output(activation):
    base = residual()
    head = layers.DropConnectDense(1, activation=activation, drop_connect=0.1, name="one")
    return keras.Model(base.input, head(base.get_layer("pool").output), name="own")


def test_one_sigmoid_says_yes_or_no():
    model, (x, labels) = with_one_output("sigmoid"), images()
    y, chips = labels % 2, population(RATE, 3)
    bench = Bench(StagedNetwork(model), chips, (x, y))
    found = bench.answers(subsets(("stem", "one")))
    for placement, answers in found.items():
        for chip, right in zip(chips, answers, strict=True):
            wanted = outputs_by_hand(model, chip, placement, x)[:, 0]
            np.testing.assert_array_equal(right, (wanted > 0.5) == (y == 1))
    assert {bool(one) for answers in found.values() for one in answers[0]} == {True, False}
    with pytest.raises(ValueError, match="from 0 to 1.*labels to 2"):
        Bench(StagedNetwork(model), chips, (x, labels))
    with pytest.raises(ValueError, match=r"'own' with one output.*Dense\(2\)"):
        Bench(StagedNetwork(with_one_output(None)), chips, (x, y))


def test_models_that_cannot_be_cut():
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="no Drop-Connect layer"):
        StagedNetwork(plain)
    twin = to_drop_connect(plain, 0.0)
    network = StagedNetwork(twin)  # a Sequential model can be
    x = np.eye(4, dtype="float32")
    chip = Chip(RATE)
    bench = Bench(network, population(RATE, 2), (x, np.zeros(4, int)))
    name = network.layers[0]
    found = bench.answers([frozenset({name})])[frozenset({name})]
    with chip.program(twin):
        np.testing.assert_array_equal(found[0], np.argmax(twin(x), -1) == 0)
    with pytest.raises(ValueError, match="batch normalizations, each a layer of the model"):
        Bench(network, population(RATE, 2), (x, np.zeros(4, int)), None, "chip", x)

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = twin

        def call(self, inputs):
            return self.inner(inputs)

    own = Own()
    own(x)
    with pytest.raises(ValueError, match="functional or built Sequential"):
        StagedNetwork(own)
