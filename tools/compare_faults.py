r"""Compares what different faults do to one trained model, at matched fault rates.

The same share of faulty cells, as single weights, in clusters, in whole word or bit lines, at a
rate of its own in each tile, or as cells of differential pairs that are stuck off or on:

  python -m tools.compare_faults --model=runs/digits/model.keras --images=500 --chips=50 \
      --fault_rates=0.02,0.05,0.1,0.2 --out=runs/faults

Other fault models, each by its text:

  python -m tools.compare_faults --model=runs/digits/model.keras --fault_model=row_faults \
      --fault_model=row_faults:tile=64x64 --out=runs/rows

The folder `--out` gets `fault_models.csv`, `fault_models.json`, `fault_models.png` and `README.md`,
and under `chips/` the records of each population, from which `--resume` with the same flags goes
on. In their rows, accuracies and shares are in [0, 1]: `rate` is the mean share of faulty cells,
`changed` the measured share of weights that are not what was trained, `low` and `high` are the 95%
interval of the mean, and `q05` is the 5th percentile of the chips.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from . import cli, fault_flags, inputs, number_flags, report

FLAGS = flags.FLAGS

CURVES = {
    "independent weights": "stuck_at_zero",
    "spread over tiles": "spread_faults",
    "clusters": "clustered_faults",
    "word lines (rows)": "row_faults",
    "bit lines (columns)": "column_faults",
    "pairs, stuck off": "differential_pair:stuck_off=0.01",
    "pairs, 84% off, 16% on": "differential_pair:stuck_off=0.0904,stuck_on=0.0175",
    "pairs, stuck on": "differential_pair:stuck_on=0.01",
}
"""What is compared by default: name -> fault model, whose own rate does not count."""

inputs.define_model(convert=True)
inputs.define_data()
fault_flags.define(several=", ".join(CURVES.values()))
fault_flags.define_chips(100, least=2)
flags.DEFINE_list(
    "fault_rates", ["0.01", "0.02", "0.05", "0.1", "0.2", "0.3"], "Fault rates in (0, 1)."
)
number_flags.define_jobs("Processes; -1 for one on each core.")
flags.DEFINE_string("out", None, "Folder for the results.")
flags.DEFINE_bool("resume", False, "Go on with the run in --out, or begin one.")


_FIGURES = ("fault_free", "mean", "low", "high", "sd", "q05", "worst")


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say and writes table and figure."""
    del argv
    cli.check_output_folder()
    import numpy as np

    from keras_rram.evaluation import evaluate_rates
    from keras_rram.faults import at_rate, spec
    from keras_rram.plots import faults as plots_faults

    rates = sorted(set(cli.numbers("fault_rates", "(0, 1)")))
    texts = _texts()
    models = {name: fault_flags.parse(text, rates[0], rates) for name, text in texts.items()}
    model, dataset, test = inputs.load()
    training = inputs.Training.beside(FLAGS.model)
    commit = cli.commit()  # later the checkout may be another one
    folder = cli.output_folder(FLAGS.out, FLAGS.resume)
    curves: dict[str, Any] = {}
    found = []
    for number, (name, fault_model) in enumerate(models.items()):
        print(f"{name} ({number + 1} of {len(models)}): {texts[name]}", flush=True)
        curve = curves[name] = evaluate_rates(
            model,
            fault_model,
            rates,
            test,
            FLAGS.chips,
            seed=FLAGS.seed,
            first_chip=FLAGS.first_chip,
            out=str(folder / "chips" / re.sub(r"\W+", "_", name).strip("_")),
            resume=FLAGS.resume,
            jobs=FLAGS.jobs,
        )
        if curve.interrupted:
            cli.fail("interrupted; --resume goes on where it stopped.", code=130)
        for result in curve:
            summary = result.summary()
            row = {
                "name": name,
                "fault_model": spec(at_rate(fault_model, result.rate)),
                "rate": result.rate,
                "changed": float(np.mean([chip.achieved_fault_rate for chip in result.chips])),
            }
            found.append(row | {figure: summary[figure] for figure in _FIGURES})
    rows = report.table(found)
    about = {
        "commit": commit,
        "training": training.origin(),
        "model": FLAGS.model,
        "data": dataset.name,
        "images": len(test[1]),
        "fault_models": texts,
        "chips": FLAGS.chips,
        "seed": FLAGS.seed,
        "engine": next(iter(curves.values())).engine,
    }
    report.write_rows(folder / "fault_models.csv", rows, **about)
    plots_faults.fault_model_curves(
        {name: list(curve) for name, curve in curves.items()}, folder / "fault_models.png"
    )
    report.write(folder / "README.md", _readme(about, rows))
    print(report.markdown(_cells(rows)))
    print(f"Results: {folder}/")


def _texts() -> dict[str, str]:
    """Returns the fault models by name; those of the flag have no other name than their text."""
    if not FLAGS.fault_model:
        return CURVES
    texts = {text: text for text in FLAGS.fault_model}
    if len(texts) != len(FLAGS.fault_model):
        raise ValueError(f"expected each fault model once. Received: {FLAGS.fault_model}")
    return texts


def _cells(rows: Any) -> Any:
    """Returns mean and standard deviation over chips, in percent, a line for each fault model."""
    cells = rows.assign(
        cell=[
            f"{report.percent(row.mean)} ({report.percent(row.sd)})" for row in rows.itertuples()
        ],
        rate=rows["rate"].map(lambda rate: f"{100 * rate:g}%"),
    )
    wide = cells.pivot(index="name", columns="rate", values="cell")
    wide = wide.loc[rows["name"].unique(), cells["rate"].unique()]
    return wide.rename_axis("faults").reset_index()


def _readme(about: Mapping[str, Any], rows: Any) -> str:
    training = about["training"] or {}
    changed = {
        name: {
            "faults": name,
            "fault model": f"`{about['fault_models'][name]}`",
            "percent of the weights changed, at each rate": ", ".join(
                f"{100 * share:.3g}" for share in curve["changed"]
            ),
        }
        for name, curve in rows.groupby("name", sort=False)
    }
    return f"""# What different faults cost at one fault rate

One trained model ({training.get("name") or about["model"]}), {about["chips"]} chips of seed
{about["seed"]} for each fault model and rate, {about["images"]:,} test images of {about["data"]},
no repair (access tier A); fault-free accuracy {report.percent(rows["fault_free"][0])}%. Mean
accuracy over the chips (standard deviation of chips), percent, against the share of faulty cells,
to which each fault model was scaled:

{report.markdown(_cells(rows))}

{report.markdown(report.table(list(changed.values())))}

![accuracy against the share of faulty cells](fault_models.png)

{report.commands([training])}
"""


if __name__ == "__main__":
    cli.run(main)
