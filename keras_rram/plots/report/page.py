"""The page of a report, from results to HTML."""

import html
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from keras_rram.evaluation.comparison import matched, paired_difference
from keras_rram.evaluation.results import PopulationResult
from keras_rram.files import written_whole
from keras_rram.plots import populations
from keras_rram.plots.report.chips import Chips, chip_details, chip_table
from keras_rram.plots.report.figures import inline_svg


@dataclass(frozen=True, eq=False)
class ReportRun:
    """A run as a report shows it.

    Attributes:
        name: what it is called, such as its folder.
        results: one result for each fault rate, as of `load_run`.
        chips: what is known of its chips besides.
        provenance: what made it: command, commit, versions, by name.
        required: the accuracy, in [0, 1], or the score that the yield of the first sentence is
            about; None for an accuracy of 0.9.
    """

    name: str
    results: Sequence[PopulationResult]
    chips: Chips = field(default_factory=Chips)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    required: float | None = None


def write_report(path: str | os.PathLike, runs: Sequence[ReportRun]) -> None:
    """Writes one self-contained HTML file about a run, or about two side by side.

    It needs no server, no network and no JavaScript to be read; with JavaScript, tables sort and
    filter, and a click on a chip opens its details. Equal runs give equal files.

    Args:
        path: the `.html` file, written whole or not at all.
        runs: one run or two.

    Raises:
        ValueError: if there are more, none, or one without a result, or two of one name.

    Example:

    ```python
    results = evaluate_rates(model, "stuck_at_zero", [0.1, 0.2], data=(images, labels))
    known = Chips(model=model, labels=labels)
    write_report("report.html", [ReportRun("mine", list(results), known)])
    ```
    """
    if len(runs) not in (1, 2) or not all(run.results for run in runs):
        raise ValueError(f"expected one run or two, each with a result. Received: {len(runs)}")
    if len({run.name for run in runs}) < len(runs):
        raise ValueError(f"expected two runs of different names. Received: '{runs[0].name}' twice")
    title = " and ".join(run.name for run in runs)
    body = [f"<h1>Faulty chips: {html.escape(title)}</h1>"]
    if len(runs) > 1:
        body.append(_side_by_side(runs[0], runs[1]))
    for number, run in enumerate(runs):
        body.append(_section(run, f"r{number}", len(runs) > 1))
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}: faulty chips</title>\n"
        f"<style>\n{_resource('page.css')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f"\n</main>\n<script>\n{_resource('page.js')}</script>\n</body>\n</html>\n"
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, "utf-8", newline="\n")


def headline(result: PopulationResult, required: float | None = None) -> str:
    """Returns a population in one sentence: mean, interval, worst, yield, and at which faults.

    Args:
        result: the population.
        required: the accuracy or the score that the yield is about; None: 0.9 of an accuracy, or
            no yield.
    """
    if required is None and result.is_counted:
        required = 0.9

    def shown(value: float) -> str:
        return f"{100 * value:.2f}%" if result.is_counted else f"{value:.4g}"

    count = len(result.chips)
    chips = f"{count:,} chips" if count > 1 else "one chip"
    said = (
        f"With {result.fault_model}, the mean {result.measure} of {chips} is {shown(result.mean)}"
    )
    if result.has_interval:
        found = result.mean_interval()
        said += (
            f" ({100 * found.confidence:g}% interval {shown(found.low)} to {shown(found.high)}, "
            f"{found.question})"
        )
    if result.folds == 1:
        said += f"; the worst chip has {shown(result.worst.accuracy)}"
        if required is not None:
            good = result.yield_at(required).interval
            said += (
                f", and {good.estimate:.0%} of chips reach {required:.4g} "
                f"(yield, {good.low:.0%} to {good.high:.0%})"
            )
    without = f"Without faults it is {shown(result.fault_free)}"
    if result.fault_free_repaired is None:
        return f"{said}. {without}."
    repaired = shown(result.fault_free_repaired)
    return f"{said}, each repaired by {result.repair}. {without}, and {repaired} repaired alike."


