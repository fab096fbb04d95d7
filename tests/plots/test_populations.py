import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.results import PopulationResult
from keras_rram.plots import populations as plots

HISTORY = [
    {"epoch": epoch, "loss": 2 / epoch, "accuracy": 1 - 0.5 / epoch,
     "val_chip_loss": 2.2 / epoch, "val_chip_accuracy": 1 - 0.7 / epoch,
     "val_chip_accuracy_min": 1 - 0.9 / epoch, "val_chip_accuracy_max": 1 - 0.6 / epoch}
    for epoch in range(1, 6)
]  # fmt: skip


def population(rate, count=30, folds=1):
    rng = np.random.default_rng(int(1000 * rate))
    accuracies = 0.95 - rng.gamma(2, rate / 3, count)
    chips = [
        ChipResult.from_answers(
            index, rate, rate, rng.random(200) < accuracy, (index // 2) % folds, folds
        )
        for index, accuracy in enumerate(accuracies)
    ]
    return PopulationResult(
        "m", "d", f"stuck_at_zero:rate={rate}", rate, 0, "keras float32", 0.96, tuple(chips)
    )


RESULTS = [population(rate) for rate in (0.1, 0.2, 0.3)]
FIGURES = {
    "training": lambda path: plots.training_curves(HISTORY, path),
    "rates": lambda path: plots.accuracy_against_rate(RESULTS, path),
    "rates_by_name": lambda path: plots.accuracy_against_rate(
        {"plain": RESULTS, "Drop-Connect": RESULTS[:2]}, path
    ),
    "one_rate": lambda path: plots.accuracy_against_rate(RESULTS[:1], path),
    "folds": lambda path: plots.accuracy_against_rate([population(0.1, folds=2)], path),
    "one_chip": lambda path: plots.accuracy_against_rate([population(0.1, 1)], path),
    "distribution": lambda path: plots.chip_distribution(RESULTS, path),
    "yield": lambda path: plots.yield_curve(RESULTS, path),
    "convergence": lambda path: plots.convergence(RESULTS, path),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_small_png_that_is_always_the_same(name, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        FIGURES[name](path)
    content = [path.read_bytes() for path in paths]
    assert content[0].startswith(b"\x89PNG") and len(content[0]) < 100_000
    assert content[0] == content[1]
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def axes_of(draw, monkeypatch):
    """Returns the axes of the figure that `draw` would have saved."""
    saved = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: saved.append(figure))
    draw("unused")
    return saved[0].axes


def test_the_study_s_four_curves_are_there(monkeypatch):
    loss, accuracy = axes_of(FIGURES["training"], monkeypatch)
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        np.testing.assert_allclose(lines["training"], [one[name] for one in HISTORY])
        np.testing.assert_allclose(
            lines["validation on faulty chips"], [one[f"val_chip_{name}"] for one in HISTORY]
        )
        assert axes.get_ylabel() == name and axes.get_xlabel() == "epoch"
    assert accuracy.yaxis.get_major_formatter()(0.905) == "90.5%"


def test_a_keras_history_works_as_well(monkeypatch):
    class History:
        history = {"loss": [1.0, 0.5], "accuracy": [0.5, 0.75], "val_accuracy": [0.4, 0.6]}

    loss, accuracy = axes_of(lambda path: plots.training_curves(History(), path), monkeypatch)
    assert [line.get_label() for line in loss.lines] == ["training"]
    assert [line.get_label() for line in accuracy.lines] == ["training", "validation"]
    np.testing.assert_array_equal(accuracy.lines[0].get_xdata(), [1, 2])


def test_what_the_figures_show_is_what_the_results_say(monkeypatch):
    (axes,) = axes_of(FIGURES["rates"], monkeypatch)
    (mean,) = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(mean.get_ydata(), [result.mean for result in RESULTS])
    (worst,) = [line for line in axes.lines if line.get_label() == "worst chip"]
    np.testing.assert_allclose(worst.get_ydata(), [one.worst.accuracy for one in RESULTS])

    (axes,) = axes_of(FIGURES["yield"], monkeypatch)
    line, first = axes.lines[0], RESULTS[0]
    # Without the noise of finitely many images.
    chips = first.mean + first.sd / first.raw_sd * (first.accuracies - first.mean)
    for threshold, share in zip(line.get_xdata()[::17], line.get_ydata()[::17], strict=True):
        assert share == np.mean(chips >= threshold)

    (axes,) = axes_of(FIGURES["convergence"], monkeypatch)
    line = axes.lines[0]
    assert line.get_xdata()[-1] == 30
    assert line.get_ydata()[-1] == pytest.approx(RESULTS[0].mean)
    assert line.get_ydata()[0] == pytest.approx(RESULTS[0].accuracies[:2].mean())


def test_nothing_to_draw_is_an_error(tmp_path):
    path = tmp_path / "a.png"
    for draw in (plots.accuracy_against_rate, plots.chip_distribution, plots.convergence):
        with pytest.raises(ValueError, match="at least one result"):
            draw([], path)
    with pytest.raises(ValueError, match="two chips or more"):
        plots.convergence([population(0.1, 1)], path)
    for draw in (plots.chip_distribution, plots.yield_curve):
        with pytest.raises(ValueError, match="answered all images"):
            draw([population(0.1, folds=2)], path)
    with pytest.raises(ValueError, match="`loss` and `accuracy`"):
        plots.training_curves([{"epoch": 1, "loss": 1.0}], path)
    with pytest.raises(ValueError, match="`loss` and `accuracy`"):
        plots.training_curves([], path)
    assert not list(tmp_path.iterdir())


def test_global_state_of_matplotlib_is_left_alone(tmp_path):
    from matplotlib import pyplot

    before, figures = dict(pyplot.rcParams), pyplot.get_fignums()
    for draw in FIGURES.values():
        draw(tmp_path / "a.png")
    assert dict(pyplot.rcParams) == before and pyplot.get_fignums() == figures


@pytest.mark.parametrize("name", sorted(FIGURES.keys() - {"training"}))
def test_legends_of_populations_cover_no_chip(name, monkeypatch):
    (axes,) = axes_of(FIGURES[name], monkeypatch)
    figure = axes.figure
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1 - 1
    assert legend.get_window_extent().x1 <= figure.bbox.x1
