import numpy as np
import pytest

from keras_rram.plots.repairs import repair_cost
from tests.plots.test_populations import population


def test_the_curve_over_images_is_mean_and_worst_chip_in_order():
    results = {64: population(0.1), 8: population(0.3), 512: population(0.05)}
    without = population(0.5)
    (axes,) = repair_cost({"batch_norm": results}, without=without).axes
    lines = {line.get_label(): line for line in axes.lines}
    counts = [8, 64, 512]
    mean = lines["batch_norm (tier A)"]
    np.testing.assert_array_equal(mean.get_xdata(), counts)
    np.testing.assert_allclose(mean.get_ydata(), [results[count].mean for count in counts])
    (worst,) = (line for name, line in lines.items() if name.startswith("_child"))
    np.testing.assert_allclose(
        worst.get_ydata(), [min(results[count].accuracies) for count in counts]
    )
    assert set(lines["no repair"].get_ydata()) == {without.mean}
    with pytest.raises(ValueError, match="two numbers of images"):
        repair_cost({"map": {8: without}})
