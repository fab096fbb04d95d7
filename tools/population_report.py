"""What `tools.evaluate` and `tools.merge` print and write about finished populations."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import report, tables

FLAGS = flags.FLAGS


def write_population(
    results: Sequence[Any],
    thresholds: list[float],
    folder: pathlib.Path,
    bootstrap_seed: int | None = None,
) -> None:
    """Prints the table and writes everything that is made of the chips' records."""
    rows = [result.summary(yield_at=thresholds) for result in results]
    print(f"Fault model: {rows[0]['fault_model']}" + (" ..." if len(rows) > 1 else ""))
    report.show(*tables.population(rows, thresholds, is_counted=results[0].is_counted))
    if bootstrap_seed is not None:
        _print_bootstrap(results, bootstrap_seed)
    content = {
        "schema": "keras_rram.evaluation/1",
        "summary": rows,
        "populations": [json.loads(result.to_json()) for result in results],
    }
    report.write_json(folder / "results.json", content)
    report.write(
        folder / "summary.csv", report.table(rows).to_csv(index=False, lineterminator="\n")
    )
    chips = [result.to_csv() for result in results]
    rest = "".join(text.partition("\n")[2] for text in chips[1:])
    report.write(folder / "chips.csv", chips[0] + rest)
    _draw(results, folder)
    print(f"Results: {folder}/")


def _print_bootstrap(results: Sequence[Any], seed: int) -> None:
    import numpy as np

    for result in results:
        if result.matrix is None or len(result.chips) < 2:
            print("No bootstrap: it takes two chips, each on all images.")
            continue
        rng = np.random.default_rng(seed)
        interval = result.mean_interval(method="bootstrap", rng=rng)
        low, high = (report.value(end, result.is_counted) for end in (interval.low, interval.high))
        print(f"{100 * result.rate:.4g}% faults: {low}-{high} by {interval.method}.")


def _draw(results: Sequence[Any], folder: pathlib.Path) -> None:
    from keras_rram import plots

    kind = FLAGS.figures
    full = [result for result in results if result.folds == 1]
    several = [result for result in results if len(result.chips) > 1]
    if not full:
        print(
            "No figures of single chips: each answered a part of the images, which is enough for "
            "the mean only."
        )
    for name, draw, drawn in (
        (f"accuracy.{kind}", plots.accuracy_against_rate, results),
        (f"chips.{kind}", plots.chip_distribution, full),
        (f"yield.{kind}", plots.yield_curve, full),
        (f"convergence.{kind}", plots.convergence, several),
    ):
        if drawn:
            draw(drawn, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)  # of a run before it was resumed
