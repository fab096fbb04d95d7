"""The page that puts the study and our runs side by side."""

import os
import pathlib
import shutil
from collections.abc import Sequence

from keras_rram.files import written_whole
from keras_rram.study.figures import collapse_figure, study_figure
from keras_rram.study.findings import judge
from keras_rram.study.panels import GROUPS, PANELS
from keras_rram.study.published import FILES, Published, read
from keras_rram.study.run import POPULATIONS

STUDY_FIGURES = {
    "Figure 2": ("2A", "2B", "2C"),
    "Figure 3": ("3A", "3B", "3C"),
    "Supplementary figure 1": ("S1A", "S1B", "S1C", "S1D", "S1E"),
    "Figure 4": ("4A", "4B", "4C", "4D", "4E", "4F"),
    "All convolutions dropped": ("all",),
    "Figure 1": GROUPS["architectures"],
}

_INTRODUCTION = """# The study, panel by panel

The study ("Exploration of Linear Bottleneck Architecture for RRAM Fault-tolerant Deep Learning",
2024) trained networks with Drop-Connect and measured each on one chip. Here each panel is trained
again and measured on a population of chips. This page is made by
`python -m tools.reproduce --panel= --publish=docs` from the files in `reproduction/`.

- *text*: as the study's text says, all kernels of the faulty blocks drop and every weight has one
  scale. *published*: as its code did, the depthwise kernels alone drop, and kept weights are scaled
  in training but not on a chip.
- *strided*: a network in the manner of MobileNetV2, with a stem and strides. *published* network:
  bottlenecks of 8 channels at stride 1 and a large dense head.
- Tier A is one model for all chips. Tier B is the same model with its batch normalization
  recalibrated on each chip, from unlabelled training images (`--repair=batch_norm`).
- Training is followed on test images, as the study did; nothing is chosen from it.
- All accuracies in percent. Mean: over chips, with the 95% interval over chips and images. sd:
  between chips, without the noise of finite test images. 5th: 5th percentile. One training seed
  stands behind each row, which no interval here accounts for.
- The scale of a row and its number of epochs are in the table of commands. `short` fits two CPU
  cores; it is not the study's number of epochs where the table says so.
"""


