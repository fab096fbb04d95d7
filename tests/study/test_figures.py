"""The study's curves, as a reader sees them."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from keras_rram.study import figures
from keras_rram.study.published import Published


@pytest.mark.parametrize("epochs", [2, 8, 20, 80, 200])
def test_epochs_are_whole_and_their_labels_apart(epochs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    names = ("loss", "accuracy", "val_chip_loss", "val_chip_0_accuracy")
    history = {"epoch": np.arange(1, epochs + 1)} | dict.fromkeys(names, np.full(epochs, 0.5))
    run = Published({"panel": "4A"}, history, {"chips": np.array([0.9])})
    figures.study_figure([run, run], tmp_path / "figure")
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        inside = axes.viewLim.intervalx
        shown = [
            label
            for label in axes.get_xticklabels()
            if inside[0] <= label.get_position()[0] <= inside[1] and label.get_text()
        ]
        assert len({int(label.get_text()) for label in shown}) == len(shown) >= 2
        boxes = [label.get_window_extent() for label in shown]
        for left, right in itertools.pairwise(boxes):
            assert left.x1 + 3 < right.x0
