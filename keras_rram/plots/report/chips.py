"""The chips of a report: a table of all, and of each its classes, layers, tile maps, commands."""

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rram.chips import Chip
from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.results import PopulationResult
from keras_rram.faults import parse
from keras_rram.hardware.tile_placement import TilePlacement, place
from keras_rram.plots.report.pixels import BLOCKS, chip_pictures, data_uri, fitting_block

_MOST_CLASSES = 12
_LIMIT = 1_300_000  # bytes of pictures in a page


@dataclass(frozen=True, eq=False)
class Chips:
    """What is known of the chips of a run besides their answers; each may be missing.

    Attributes:
        model: the evaluated model, for layers and tile maps.
        labels: class of each test image `(images,)`, for the accuracy by class.
        given: the chips by index, where they were not sampled.
        commands: called with a result and a chip's record; returns what to do, and the command for
            it, of each command that helps with the chip.
    """

    model: Any = None
    labels: np.ndarray | None = None
    given: Sequence[Chip] = ()
    commands: Callable[[PopulationResult, ChipResult], dict[str, str]] | None = None

    def chip(self, result: PopulationResult, record: ChipResult) -> Chip:
        """Returns a chip of a result.

        Raises:
            ValueError: if its fault model has no text.
        """
        if self.given:
            return self.given[record.index]
        try:
            model = parse(result.fault_model)
        except ValueError as error:
            raise ValueError(
                f"Chips of '{result.fault_model:.200}' cannot be drawn again for their layers and "
                "tiles. Give them, as Chips(given=...), or give a fault model of your own a name: "
                f"keras_rram.faults.NAMES['name'] = YourModel. ({error})"
            ) from error
        return Chip(model, result.seed, record.index)


def chip_table(run: str, results: Sequence[PopulationResult]) -> str:
    """Returns the table of all chips of a run, with links to their details."""
    heads = ["chip", "fault rate %", "faulty weights %", _head(results[0])]
    rows = []
    for number, result in enumerate(results):
        for record in result.chips:
            shown, value = _value(result, record.accuracy), record.accuracy
            rows.append(
                f'<tr data-rate="{number}" data-value="{_scaled(result, value):.6g}">'
                f'<td data-v="{record.index}"><a href="#{_id(run, number, record)}">'
                f"{_name(record)}</a></td>"
                f'<td data-v="{result.rate}">{100 * result.rate:.4g}</td>'
                f'<td data-v="{record.achieved_fault_rate:.6g}">'
                f"{100 * record.achieved_fault_rate:.2f}</td>"
                f'<td data-v="{value:.8g}">{shown}</td></tr>'
            )
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rates = "".join(
        f'<option value="{number}">{100 * result.rate:.4g}%</option>'
        for number, result in enumerate(results)
    )
    return (
        '<p class="filters hidden"><label>Fault rate <select><option value="">all</option>'
        f"{rates}</select></label> <label>{_head(results[0])} below "
        '<input type="number" step="any"></label> <label>Chip <input type="search"></label> '
        '<span class="count" role="status"></span></p>'
        '<div class="scroll tall" tabindex="0" role="region" aria-label="All chips">'
        f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>'
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def chip_details(run: str, results: Sequence[PopulationResult], known: Chips) -> Iterator[str]:
    """Yields a `<details>` element for each chip of a run."""
    placement = None if known.model is None else place(known.model)
    block = 1 if placement is None else _block(results, known, placement)
    if placement is not None:
        yield _key(block)
    for number, result in enumerate(results):
        for record in result.chips:
            reached = f"{html.escape(result.measure)} {_value(result, record.accuracy)}"
            parts = [
                f'<details class="chip" id="{_id(run, number, record)}"><summary>Chip '
                f"{_name(record)} at {100 * result.rate:.4g}% faults: {reached}"
                f"{'%' if result.is_counted else ''}</summary>"
            ]
            if (answers := record.answers) is not None and answers.dtype == bool:
                parts.append(_classes(answers, known.labels, record.folds))
            if placement is not None:
                parts.append(_layers(known.chip(result, record), known.model, placement, block))
            if known.commands is not None:
                for what, command in known.commands(result, record).items():
                    parts.append(
                        f"<div>{html.escape(what)}<code>{html.escape(command)}</code></div>"
                    )
            yield "".join(parts) + "</details>"


def _classes(answers: np.ndarray, labels: np.ndarray | None, folds: int) -> str:
    if labels is None or folds > 1 or len(labels) != len(answers):
        return ""
    found = {int(one): float(answers[labels == one].mean()) for one in np.unique(labels)}
    what = "Accuracy by class"
    if len(found) > _MOST_CLASSES:
        worst = sorted(found, key=lambda one: found[one])[:_MOST_CLASSES]
        what += f": the {_MOST_CLASSES} worst of {len(found)}"
        found = {one: found[one] for one in worst}
    head = "".join(f'<th scope="col">{one}</th>' for one in found)
    row = "".join(f"<td>{100 * share:.0f}</td>" for share in found.values())
    return (
        f'<h3>{what}</h3><div class="scroll"><table><tr><th scope="row">class</th>{head}</tr>'
        f'<tr><th scope="row">%</th>{row}</tr></table></div>'
    )


def _layers(chip: Chip, model: Any, placement: TilePlacement, block: int) -> str:
    pictures = chip_pictures(chip, model, placement, block)
    rows = []
    for name, fault in chip.faults(model).items():
        faulty, size = int(np.count_nonzero(fault.faulty)), fault.mask.size
        label = html.escape(name.removesuffix("/kernel"))
        picture = ""
        if name in pictures:
            words = f"tile map of {label}: {faulty} of {size} weights faulty"
            picture = f'<img loading="lazy" src="{data_uri(pictures[name])}" alt="{words}">'
        rows.append(
            f"<tr><td>{label}</td><td>{size:,}</td><td>{100 * fault.rate:.2f}</td>"
            f'<td class="map">{picture}</td></tr>'
        )
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("kernel", "weights", "faulty %", "tiles")
    )
    return (
        f'<h3>Layers</h3><div class="scroll"><table><tr>{head}</tr>'
        + "".join(rows)
        + "</table></div>"
    )


