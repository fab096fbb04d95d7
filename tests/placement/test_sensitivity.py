import keras
import numpy as np
import pytest
from scipy import stats

from keras_rram import StuckAtZero, layers, models, population
from keras_rram.placement import (
    Bench,
    StagedNetwork,
    estimate_sensitivity,
    group_layers,
    macs_shares,
    measure_sensitivity,
    rank_correlation,
)
from keras_rram.placement.sensitivity import Sensitivity
from tests.classifiers import classifier, digits, right_answers, training_digits


def test_sensitivities_are_differences_of_what_chips_answer():
    model, (x, y) = classifier(), digits(200)
    network = StagedNetwork(model)
    chips = population(StuckAtZero(0.3), 4)
    found = measure_sensitivity(Bench(network, chips, (x, y)), group_layers(model))
    assert isinstance(found, Sensitivity) and [row.group for row in found.rows] == ["conv", "head"]
    healthy = right_answers(model, None, x, y)
    whole = np.stack([right_answers(model, chip, x, y) for chip in chips])
    assert found.fault_free.estimate == pytest.approx(healthy.mean())
    assert found.all_faulty.estimate == pytest.approx(whole.mean())
    assert found.all_faulty.question == "new chips, new images"
    conv, head = found.rows
    # Of two groups, all but one is the other one.
    assert conv.all_but == head.alone and head.all_but == conv.alone
    for row in found.rows:
        loss = found.fault_free.estimate - found.all_faulty.estimate
        assert row.gain.estimate == pytest.approx(loss - row.all_but.estimate)
        assert row.alone.low < row.alone.estimate < row.alone.high
    assert conv.macs_share + head.macs_share == pytest.approx(1)
    table = found.to_frame()
    assert list(table["alone"]) == [conv.alone.estimate, head.alone.estimate]
    assert found.to_dict()["widest"] == max(
        row[f"{name}_high"] - row[f"{name}_low"]
        for row in table.to_dict("records")
        for name in ("alone", "all_but", "gain")
    )


def test_groups():
    model = models.mini_mobilenet(2, drop_connect=0.1, scope="all")
    by_layer = group_layers(model)
    assert list(by_layer)[:3] == ["stem", "block1_expand", "block1_depthwise"]
    places = group_layers(model, "place", keep=("stem", "head"))
    block1 = ("block1_expand", "block1_depthwise", "block1_project")
    assert places["block1"] == block1 and "stem" not in places
    roles = group_layers(model, "role", keep=["block1_expand"])
    assert roles["expand"] == ("block2_expand",)
    assert sum(macs_shares(model).values()) == pytest.approx(1)
    with pytest.raises(ValueError, match="groups by one of"):
        group_layers(model, "block")
    with pytest.raises(ValueError, match="layers or roles of the model to keep"):
        group_layers(model, keep=["stemm"])
    with pytest.raises(ValueError, match="a layer that may fail"):
        group_layers(
            models.mini_mobilenet(1, drop_connect=0.1), keep=["expand", "depthwise", "project"]
        )
    network = StagedNetwork(classifier())
    bench = Bench(network, population(StuckAtZero(0.1), 2), digits(20))
    for groups in ({}, {"a": ("conv",), "b": ("conv", "head")}):
        with pytest.raises(ValueError, match="groups that share no layer"):
            measure_sensitivity(bench, groups)


def test_the_estimate_is_the_expected_change_of_the_loss():
    """To second order in small changes: against differences of the loss, computed by NumPy."""
    model, (x, y) = classifier(), training_digits(1000)
    x, y = x[:30], y[:30]
    chips = population(StuckAtZero(0.002), 5)
    groups = {"head": ("head",), "both": ("conv", "head")}
    found = estimate_sensitivity(model, chips, (x, y), groups)
    head = model.get_layer("head")
    features = np.asarray(model.get_layer("flatten")(model.get_layer("conv")(x)), np.float64)
    kernel, bias = np.asarray(head.kernel, np.float64), np.asarray(head.bias, np.float64)

    def losses(weights):
        logits = features @ weights + bias
        shifted = logits - logits.max(-1, keepdims=True)
        return np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(y)), y]

    step, products = 1e-4, []
    for chip in chips:
        moved = chip.faults(model)["head/kernel"].apply(kernel) - kernel
        products.append(
            (losses(kernel + step * moved) - losses(kernel - step * moved)) / (2 * step)
        )
    assert found["head"].first == pytest.approx(np.mean(products), rel=1e-3, abs=1e-6)
    assert found["head"].second == pytest.approx(np.mean(np.square(products)) / 2, rel=1e-3)
    assert found["head"].loss == found["head"].first + found["head"].second
    assert found["both"].second != found["head"].second


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_estimate_takes_probabilities(activation):
    """The gradient of the cross entropy through one dense layer, by NumPy."""
    units = 1 if activation == "sigmoid" else 3
    head = layers.DropConnectDense(
        units, activation="sigmoid" if units == 1 else None, drop_connect=0.1, name="head"
    )
    behind = [] if units == 1 else [keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((5,)), head, *behind])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 5)).astype("float32"), rng.integers(0, 2, 20)
    chips = population(StuckAtZero(0.3), 4)
    found = estimate_sensitivity(model, chips, (x, y), {"all": ("head",)})["all"]
    kernel = np.asarray(head.kernels["kernel"], np.float64)
    logits = x @ kernel
    if units == 1:
        error = 1 / (1 + np.exp(-logits)) - y[:, None]
    else:
        error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(3)[y]
    moved = np.stack([(chip.faults(model)["head/kernel"].mask - 1) * kernel for chip in chips])
    products = np.einsum("nr,nc,krc->nk", x, error, moved)
    assert found.first == pytest.approx(products.mean(), rel=1e-4)
    assert found.second == pytest.approx((products**2).mean() / 2, rel=1e-4)


def test_estimates_rank_layers_as_measurements_do():
    """A convolution whose faults change nothing, since no later weight reads it."""
    model, (x, y) = classifier(), digits(200)
    head = model.get_layer("head")
    kernel = np.array(head.kernel)
    head.kernel.assign(kernel * 1e-3)
    groups = group_layers(model)
    chips = population(StuckAtZero(0.3), 3)
    found = estimate_sensitivity(model, chips, (x[:40], y[:40]), groups)
    before = estimate_sensitivity(classifier(), chips, (x[:40], y[:40]), groups)
    assert found["conv"].second < before["conv"].second


def test_rank_correlation():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 9))
    assert rank_correlation(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert rank_correlation([1, 2, 3], [10, 20, 40]) == pytest.approx(1)
    assert (
        rank_correlation([1, 2], [1, 2]) is None and rank_correlation([1] * 4, [1, 2, 3, 4]) is None
    )
