import dataclasses

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from keras_rram import plots
from keras_rram.evaluation import paired_difference
from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.results import PopulationResult

HISTORY = [
    {"epoch": epoch, "loss": 2 / epoch, "accuracy": 1 - 0.5 / epoch,
     "val_chip_loss": 2.2 / epoch, "val_chip_accuracy": 1 - 0.7 / epoch,
     "val_chip_accuracy_min": 1 - 0.9 / epoch, "val_chip_accuracy_max": 1 - 0.6 / epoch}
    for epoch in range(1, 6)
]  # fmt: skip


def population(rate, count=30, folds=1, seed=0):
    rng = np.random.default_rng(int(1000 * rate) + seed)
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
OTHERS = [population(rate, seed=7) for rate in (0.1, 0.2, 0.3)]
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
    "comparison": lambda path: plots.comparison(RESULTS, OTHERS, path, labels=("plain", "mine")),
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


def axes_of(draw):
    """Returns the axes of the figure that `draw` returns, where it saves none."""
    return draw(None).axes


def test_the_study_s_four_curves_are_there():
    loss, accuracy = axes_of(FIGURES["training"])
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        np.testing.assert_allclose(lines["training"], [one[name] for one in HISTORY])
        np.testing.assert_allclose(
            lines["validation on faulty chips"], [one[f"val_chip_{name}"] for one in HISTORY]
        )
        assert axes.get_ylabel() == name and axes.get_xlabel() == "epoch"
    assert accuracy.yaxis.get_major_formatter()(0.905) == "90.5%"


def test_a_keras_history_works_as_well():
    class History:
        history = {"loss": [1.0, 0.5], "accuracy": [0.5, 0.75], "val_accuracy": [0.4, 0.6]}

    loss, accuracy = axes_of(lambda path: plots.training_curves(History(), path))
    assert [line.get_label() for line in loss.lines] == ["training"]
    assert [line.get_label() for line in accuracy.lines] == ["training", "validation"]
    np.testing.assert_array_equal(accuracy.lines[0].get_xdata(), [1, 2])


def test_what_the_figures_show_is_what_the_results_say():
    (axes,) = axes_of(FIGURES["rates"])
    (mean,) = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(mean.get_ydata(), [result.mean for result in RESULTS])
    (worst,) = [line for line in axes.lines if line.get_label() == "worst chip"]
    np.testing.assert_allclose(worst.get_ydata(), [one.worst.accuracy for one in RESULTS])

    (axes,) = axes_of(FIGURES["yield"])
    line, first = axes.lines[0], RESULTS[0]
    # Without the noise of finitely many images.
    chips = first.mean + first.sd / first.raw_sd * (first.accuracies - first.mean)
    for threshold, share in zip(line.get_xdata()[::17], line.get_ydata()[::17], strict=True):
        assert share == np.mean(chips >= threshold)

    (axes,) = axes_of(FIGURES["convergence"])
    line = axes.lines[0]
    assert line.get_xdata()[-1] == 30
    assert line.get_ydata()[-1] == pytest.approx(RESULTS[0].mean)
    assert line.get_ydata()[0] == pytest.approx(RESULTS[0].accuracies[:2].mean())


def test_the_distribution_says_how_many_chips_there_are_at_each_rate():
    results = [population(0.1, 8), population(0.2, 3)]
    (axes,) = axes_of(lambda path: plots.chip_distribution(results, path))
    assert any(line.get_label() == "chip (3 to 8 at each rate)" for line in axes.lines)


def test_nothing_to_draw_is_an_error(tmp_path):
    path = tmp_path / "a.png"
    for draw in (plots.accuracy_against_rate, plots.chip_distribution, plots.convergence):
        with pytest.raises(ValueError, match="at least one result"):
            draw([], path)
    for curves in ({}, {"a": [], "b": RESULTS}):
        with pytest.raises(ValueError, match="at least one result"):
            plots.accuracy_against_rate(curves, path)
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


