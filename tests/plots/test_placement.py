import numpy as np
import pytest

from keras_rram.evaluation import Interval
from keras_rram.placement import FrontPoint, GroupSensitivity, Sensitivity
from keras_rram.plots.placement import placement_front, sensitivity_bars


def interval(value, reach=0.02):
    return Interval(value, value - reach, value + reach, 0.95, "new chips, new images", "t")


def sensitivity(tier, losses):
    rows = tuple(
        GroupSensitivity(
            name, (name,), 0.1, interval(loss), interval(0.2 - loss), interval(loss / 2)
        )
        for name, loss in losses.items()
    )
    return Sensitivity(rows, interval(0.9), interval(0.7), "chip", tier, 8, 10)


LOSSES = {"stem": 0.1, "c01_conv": 0.03, "head": -0.01}


def test_bars_are_the_losses_in_network_order(tmp_path):
    results = {"tier A": sensitivity("A", LOSSES), "tier B": sensitivity("B", LOSSES)}
    figure = sensitivity_bars(results, tmp_path / "bars.png")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(LOSSES)
    assert left.yaxis_inverted()  # the stem is on top
    for axes, part in ((left, 1.0), (right, 0.5)):
        widths = [bar.get_width() for bar in axes.patches]
        assert widths == pytest.approx([part * loss for loss in LOSSES.values()] * 2)
    assert (tmp_path / "bars.png").read_bytes() == (
        sensitivity_bars(results, tmp_path / "again.png") and (tmp_path / "again.png").read_bytes()
    )
    others = {**results, "other": sensitivity("A", {"stem": 0.1})}
    with pytest.raises(ValueError, match="of the same groups"):
        sensitivity_bars(others)
    with pytest.raises(ValueError, match="of the same groups"):
        sensitivity_bars({})


def test_fronts_and_points(tmp_path):
    front = [FrontPoint("", 0.8, interval(0.7)), FrontPoint("", 0.2, interval(0.9))]
    points = [FrontPoint("4C", 0.45, interval(0.8))]
    figure = placement_front({"greedy": front, "optuna": front[:1]}, points, tmp_path / "front.svg")
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(lines[0].get_xydata(), [[0.2, 0.9], [0.8, 0.7]])
    assert "4C" in [text.get_text() for text in axes.texts]
    assert (tmp_path / "front.svg").stat().st_size > 5000
    assert placement_front({}, points)
    with pytest.raises(ValueError, match="fronts, or points"):
        placement_front({})
