"""What `tools.evaluate` prints and writes about finished populations."""

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

_FIGURES = ("accuracy.png", "chips.png", "yield.png", "convergence.png")


def compare(
    results: Sequence[Any],
    others: Sequence[Any],
    folder: pathlib.Path,
    model: str,
    other: str,
) -> None:
    """Prints and writes the difference to another model on the same chips."""
    from keras_rram.evaluation import paired_difference
    from keras_rram.evaluation.comparison import matched
    from keras_rram.evaluation.tables import comparison_table
    from keras_rram.plots import populations as plots

    pairs = matched(results, others)
    rows = [(a.summary(), b.summary(), paired_difference(a, b)) for a, b in pairs]
    print(f"\nCompared with {other}:\n{comparison_table(rows)}")
    content = {
        "schema": "keras_rram.comparison/1",
        "compared_with": other,
        "comparisons": [
            {"rate": a["rate"], "summary": a, "other": b, **dataclasses.asdict(difference)}
            for a, b, difference in rows
        ],
    }
    write(folder / "comparison.json", json.dumps(content, indent=1) + "\n")
    names = [pathlib.Path(model).stem, pathlib.Path(other).stem]
    if names[0] == names[1]:
        names = [model, other]
    curves = dict(zip(names, zip(*pairs, strict=True), strict=True))
    plots.accuracy_against_rate(curves, folder / "comparison.png")


def report(
    results: Sequence[Any],
    thresholds: list[float],
    folder: pathlib.Path,
    bootstrap_seed: int | None = None,
) -> None:
    """Prints the table and writes everything that is made of the chips' records."""
    from keras_rram.evaluation.tables import population_table

    rows = [result.summary(yield_at=thresholds) for result in results]
    print(f"Fault model: {rows[0]['fault_model']}" + (" ..." if len(rows) > 1 else ""))
    print(population_table(rows, thresholds))
    if bootstrap_seed is not None:
        _print_bootstrap(results, bootstrap_seed)
    populations = [json.loads(result.to_json()) for result in results]
    content = {
        "schema": "keras_rram.evaluation/1",
        "summary": rows,
        "populations": populations,
    }
    write(folder / "results.json", json.dumps(content, indent=1) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(folder / "summary.csv", text.getvalue())
    tables = [result.to_csv() for result in results]
    rest = "".join(table.partition("\n")[2] for table in tables[1:])
    write(folder / "chips.csv", tables[0] + rest)
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
        low, high = 100 * interval.low, 100 * interval.high
        print(f"{100 * result.rate:.4g}% faults: {low:.2f}-{high:.2f} by {interval.method}.")


def _draw(results: Sequence[Any], folder: pathlib.Path) -> None:
    from keras_rram.plots import populations as plots

    drawn = ["accuracy.png"]
    plots.accuracy_against_rate(results, folder / "accuracy.png")
    full = [result for result in results if result.folds == 1]
    if full:
        plots.chip_distribution(full, folder / "chips.png")
        plots.yield_curve(full, folder / "yield.png")
        drawn += ["chips.png", "yield.png"]
    else:
        print(
            "No figures of single chips: each answered a part of the images, which is enough for "
            "the mean only."
        )
    if any(len(result.chips) > 1 for result in results):
        plots.convergence(results, folder / "convergence.png")
        drawn.append("convergence.png")
    for name in set(_FIGURES) - set(drawn):
        (folder / name).unlink(missing_ok=True)  # of a run before it was resumed


def write(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    from keras_rram.files import written_whole

    with written_whole(path) as temporary:
        temporary.write_text(text)