def publish(out: str | os.PathLike[str], docs: str | os.PathLike[str]) -> pathlib.Path:
    """Copies the small results of finished runs and rebuilds the page from all that are there.

    Args:
        out: folder of the runs; may be missing, when only the page is to be rebuilt.
        docs: folder of the page `reproduction.md` and of `reproduction/`.

    Returns:
        The path of the page.

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
            with written_whole(folder / name) as temporary:
                shutil.copyfile(record.parent / name, temporary)
    runs = read(results)
    if not runs:
        raise ValueError(
            f"Expected finished runs in '{out}' or '{results}'. Received: none (run "
            "`python -m tools.reproduce --panel=2A` first)"
        )
    sections = [_INTRODUCTION, _results(runs), _findings(runs)]
    sections += [_collapse(runs, results), _fluctuation(runs), _figures(runs, results)]
    sections += [_commands(runs), _missing(runs)]
    path = pages / "reproduction.md"
    with written_whole(path) as temporary:
        temporary.write_text("\n".join(section for section in sections if section))
    return path


def _results(runs: Sequence[Published]) -> str:
    titles = ["panel", "what", "network, protocol", "study", "tier", "fault-free", "mean (95%)"]
    titles += ["sd", "5th", "worst", "yield"]
    lines = ["## Results", "", *_head(titles)]
    for run in runs:
        for tier, name in (("A", "chips"), ("B", "chips_repaired")):
            if name not in run.record["populations"]:
                continue
            found = run.record["populations"][name]
            good = found["threshold"]
            share = found[f"yield_{good:g}"]
            cells = [
                run.panel.name,
                run.panel.title + _width(run),
                f"{run.record['network']}, {run.record['protocol']}",
                run.panel.reported if tier == "A" else "",
                tier,
                _percent(found["fault_free"]),
                _percent(found["mean"]) + _range(found["low"], found["high"]),
                _percent(found["sd"]),
                _percent(found["q05"]),
                _percent(found["worst"]),
                "-" if share is None else f"{100 * share:.0f}% reach {100 * good:.0f}",
            ]
            lines.append(_row(cells))
    return "\n".join([*lines, ""])


def _width(run: Published) -> str:
    alpha = run.record["setup"]["options"].get("alpha", 1.0)
    return "" if alpha == 1.0 else f", width {alpha:g}"


def _findings(runs: Sequence[Published]) -> str:
    titles = ["finding", "network, protocol, scale", "tier A", "", "tier B", ""]
    lines = ["## What the study found, judged", ""]
    lines += ["Differences are in points, over chips; an interval that holds the bound is `open`."]
    lines += ["", *_head(titles)]
    for as_is, repaired in zip(judge(runs), judge(runs, "chips_repaired"), strict=True):
        caveat = f"; {as_is.caveat}" if as_is.caveat else ""
        kind = f"{as_is.network}, {as_is.protocol}, {as_is.scale}{caveat}"
        cells = [as_is.finding.statement, kind]
        for verdict in (as_is, repaired):
            found = verdict.interval
            cells += [_percent(found.estimate) + _range(found.low, found.high), verdict.verdict]
        lines.append(_row(cells))
    return "\n".join([*lines, ""])


def _collapse(runs: Sequence[Published], folder: pathlib.Path) -> str:
    whole = [run for run in runs if set(POPULATIONS) <= set(run.chips)]
    if not whole:
        return ""
    collapse_figure(whole, folder / "collapse.png")
    lines = ["## The collapse at 30%", ""]
    lines += ["![Four populations of each panel](reproduction/collapse.png)", ""]
    lines += _head(
        ["panel", "as published", "recalibrated", "one scale", "one scale, recalibrated"]
    )
    gains = []
    for run in whole:
        means = [run.chips[name].mean() for name in POPULATIONS]
        gains.append([mean - means[0] for mean in means[1:]])
        lines.append(_row([run.panel.name, *(_percent(mean) for mean in means)]))
    average = [100 * sum(column) / len(gains) for column in zip(*gains, strict=True)]
    lines += [
        "",
        f"Over these {len(whole)} panels, recalibration alone gives {average[0]:+.1f} points, one "
        f"scale alone {average[1]:+.1f}, both {average[2]:+.1f}. What both recover was never lost "
        "capacity: it is the normalization's statistics, gathered on other weights than those of "
        "the chip. What is missing to the fault-free accuracy after both is capacity, and training "
        "that is short.",
        "",
        "The same statistics explain rows above whose fault-free accuracy is far below that of the "
        "chips: without a rescaling factor they were gathered on weights of which a share is "
        "zero, and no longer fit when all weights are back.",
        "",
    ]
    return "\n".join(lines)


def _fluctuation(runs: Sequence[Published]) -> str:
    rows = [run for run in runs if run.record["fluctuation"]]
    if not rows:
        return ""
    lines = ["## Fluctuation: epochs or chips?", ""]
    lines += [
        "Standard deviations in points, in the second half of training, of the accuracy on the "
        "followed chips: between epochs (all chips move together), between chips (always the same "
        "ones), and what is left (epoch by chip). A single chip's curve, as the study plots, mixes "
        "all three.",
        "",
        *_head(["panel", "network, protocol", "between epochs", "between chips", "epoch by chip"]),
    ]
    for run in rows:
        parts = run.record["fluctuation"]
        cells = [run.panel.name, f"{run.record['network']}, {run.record['protocol']}"]
        cells += [_percent(parts[name]) for name in ("epoch", "chip", "epoch:chip")]
        lines.append(_row(cells))
    return "\n".join([*lines, ""])


def _figures(runs: Sequence[Published], folder: pathlib.Path) -> str:
    lines = ["## Figures, in the study's layout", ""]
    for kind in sorted({run.kind for run in runs}):
        for title, names in STUDY_FIGURES.items():
            chosen = [
                run
                for run in runs
                if run.kind == kind and run.panel.name in names and not run.record["seed"]
            ]
            if chosen:
                file = f"{title.lower().replace(' ', '_')}-{'-'.join(kind)}.png"
                study_figure(chosen, folder / file)
                lines += [f"{title}: {', '.join(kind)}", "", f"![{title}](reproduction/{file})", ""]
    return "\n".join(lines)


def _commands(runs: Sequence[Published]) -> str:
    titles = ["panel", "command", "epochs", "chips x images", "training", "on", "commit"]
    lines = ["## Commands", "", *_head(titles)]
    for run in runs:
        record = run.record
        first = record["populations"]["chips"]
        cells = [
            run.panel.name,
            f"`{record.get('command', '-')}`",
            f"{record['epochs']} of {record['train_images']:,} images",
            f"{first['chips']} x {record['test_images']:,}",
            f"{record['training_seconds'] / 60:.0f} min",
            f"{record['backend']}, {record['setup']['hardware']}",
            f"`{record.get('commit', '-')}`",
        ]
        lines.append(_row(cells))
    return "\n".join([*lines, ""])


def _missing(runs: Sequence[Published]) -> str:
    wanted = [
        (name, network, "published" if network == "published" else "text")
        for name, panel in PANELS.items()
        for network in panel.networks
    ]
    done = {(run.panel.name, *run.kind[:2]) for run in runs}
    rest = [run for run in wanted if run not in done]
    if not rest:
        return ""
    lines = ["## Still to run", ""]
    lines += ["The command of a row above with another panel; DIR is a tensorflow-datasets folder."]
    lines += ["", *_head(["panel", "expected", "about, on two cores", "command"])]
    for name, network, protocol in rest:
        panel = PANELS[name]
        command = (
            f"`python -m tools.reproduce --panel={name} --network={network} "
            f"--protocol={protocol} --data_dir=DIR --publish=docs`"
        )
        lines.append(_row([name, panel.expectation, f"{panel.minutes[network]:.0f} min", command]))
    return "\n".join([*lines, ""])


def _head(titles: Sequence[str]) -> list[str]:
    return [_row(titles), _row(["---"] * len(titles))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({100 * low:.2f} to {100 * high:.2f})"