@pytest.mark.parametrize("name", sorted(FIGURES.keys() - {"training", "comparison"}))
def test_legends_of_populations_cover_no_chip(name):
    (axes,) = axes_of(FIGURES[name])
    figure = axes.figure
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1 - 1
    assert legend.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("suffix", "start"),
    [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml"), ("SVG", b"<?xml")],
)
def test_the_ending_of_a_file_is_its_format(suffix, start, tmp_path):
    for draw in (FIGURES["rates"], FIGURES["comparison"]):
        paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
        for path in paths:
            draw(path)
        assert paths[0].read_bytes().startswith(start)
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert b"<image" not in paths[0].read_bytes()  # vectors


def test_an_unknown_ending_is_an_error(tmp_path):
    for name in ("a.txt", "a"):
        with pytest.raises(ValueError, match="expected a file of a figure.*svg"):
            plots.yield_curve(RESULTS, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_figures_go_into_the_axes_of_the_caller():
    figure = Figure()
    axes = figure.subplots(2, 3).ravel()
    for draw, one in zip(
        (
            plots.accuracy_against_rate,
            plots.chip_distribution,
            plots.yield_curve,
            plots.convergence,
        ),
        axes,
        strict=False,
    ):
        assert draw(RESULTS, ax=one) is figure
        assert one.lines and one.get_legend() is not None
    assert plots.comparison(RESULTS, OTHERS, ax=axes[4:]) is figure
    assert plots.training_curves(HISTORY, ax=axes[4:]) is figure
    assert len(figure.axes) == 6 and not figure.legends
    with pytest.raises(ValueError, match="expected 2 axes"):
        plots.comparison(RESULTS, OTHERS, ax=axes)


@pytest.mark.parametrize("draw", [plots.accuracy_against_rate, plots.chip_distribution])
def test_the_dotted_line_is_what_a_repaired_model_has_without_faults(draw):
    repair = {"repair": "batch_norm", "access_tier": "B", "fault_free_repaired": 0.987}
    for results, height in (
        (RESULTS, RESULTS[0].fault_free),
        ([dataclasses.replace(result, **repair) for result in RESULTS], 0.987),
    ):
        (axes,) = draw(results).axes
        (dotted,) = [line for line in axes.lines if line.get_linestyle() == ":"]
        assert dotted.get_ydata()[0] == height


def test_bars_and_bands_are_labelled_and_models_named():
    def labels(figure):
        return " | ".join(text.get_text() for one in figure.legends for text in one.get_texts())

    one = labels(plots.accuracy_against_rate(RESULTS, label="my model"))
    assert "my model, 95% interval" in one and "5th to 95th percentile of chips" in one
    two = labels(plots.accuracy_against_rate({"first": RESULTS, "second": OTHERS}))
    expected = {"first", "second", "mean, 95% interval", "5th to 95th percentile of chips"}
    assert expected <= set(two.split(" | "))
    assert "95% interval" in labels(plots.yield_curve(RESULTS))
    assert "95% interval, over chips" in labels(plots.convergence(RESULTS))
    with pytest.raises(ValueError, match="label= with one curve"):
        plots.accuracy_against_rate({"first": RESULTS}, label="mine")


def test_the_comparison_shows_the_paired_difference():
    left, right = axes_of(FIGURES["comparison"])
    found = [paired_difference(a, b) for a, b in zip(RESULTS, OTHERS, strict=True)]
    (means,) = [line for line in right.lines if line.get_marker() == "D"]
    heights = np.array(means.get_ydata(), float)
    np.testing.assert_allclose(heights, [one.interval.estimate for one in found])
    dots = [line.get_ydata() for line in right.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, [one.differences for one in found])
    (bars,) = right.containers
    ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    np.testing.assert_allclose(ends, [(one.interval.low, one.interval.high) for one in found])
    assert right.get_ylabel() == "plain minus mine"
    assert len(left.get_legend().get_texts()) == 5