def _section(run: ReportRun, key: str, is_named: bool) -> str:
    results = sorted(run.results, key=lambda result: result.rate)
    parts = [f'<section aria-label="{html.escape(run.name, quote=True)}">']
    if is_named:
        parts.append(f"<h2>{html.escape(run.name)}</h2>")
    parts += [
        f'<p class="headline">{html.escape(headline(one, run.required))}</p>' for one in results
    ]
    tier = {
        "A": "one model for all chips",
        "B": "unlabelled images on each chip",
        "C": "each chip's map, or labels",
    }
    one = results[0]
    parts.append(
        f'<p class="note">Access tier {one.access_tier} ({tier[one.access_tier]}), repair: '
        f"{html.escape(one.repair)}, engine {html.escape(one.engine)}.</p>"
    )
    parts.append('<div class="plots">')
    parts += [f"<figure>{svg}</figure>" for svg in _figures(results, key)]
    parts.append("</div><h2>Chips</h2>")
    parts.append(chip_table(key, results))
    parts.append("<h2>Each chip</h2>")
    parts += chip_details(key, results, run.chips)
    parts.append("<h2>Provenance</h2><dl>")
    about = {
        "model": f"{one.name} (sha256 {one.model})",
        "data": one.data,
        "seed": one.seed,
        "fault models": ", ".join(result.fault_model for result in results),
        "chips": ", ".join(f"{len(result.chips):,} ({result.reason})" for result in results),
        **run.provenance,
    }
    parts += [
        f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in about.items()
    ]
    return "\n".join([*parts, "</dl></section>"])


def _figures(results: Sequence[PopulationResult], key: str) -> list[str]:
    full = [result for result in results if result.folds == 1]
    several = [result for result in results if len(result.chips) > 1]
    found = []
    for name, draw, drawn, title in (
        ("accuracy", populations.accuracy_against_rate, results, "mean against the fault rate"),
        ("chips", populations.chip_distribution, full, "each chip, at each fault rate"),
        ("yield", populations.yield_curve, full, "yield against the required accuracy"),
        ("convergence", populations.convergence, several, "mean against the number of chips"),
    ):
        if drawn:
            words = f"Figure, {drawn[0].measure}: {title}"
            found.append(inline_svg(draw(drawn), f"{key}-{name}", words))  # type: ignore[operator]
    return found


def _side_by_side(one: ReportRun, other: ReportRun) -> str:
    by_rate = [{result.rate: result for result in run.results} for run in (one, other)]
    rows = []
    for rate in sorted({*by_rate[0], *by_rate[1]}):
        cells = [f"<td>{100 * rate:.4g}</td>"]
        for found in by_rate:
            cells.append(_cells(found.get(rate)))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(
        f'<th scope="col">{html.escape(run.name)}: {name}</th>'
        for run in (one, other)
        for name in ("mean", "95% interval", "worst", "fault-free")
    )
    table = (
        '<h2>Side by side</h2><div class="scroll" tabindex="0" role="region" aria-label="Two runs">'
        f'<table><thead><tr><th scope="col">fault rate %</th>{heads}</tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table></div>"
    )
    return table + _paired(one, other)


def _paired(one: ReportRun, other: ReportRun) -> str:
    try:
        pairs = matched(list(one.results), list(other.results))
        differences = [paired_difference(a, b) for a, b in pairs]
    except ValueError as error:
        words = re.sub(r"\s+", " ", str(error))
        return f'<p class="note">The chips are not compared one by one: {html.escape(words)}</p>'
    is_counted = pairs[0][0].is_counted
    lines = []
    for (a, _), found in zip(pairs, differences, strict=True):
        low, estimate, high = found.interval.low, found.interval.estimate, found.interval.high
        scale, unit = (100, " points") if is_counted else (1, "")
        lines.append(
            f"<li>At {100 * a.rate:.4g}% faults {html.escape(one.name)} has {scale * estimate:+.2f}"
            f"{unit} more than {html.escape(other.name)} on the same chips (95% interval "
            f"{scale * low:+.2f} to {scale * high:+.2f}, {found.interval.question}).</li>"
        )
    drawn = populations.comparison(
        [a for a, _ in pairs], [b for _, b in pairs], labels=(one.name, other.name)
    )
    svg = inline_svg(drawn, "pair", f"Figure: {one.name} against {other.name}, chip by chip")
    return f"<ul>{''.join(lines)}</ul><figure>{svg}</figure>"


def _cells(result: PopulationResult | None) -> str:
    if result is None:
        return "<td>-</td>" * 4

    def shown(value: float) -> str:
        return f"{100 * value:.2f}" if result.is_counted else f"{value:.4g}"

    interval = "-"
    if result.has_interval:
        found = result.mean_interval()
        interval = f"{shown(found.low)} to {shown(found.high)}"
    worst = shown(result.worst.accuracy) if result.folds == 1 else "-"
    cells = shown(result.mean), interval, worst, shown(result.fault_free)
    return "".join(f"<td>{value}</td>" for value in cells)


def _resource(name: str) -> str:
    return (files("keras_rram.plots.report") / name).read_text("utf-8")
