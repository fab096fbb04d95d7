"""The page that puts the study and our runs side by side, for readers."""

import os
import pathlib
import shutil
from collections.abc import Sequence

from keras_rram.files import written_whole
from keras_rram.study.appendix import appendix, full_table
from keras_rram.study.bottlenecks import MATCHED, PAIRS
from keras_rram.study.figures import (
    collapse_figure,
    equal_cost_figure,
    overview_figure,
    study_figure,
)
from keras_rram.study.judgement import Gain, gains, judge, row
from keras_rram.study.markdown import kind_name, of, percent, seeds_name, table, with_range
from keras_rram.study.methods import METHODS, STUDY
from keras_rram.study.panels import GROUPS
from keras_rram.study.published import FILES, Published, read
from keras_rram.study.run import POPULATIONS
from keras_rram.study.sources import Split, split_by_source
from keras_rram.study.summary import Judged, longest_trained, summary

EXPERIMENTS = {
    "Figure 2": ("MNIST at 0 and 10%", ("2A", "2B", "2C")),
    "Figure 3": ("MNIST at 20%", ("3A", "3B", "3C")),
    "Supplementary figure 1": ("MNIST at 30%", ("S1A", "S1B", "S1C", "S1D", "S1E")),
    "Figure 4": ("ResNet20 with bottlenecks, CIFAR-10", ("4A", "4B", "4C", "4D", "4E", "4F")),
    "All convolutions dropped": ("ResNet20 as it is, CIFAR-10", ("all",)),
    "At equal cost": (
        "ResNet20 of basic blocks (at 20% those above) or of linear bottlenecks, CIFAR-10",
        tuple(MATCHED),
    ),
    "Figure 1": ("plain training against Drop-Connect at 30%, CIFAR-10", GROUPS["architectures"]),
}
"""Figure of the study, or question of our own -> what it shows, and its panels."""

_INTRODUCTION = """# The study, reproduced

"Exploration of Linear Bottleneck Architecture for RRAM Fault-tolerant Deep Learning" (2024) trained
networks with Drop-Connect and measured each on one chip. Here each panel is trained again and
measured on populations of chips. Tier A is one model for all chips; tier B recalibrates its batch
normalization on each chip, without labels. Where it was measured on fewer images than tier A (the
table as CSV says so), its column does not compare with that of tier A: verdicts are on common
images. Where a network was trained at several lengths, the sentences speak of the longest, the
tables of all. [All numbers, commands and provenance](reproduction_appendix.md), and the
[table as CSV](reproduction.csv). This page is made by
`python -m tools.reproduce --panel= --publish=docs` from the files in `reproduction/`.

## What was found
"""


def publish(out: str | os.PathLike[str], docs: str | os.PathLike[str]) -> pathlib.Path:
    """Copies the small results of finished runs and rebuilds the pages from all that are there.

    Args:
        out: folder of the runs; may be missing, when only the pages are to be rebuilt.
        docs: folder of the pages `reproduction.md` and `reproduction_appendix.md`, of
            `reproduction.csv` and of `reproduction/`.

    Returns:
        The path of the page for readers.

    Raises:
        ValueError: if there is no finished run, neither in `out` nor published.
    """
    pages = pathlib.Path(docs)
    results = pages / "reproduction"
    results.mkdir(parents=True, exist_ok=True)
    for record in sorted(pathlib.Path(out).glob("*/record.json")):
        folder = results / record.parent.name
        folder.mkdir(exist_ok=True)
        for name in FILES:
            if (record.parent / name).exists():
                with written_whole(folder / name) as temporary:
                    shutil.copyfile(record.parent / name, temporary)
    runs = read(results)
    if not runs:
        raise ValueError(
            f"Expected finished runs in '{out}' or '{results}'. Received: none (run "
            "`python -m tools.reproduce --panel=2A` first)"
        )
    judged = list(zip(judge(runs), judge(runs, "chips_repaired"), strict=True))
    splits = split_by_source(runs)
    for name, text in (
        ("reproduction.csv", full_table(runs)),
        ("reproduction_appendix.md", appendix(runs, judged, splits) + _figures(runs, results)),
        ("reproduction.md", _page(runs, judged, splits, results)),
    ):
        with written_whole(pages / name) as temporary:
            temporary.write_text(text)
    return pages / "reproduction.md"


def _page(
    runs: Sequence[Published], judged: Judged, splits: Sequence[Split], folder: pathlib.Path
) -> str:
    lines = [_INTRODUCTION]
    lines += [f"{number}. {said}" for number, said in enumerate(summary(runs, judged, splits), 1)]
    if judged:
        overview_figure(longest_trained(runs, judged), folder / "overview")
        lines += ["", _image("Every finding, in both tiers", "overview")]
    for title, (what, panels) in EXPERIMENTS.items():
        chosen = [run for run in runs if run.panel.name in panels]
        if chosen:
            lines += ["", f"## {title}: {what}", "", *_experiment(chosen, judged)]
            if set(PAIRS) <= set(panels):
                lines += _equal_cost(runs, judged, folder)
    gained = gains(runs)
    lines += _gains(gained) + _trained_otherwise(judged, gained)
    lines += _collapse(runs, folder)
    return "\n".join(lines) + "\n"


