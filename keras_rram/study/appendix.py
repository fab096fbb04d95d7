"""The full tables: for an auditor, as a page and as CSV."""

import csv
import io
from collections.abc import Sequence

from keras_rram.study.bottlenecks import ALL_PANELS
from keras_rram.study.judgement import row
from keras_rram.study.markdown import kind_name, of, percent, seeds_name, table, with_range
from keras_rram.study.published import Published
from keras_rram.study.run import TIERS
from keras_rram.study.sources import SOURCES, Split
from keras_rram.study.summary import Judged

COLUMNS = ("panel", "network", "protocol", "scale", "method", "seed", "tier", "epochs")
FIGURES = ("fault_free", "mean", "low", "high", "sd", "q05", "worst", "chips")

_INTRODUCTION = """# The study, panel by panel: all numbers

The full tables behind [the page for readers](reproduction.md), and how each number was made. The
same numbers are in `reproduction.csv`.

- *text*: as the study's text says, all kernels of the faulty blocks drop and every weight has one
  scale. *published*: as its code did, the depthwise kernels alone drop, and kept weights are scaled
  in training but not on a chip.
- *strided*: a network in the manner of MobileNetV2, with a stem and strides. *published* network:
  bottlenecks of 8 channels at stride 1 and a large dense head.
- Tier A is one model for all chips. Tier B is the same model with its batch normalization
  recalibrated on each chip, from unlabelled training images (`--repair=batch_norm`).
- Training is followed on test images, as the study did; nothing is chosen from it.
- All accuracies in percent. Mean: over chips, with the 95% interval over chips and images. sd:
  between chips, without the noise of finite test images. 5th percentile and yield: in runs whose
  answers are kept, without that noise; in older ones, as measured. Worst: as measured.
"""


def appendix(runs: Sequence[Published], judged: Judged, splits: Sequence[Split]) -> str:
    """Returns the page.

    Args:
        runs: all finished runs.
        judged: their verdicts, in both tiers.
        splits: what the spread of their answers is made of.
    """
    sections = [_INTRODUCTION, _results(runs), _findings(judged), _sources(splits)]
    sections += [_fluctuation(runs), _commands(runs), _missing(runs)]
    return "\n".join(section for section in sections if section)


