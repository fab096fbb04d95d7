r"""Measures which layers bear faults: each alone, and all but each, with what it costs on RRAM.

Every layer of a trained model, 50 chips with images of their own, in both access tiers:

  python -m tools.sensitivity --model=runs/all/model.keras --fault_rates=0.2 --out=runs/sensitive

Bottlenecks as a whole, at two rates, and cells of bit lines instead of single weights:

  python -m tools.sensitivity --model=runs/digits/model.keras --groups=place \
      --fault_rates=0.1,0.2 --out=runs/places
  python -m tools.sensitivity --model=runs/digits/model.keras --fault_model=column_faults \
      --fault_rates=0.05 --out=runs/columns

What lies before a layer is computed once for all, so that all layers alone and all but each cost
about as many networks as there are layers. Statistics of batch normalization are gathered anew for
each set of faulty layers, over chips of a stream of their own ("placement", access tier A), or on
each chip ("chip", tier B); "model" takes those of the file. The folder `--out` gets
`sensitivity.csv`, `sensitivity.json` and `sensitivity.png`. Accuracies are in [0, 1]: `alone` is
what is lost where the group alone is faulty, `all_but` where all others are, `gain` what making it
exact gives back then, each with its 95% interval over chips and images. `first` and `second` are
the expected rise of the loss, estimated from gradients on training images. `analog_pj`, `analog_ns`
and `digital_pj` are coarse prices of one inference, see `docs/placement.md`.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from . import cli, fault_flags, inputs, number_flags, placement_flags, report

FLAGS = flags.FLAGS

inputs.define_model(convert=True)
inputs.define_data()
fault_flags.define()
fault_flags.define_chips(50, least=2)
flags.DEFINE_list("fault_rates", None, "Fault rates in (0, 1). Default: that of --fault_model.")
placement_flags.define()
flags.DEFINE_list(
    "statistics",
    None,
    "Where statistics come from: model, placement, chip. Default: placement and chip, or model "
    "where the model has none.",
)
number_flags.define_whole(
    "estimate_images", 256, "Training images for the estimate by gradients; 0: none.", "[0, 1e9]"
)
number_flags.define_whole("estimate_chips", 16, "Chips for it.", "[1, 1e9]")
report.define_figures()
flags.DEFINE_string("out", None, "Folder for the results.")


def main(argv: Sequence[str]) -> None:
    """Measures as the flags say and writes table and figure."""
    del argv
    import tqdm

    from keras_rram.faults import at_rate, spec
    from keras_rram.placement import StagedNetwork, group_layers, measure_sensitivity
    from keras_rram.plots.placement import sensitivity_bars

    rates = None if FLAGS.fault_rates is None else cli.numbers("fault_rates", "(0, 1)")
    fault_model = fault_flags.given(0.1, rates)
    placement_flags.prices()
    model, dataset, data = inputs.load()
    groups = group_layers(model, FLAGS.groups, FLAGS.keep)
    costs = placement_flags.costs(model, groups)
    kinds = FLAGS.statistics or placement_flags.statistics_of(model)
    if unknown := sorted(set(kinds) - {"model", "placement", "chip"}):
        raise ValueError(f"--statistics: expected model, placement, chip. Received: {unknown}")
    calibration, network = placement_flags.calibration(dataset), StagedNetwork(model)
    models = [at_rate(fault_model, rate) for rate in rates] if rates else [fault_model]
    benches = {  # before a folder is made, whether they can be
        (one.rate, kind): placement_flags.bench(
            network, one, data, calibration, kind, FLAGS.chips, "evaluation", FLAGS.first_chip
        )
        for one in models
        for kind in kinds
    }
    folder = cli.output_folder(FLAGS.out)
    commit, started, worked = cli.commit(), time.time(), time.process_time()
    results: dict[str, Any] = {}
    rows, seconds, estimates = [], {}, {}
    for one in models:
        if FLAGS.estimate_images:
            before = time.time()
            estimates[one.rate] = _estimates(model, dataset, one, groups, calibration, kinds)
            seconds[f"estimate, {one.rate:g}"] = round(time.time() - before, 1)
        for kind in kinds:
            before, label = time.time(), _label(kind, one.rate, rates)
            with tqdm.tqdm(total=FLAGS.chips, unit="chip", desc=label, disable=None) as bar:
                bench = benches[one.rate, kind]
                found = measure_sensitivity(bench, groups, functools.partial(bar.update, 1))
            seconds[label] = round(time.time() - before, 1)
            results[label] = found
            rows += _rows(found, one.rate, costs, estimates.get(one.rate, {}), label)
    table = report.table(rows)
    about = {
        "commit": commit,
        "training": inputs.Training.beside(FLAGS.model).origin(),
        "data": dataset.name,
        "fault_models": [spec(one) for one in models],
        "seed": FLAGS.seed,
        "first_chip": FLAGS.first_chip,
        "seconds": seconds,
        "seconds_in_all": round(time.time() - started, 1),
        "processor_seconds": round(time.process_time() - worked, 1),
        "results": {label: found.to_dict() for label, found in results.items()},
        "rank_correlations": _correlations(table),
    }
    report.write_rows(folder / "sensitivity.csv", table, **about)
    sensitivity_bars(results, folder / f"sensitivity.{FLAGS.figures}")
    shares = ["alone", "alone_low", "alone_high", "gain", "gain_low", "gain_high"]
    shown = ["group", "rate", "tier", *shares, "saved_pj"]
    report.show(report.in_percent(table[shown], shares), _notes(about))


def _label(kind: str, rate: float, rates: Sequence[float] | None) -> str:
    words = {"model": "tier A, as trained", "placement": "tier A", "chip": "tier B"}[kind]
    return f"{words}, {100 * rate:g}%" if rates and len(rates) > 1 else words


def _estimates(
    model: Any, dataset: Any, fault_model: Any, groups: Any, calibration: Any, kinds: Sequence[str]
) -> Any:
    """Estimates from gradients, of the model with the statistics that it has without faults."""
    from contextlib import nullcontext

    from keras_rram import population, recalibrate_batch_norm
    from keras_rram.placement import estimate_sensitivity
    from keras_rram.repair.batch_norm import normalizations

    images = dataset.arrays("train", min(FLAGS.estimate_images, len(dataset.train_labels)))
    chips = population(fault_model, FLAGS.estimate_chips, FLAGS.seed, stream="calibration")
    anew = set(kinds) != {"model"} and normalizations(model, required=False)
    with recalibrate_batch_norm(model, calibration) if anew else nullcontext():
        return estimate_sensitivity(model, chips, images, groups)


def _rows(
    found: Any, rate: float, costs: Any, estimates: Mapping[str, Any], label: str
) -> list[dict[str, Any]]:
    rows = []
    for row in found.to_frame().to_dict("records"):
        values = {"label": label, "rate": rate, **row}
        if estimate := estimates.get(row["group"]):
            values |= {"first": estimate.first, "second": estimate.second}
        rows.append(values | costs[row["group"]])
    return rows


def _correlations(table: Any) -> dict[str, float | None]:
    """Rank correlations of the measured sensitivities with each other and with the estimates."""
    from keras_rram.placement import rank_correlation

    found = {}
    parts = {label: part.reset_index() for label, part in table.groupby("label", sort=False)}
    for label, part in parts.items():
        found[f"{label}: alone, gain"] = rank_correlation(list(part["alone"]), list(part["gain"]))
        for name in ("first", "second"):
            if name in part:
                for measured in ("alone", "gain"):
                    key = f"{label}: {measured}, {name} order"
                    found[key] = rank_correlation(list(part[measured]), list(part[name]))
    labels = list(parts)
    for number, one in enumerate(labels):
        for other in labels[number + 1 :]:
            for name in ("alone", "gain"):
                ranks = list(parts[one][name]), list(parts[other][name])
                found[f"{name}: {one}, {other}"] = rank_correlation(*ranks)
    return found


def _notes(about: Mapping[str, Any]) -> list[str]:
    notes = []
    for label, found in about["results"].items():
        healthy, whole = found["fault_free"]["estimate"], found["all_faulty"]["estimate"]
        notes.append(
            f"{label}: {report.percent(healthy)}% fault-free, {report.percent(whole)}% with all "
            f"faulty, {found['chips']} chips of {found['images']} images; longest interval "
            f"{report.percent(found['widest'])} points."
        )
    ranks = {k: v for k, v in about["rank_correlations"].items() if v is not None}
    notes += [f"rank correlation, {name}: {value:+.2f}" for name, value in ranks.items()]
    return [*notes, f"{about['seconds_in_all']:.0f} seconds. Results: {FLAGS.out}/"]


if __name__ == "__main__":
    cli.run(main)
