import pytest

from keras_rram.plots.faults import fault_model_curves
from tests.plots.test_populations import RESULTS, population


def test_writes_one_small_figure_whatever_the_curves(tmp_path):
    curves = {f"fault model {number}": RESULTS for number in range(8)}
    fault_model_curves(curves, tmp_path / "many.png")
    fault_model_curves({"one": RESULTS[:1]}, tmp_path / "one.png")
    fault_model_curves(curves, tmp_path / "again.png")
    assert (tmp_path / "many.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 200_000


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "expected 1 to 8 curves"),
        ({str(number): RESULTS for number in range(9)}, "Received: 9"),
        ({"none": []}, "'none' without them"),
        ({"healthy": [population(0.0)]}, "'healthy' without them"),
        ({"one chip": [population(0.1, 1)]}, "two chips or more"),
        ({"folds": [population(0.1, folds=2)]}, "on all images"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(curves, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fault_model_curves(curves, tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