def full_table(runs: Sequence[Published]) -> str:
    """Returns one row of CSV for each run and tier, accuracies in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *FIGURES, "test_images", "threshold", "yield", "commit"])
    for run in runs:
        record = run.record
        for tier, name in TIERS.items():
            if name in record["populations"]:
                found = record["populations"][name]
                threshold = found["threshold"]
                cells = [({"tier": tier} | record)[column] for column in COLUMNS]
                cells += [found[figure] for figure in FIGURES]
                cells += [
                    found.get("images", record["test_images"]),
                    threshold,
                    found[f"yield_{threshold:g}"],
                ]
                writer.writerow([*cells, record.get("commit", "")])
    return text.getvalue()


def _results(runs: Sequence[Published]) -> str:
    titles = ["panel", "what", "network, protocol", "study", "tier", "fault-free", "mean (95%)"]
    titles += ["sd", "5th", "worst", "yield"]
    rows = []
    for run in runs:
        for tier, name in TIERS.items():
            if name not in run.record["populations"]:
                continue
            found = run.record["populations"][name]
            good = found["threshold"]
            share = found[f"yield_{good:g}"]
            rows.append(
                [
                    run.panel.name,
                    run.panel.title + _width(run),
                    kind_name(run.kind, run.record["seed"]),
                    run.panel.reported if tier == "A" else "",
                    tier,
                    percent(found["fault_free"]),
                    with_range(*row(run, name)),
                    percent(found["sd"]),
                    percent(found["q05"]),
                    percent(found["worst"]),
                    "-" if share is None else f"{100 * share:.0f}% reach {100 * good:.0f}",
                ]
            )
    return "\n".join(["## Results", "", *table(titles, rows)])


def _width(run: Published) -> str:
    alpha = run.record["setup"]["options"].get("alpha", 1.0)
    return "" if alpha == 1.0 else f", width {alpha:g}"


def _findings(judged: Judged) -> str:
    lines = ["## What the study found, judged", ""]
    lines += [
        "Means in percent, differences in points, with 95% intervals over chips and images, and "
        "over training seeds where there are several. *open*: the interval holds the bound, or it "
        "is not reached after fewer epochs than the study's. *not comparable*: the panels were not "
        "trained alike. *Bound*: a run from before answers were "
        "kept; the interval is then at most the sum of the two rows' own. A network without batch "
        "normalization has nothing to recalibrate: its tier B is its tier A.",
        "",
    ]
    rows = []
    for as_is, repaired in judged:
        caveat = f"; {as_is.caveat}" if as_is.caveat else ""
        seeds = f"; {seeds_name(as_is.seeds)}" if as_is.seeds != (0,) else ""
        cells = [as_is.finding.statement, kind_name(as_is.kind) + seeds + caveat]
        for verdict in (as_is, repaired):
            cells += [of(verdict.interval), verdict.verdict]
        rows.append([*cells, "bound" if "bound" in as_is.interval.method else "answers"])
    titles = ["finding", "runs", "tier A", "", "tier B", "", "interval from"]
    return "\n".join([*lines, *table(titles, rows)])


def _sources(splits: Sequence[Split]) -> str:
    rows = []
    for split in splits:
        sds = [percent(split.sd[source]) for source in SOURCES]
        seeds = ", ".join(map(str, split.seeds))
        rows.append([split.run.panel.name, kind_name(split.run.kind), seeds, split.tier, *sds])
    if not rows:
        return ""
    lines = ["## Seed, chip or image?", ""]
    lines += [
        "Standard deviations in points of single answers (right is 100, wrong 0), from a crossed "
        "analysis of variance of the kept answers: between training seeds, chips and images; of "
        "pairs of them beyond that (*seed:chip*: a chip is bad for one training and not for "
        "another); and of what is left. An accuracy of many images has *seed*, *chip* and "
        "*seed:chip* whole, and of the others what is not averaged away.",
        "",
    ]
    titles = ["panel", "runs", "seeds", "tier", *SOURCES[:-1], "rest"]
    return "\n".join([*lines, *table(titles, rows)])


def _fluctuation(runs: Sequence[Published]) -> str:
    rows = [
        [run.panel.name, kind_name(run.kind, run.record["seed"])]
        + [percent(run.record["fluctuation"][name]) for name in ("epoch", "chip", "epoch:chip")]
        for run in runs
        if run.record["fluctuation"]
    ]
    if not rows:
        return ""
    lines = ["## Fluctuation: epochs or chips?", ""]
    lines += [
        "Standard deviations in points, in the second half of training, of the accuracy on the "
        "followed chips: between epochs (all chips move together), between chips (always the same "
        "ones), and what is left (epoch by chip). A single chip's curve, as the study plots, mixes "
        "all three.",
        "",
    ]
    titles = ["panel", "runs", "between epochs", "between chips", "epoch by chip"]
    return "\n".join([*lines, *table(titles, rows)])


def _commands(runs: Sequence[Published]) -> str:
    titles = ["panel", "command", "epochs", "chips x images", "training", "on", "commit", "answers"]
    rows = []
    for run in runs:
        record = run.record
        rows.append(
            [
                run.panel.name,
                f"`{record.get('command', '-')}`",
                f"{record['epochs']} of {record['train_images']:,} images",
                f"{record['populations']['chips']['chips']} x {record['test_images']:,}",
                f"{record['training_seconds'] / 60:.0f} min",
                f"{record['backend']}, {record.get('device', record['setup']['hardware'])}",
                f"`{record.get('commit', '-')}`",
                "kept" if run.answers else "not kept",
            ]
        )
    return "\n".join(["## Commands", "", *table(titles, rows)])


def _missing(runs: Sequence[Published]) -> str:
    wanted = [
        (name, network, "published" if network == "published" else "text")
        for name, panel in ALL_PANELS.items()
        for network in panel.networks
    ]
    done = {(run.panel.name, *run.kind[:2]) for run in runs}
    rows = []
    for name, network, protocol in wanted:
        if (name, network, protocol) not in done:
            panel = ALL_PANELS[name]
            command = (
                f"`python -m tools.reproduce --panel={name} --network={network} "
                f"--protocol={protocol} --data_dir=DIR --publish=docs`"
            )
            minutes = f"{panel.minutes[network]:.1f} min"
            rows.append([name, panel.expectation, minutes, command])
    if not rows:
        return ""
    lines = ["## Still to run", "", "DIR is a tensorflow-datasets folder.", ""]
    titles = ["panel", "expected", "an epoch, on two cores", "command"]
    return "\n".join([*lines, *table(titles, rows)])