def _key(block: int) -> str:
    if block > 1:
        return (
            f'<p class="note">Tile maps: a pixel stands for {block} x {block} cells; the bluer, '
            "the more of them are faulty (full from one half on). White: not in use.</p>"
        )
    colours = {"#dddddd": "healthy", "#0072b2": "stuck off", "#d55e00": "stuck at another value"}
    key = "".join(
        f'<span style="background:{colour}"></span>{name}' for colour, name in colours.items()
    )
    return (
        '<p class="note key">Tile maps: a pixel for each cell, word lines down, bit lines across.'
        f"{key}</p>"
    )


def _block(results: Sequence[PopulationResult], known: Chips, placement: TilePlacement) -> int:
    """Returns how many cells a pixel stands for, so that all pictures fit into the page."""
    sizes = {}
    for block in BLOCKS:
        sizes[block] = sum(
            len(result.chips)
            * sum(
                len(data_uri(png))
                for png in chip_pictures(
                    known.chip(result, result.chips[0]), known.model, placement, block
                ).values()
            )
            for result in results
        )
        if sizes[block] <= _LIMIT:
            break
    return fitting_block(sizes, _LIMIT)


def _id(run: str, number: int, record: ChipResult) -> str:
    return f"{run}-{number}-{record.index}"


def _name(record: ChipResult) -> str:
    return html.escape(record.name or str(record.index))


def _head(result: PopulationResult) -> str:
    return html.escape(result.measure) + (" %" if result.is_counted else "")


def _scaled(result: PopulationResult, value: float) -> float:
    return 100 * value if result.is_counted else value


def _value(result: PopulationResult, value: float) -> str:
    return f"{100 * value:.2f}" if result.is_counted else f"{value:.4g}"