def _experiment(runs: Sequence[Published], judged: Judged) -> list[str]:
    rows = []
    for run in runs:
        tiers = [
            with_range(*row(run, name)) if name in run.record["populations"] else "-"
            for name in ("chips", "chips_repaired")
        ]
        verdicts = [
            " / ".join(dict.fromkeys(verdict.verdict for verdict in pair))
            for pair in judged
            if pair[0].finding.panel == run.panel.name
            and pair[0].kind == run.kind
            and run.record["seed"] in pair[0].seeds
        ]
        name = kind_name(run.kind, run.record["seed"])
        panel = f"**{run.panel.name}** {run.panel.title}<br>{name}"
        epochs = f"{run.record['epochs']}"
        rows.append([panel, epochs, run.panel.reported, *tiers, "; ".join(verdicts) or "-"])
    titles = ["panel", "epochs", "study", "ours, tier A", "ours, tier B", "verdict (A / B)"]
    return table(titles, rows)


def _equal_cost(runs: Sequence[Published], judged: Judged, folder: pathlib.Path) -> list[str]:
    """Draws the comparisons at equal cost, and returns the images."""
    pairs = [pair for pair in judged if pair[0].finding.panel in PAIRS]
    lines = []
    for alike in dict.fromkeys(pair[0].kind[:3] for pair in pairs):
        name = f"tolerance_at_equal_cost-{'-'.join(alike)}"
        chosen = [pair for pair in pairs if pair[0].kind[:3] == alike]
        equal_cost_figure(runs, chosen, folder / name)
        lines += [_image("Basic blocks and linear bottlenecks of equal cost", name), ""]
    return lines


def _gains(gained: Sequence[Gain]) -> list[str]:
    rows = []
    for gain in gained:
        means = [of_run.record["populations"]["chips"] for of_run in (gain.base, gain.run)]
        rows.append(
            [
                f"**{gain.run.panel.name}** {gain.run.panel.title}<br>"
                f"{kind_name((*gain.run.kind[:3], STUDY), gain.run.record['seed'])}",
                METHODS[gain.run.record["method"]].title,
                METHODS[gain.base.record["method"]].title,
                str(gain.run.record["epochs"]),
                *(with_range(*row(of_run, "chips")) for of_run in (gain.base, gain.run)),
                of(gain.interval),
                " to ".join(percent(found["fault_free"]) for found in means),
            ]
        )
    if not rows:
        return []
    titles = ["panel", "trained otherwise", "instead of", "epochs", "that, tier A"]
    return [
        "",
        "## Trained for every chip: what other training gives, at equal epochs",
        "",
        "One model for all chips, no repair; [how, and why](robust_training.md).",
        "",
        *table([*titles, "otherwise, tier A", "difference", "fault-free, from to"], rows),
    ]


def _trained_otherwise(judged: Judged, gained: Sequence[Gain]) -> list[str]:
    """Returns the study's findings, judged by other training of equal epochs, in tier A."""
    alike = {(gain.run.panel.name, gain.run.kind) for gain in gained}
    as_they_are = {(verdict.finding, verdict.kind): verdict for verdict, _ in judged}
    rows = []
    for (finding, kind), verdict in as_they_are.items():
        study = as_they_are.get((finding, (*kind[:3], STUDY)))
        if (finding.panel, kind) in alike and study and not finding.any_method:
            found = [
                f"{of(one.interval)}, {one.verdict}; {seeds_name(one.seeds)}"
                for one in (study, verdict)
            ]
            rows.append([finding.statement, kind_name(kind), *found])
    if not rows:
        return []
    return [
        "",
        "**What is left of the study's findings, trained so.** Means in percent, differences in "
        "points, in tier A, on the same chips and images:",
        "",
        *table(["finding", "trained otherwise", "as the study trains", "otherwise"], rows),
    ]


def _collapse(runs: Sequence[Published], folder: pathlib.Path) -> list[str]:
    whole = [run for run in runs if set(POPULATIONS) <= set(run.chips)]
    if not whole:
        return []
    collapse_figure(whole, folder / "collapse")
    return [
        "",
        "## Why the accuracy collapses at 30%",
        "",
        "Mean over chips of the protocol *published*, which trains on scaled weights and evaluates "
        "on unscaled ones, and the same model on one scale, recalibrated, and both.",
        "",
        _image("Four populations of each panel", "collapse"),
        "",
        "What recalibration gives back was never lost capacity: it is the normalization's "
        "statistics, gathered on other weights than those of the chip. The same statistics explain "
        "rows whose fault-free accuracy is below that of their chips: they were gathered on "
        "weights of which a share is zero, and no longer fit when all weights are back.",
    ]


def _figures(runs: Sequence[Published], folder: pathlib.Path) -> str:
    lines = ["", "## Figures, in the study's layout", ""]
    for kind in sorted({run.kind for run in runs}):
        for title, (_, names) in EXPERIMENTS.items():
            chosen = [
                run
                for run in runs
                if run.kind == kind and run.panel.name in names and not run.record["seed"]
            ]
            if chosen:
                file = f"{title.lower().replace(' ', '_')}-{'-'.join(kind[:3])}"
                file += f"-{kind[3]}" if kind[3] != "study" else ""
                study_figure(chosen, folder / file)
                lines += [f"{title}: {kind_name(kind)}", "", _image(title, file), ""]
    return "\n".join(lines)


def _image(title: str, name: str) -> str:
    return f"![{title}](reproduction/{name}.svg)"
