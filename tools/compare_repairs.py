r"""Compares what repairs give back, all on the same chips of one trained model.

The usual ones, by what must be known of a chip (access tier B: unlabelled images on it; C: the map
of its faults, or labels):

  python -m tools.compare_repairs --model=runs/digits/model.keras --fault_rate=0.3 --chips=100 \
      --images=500 --out=runs/repairs

Others, and other faults:

  python -m tools.compare_repairs --model=runs/digits/model.keras --repairs=none \
      --repairs=batch_norm:images=64 --repairs=remap:rounds=0+batch_norm \
      --fault_model=differential_pair:stuck_off=0.0175,stuck_on=0.0904 --out=runs/pairs

What more images are worth, of repairs that are given with three numbers of them or more:

  python -m tools.compare_repairs --model=runs/digits/model.keras --out=runs/cost \
      --repairs=batch_norm:images=8 --repairs=batch_norm:images=64 --repairs=batch_norm:images=512

The folder `--out` gets `repairs.csv`, `repairs.json`, `repairs.png` and `README.md`, for such
repairs `images.png`, and under
`chips/` the records of each population, from which `--resume` with the same flags goes on.
Accuracies in their rows are in [0, 1]; `low` and `high` are the 95% interval of the mean, `q05` is
the 5th percentile of the chips, `gain` the difference of the mean to that without a repair, and
`seconds` the time for each chip, repair and evaluation, of populations that were not resumed.
"""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from . import cli, fault_flags, inputs, number_flags, repair_flags, report

FLAGS = flags.FLAGS

REPAIRS = (
    "none",
    "mean_read",
    "batch_norm:images=64,moments=mean",
    "batch_norm:images=64",
    "batch_norm:images=512",
    "map",
    "map:images=256",
    "remap+map:images=256",
    "remap+batch_norm",
    "least_squares",
    "remap+least_squares",
    "retraining:steps=100",
)
"""What is compared by default."""

inputs.define_model(convert=True)
inputs.define_data()
fault_flags.define(otherwise="0.3")
fault_flags.define_chips(100, least=2)
flags.DEFINE_multi_string("repairs", REPAIRS, "A repair as in `tools.evaluate --repair`.")
number_flags.define_jobs("Processes; -1 for one on each core.")
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("resume", False, "Go on with the run in --out, or begin one.")

_IMAGES = re.compile(r",?\bimages=(\d+)")
_FIGURES = ("fault_free", "mean", "low", "high", "sd", "q05", "worst")


def main(argv: Sequence[str]) -> None:
    """Repairs and evaluates as the flags say and writes table and figure."""
    del argv
    cli.check_output_folder()
    from keras_rram.evaluation import evaluate_population
    from keras_rram.faults import spec
    from keras_rram.plots.repairs import repair_cost, repair_dots

    plans = _plans()
    fault_model = fault_flags.at(FLAGS.fault_rate, otherwise=0.3)
    model, dataset, test = inputs.load()
    training = inputs.Training.beside(FLAGS.model)
    commit = cli.commit()  # later the checkout may be another one
    folder = cli.output_folder(FLAGS.out, FLAGS.resume)
    results: dict[str, Any] = {}
    rows = []
    for number, (text, plan) in enumerate(plans.items()):
        print(f"{text} ({number + 1} of {len(plans)})", flush=True)
        begin = time.perf_counter()
        records = folder / "chips" / re.sub(r"\W+", "_", text).strip("_")
        is_whole = not records.exists()  # else some of its chips were repaired before
        result = results[text] = evaluate_population(
            model,
            fault_model,
            test,
            FLAGS.chips,
            seed=FLAGS.seed,
            first_chip=FLAGS.first_chip,
            repair=None if plan is None else repair_flags.on(plan, dataset),
            out=str(records),
            resume=FLAGS.resume,
            jobs=FLAGS.jobs,
        )
        if result.interrupted:
            cli.fail("interrupted; --resume goes on where it stopped.", code=130)
        summary = result.summary()
        seconds = round((time.perf_counter() - begin) / FLAGS.chips, 3) if is_whole else None
        row: dict[str, Any] = {"repair": text, "access_tier": result.access_tier}
        row |= {figure: summary[figure] for figure in _FIGURES}
        row |= {"gain": result.mean - results["none"].mean, "seconds": seconds}
        rows.append(row)
    table = report.table(rows)
    about: dict[str, Any] = {
        "commit": commit,
        "training": training.origin(),
        "model": FLAGS.model,
        "data": dataset.name,
        "images": len(test[1]),
        "faults": spec(fault_model),
        "chips": FLAGS.chips,
        "seed": FLAGS.seed,
    }
    report.write_rows(folder / "repairs.csv", table, **about)
    repair_dots(results, folder / "repairs.png")
    curves = _curves(results)
    if curves:
        repair_cost(curves, folder / "images.png", without=results["none"])
    cells = report.in_percent(table, [*_FIGURES, "gain"])
    report.write(folder / "README.md", _readme(about, cells, bool(curves)))
    print(report.markdown(cells))
    print(f"Results: {folder}/")


def _plans() -> dict[str, Any]:
    """Returns the repairs by their text; none comes first, as the others are held to it."""
    from keras_rram.repair import parse

    texts = list(dict.fromkeys(["none", *FLAGS.repairs]))
    found: dict[str, Any] = {}
    for text in texts:
        try:
            found[text] = None if text == "none" else parse(text)
        except (ValueError, TypeError) as error:
            raise ValueError(f"--repairs={text}: {error}") from None
    return found


def _curves(results: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    """Returns results by repair and number of images, of repairs with three numbers or more."""
    found: dict[str, dict[int, Any]] = {}
    for text, result in results.items():
        counts = _IMAGES.findall(text)
        if len(counts) == 1:
            rest = _IMAGES.sub("", text).replace(":,", ":").replace(":+", "+")
            found.setdefault(rest.rstrip(":"), {})[int(counts[0])] = result
    return {name: curve for name, curve in found.items() if len(curve) > 2}


def _readme(about: dict[str, Any], cells: Any, has_curves: bool) -> str:
    training = about["training"] or {}
    curves = "\n![accuracy over the images of a repair](images.png)\n" if has_curves else ""
    return f"""# What repairs give back

One trained model ({training.get("name") or about["model"]}), {about["chips"]} chips of seed
{about["seed"]}, {about["images"]:,} test images of {about["data"]}, faults `{about["faults"]}`.
Accuracies in percent.

{report.markdown(cells)}

![accuracy of repaired chips](repairs.png)
{curves}
{report.commands([training])}
"""


if __name__ == "__main__":
    cli.run(main)
