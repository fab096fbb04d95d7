"""The tables that people wrote hold the numbers of the runs that they are about."""

import csv
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NUMBER = r"\d+\.\d+"
INTERVAL = rf"(?P<low>{NUMBER}) to (?P<high>{NUMBER})"
FAULT_FREE = r"(?:(?<![\d.])(?P<fault_free>\d+\.\d\d) \| )?"  # training accuracy has one decimal
FORMS = [
    re.compile(form)
    for form in (
        rf"(?<![-\d.])(?P<mean>{NUMBER}) \({INTERVAL}"
        rf"(?:; sd (?P<sd>{NUMBER})(?:, worst (?P<worst>{NUMBER}))?)?\)",
        rf"{FAULT_FREE}(?P<mean>{NUMBER}) \({INTERVAL}\) \|"
        rf" (?P<sd>{NUMBER}) \| (?P<worst>{NUMBER})",
        rf"{FAULT_FREE}(?P<mean>{NUMBER}) \| {INTERVAL} \| (?P<sd>{NUMBER}) \|"
        rf"(?: (?P<q05>{NUMBER}) \|)? (?P<worst>{NUMBER})(?![\d.]| \()",
        rf"(?P<mean>{NUMBER}) \(sd (?P<sd>{NUMBER})\)",
    )
]
"""How a population is written, in one cell or in several."""

PAGES = {
    "README.md": (
        "| nothing (",
        "| six b",
        "| fifteen b",
        "| all ",
        "| 10% (",
        "| 20% (",
        "| 30% (",
    ),
    "docs/linear_bottlenecks.md": ("| tier ", "| plain, ", "| Drop-Connect, "),
    "docs/robust_training.md": (
        "| 10% (",
        "| 20% (",
        "| 30% (",
        "| batch normalization, as the study |",
        "| batch normalization, as the study (",
        "| none (",
        "| all convolutions, ",
        "| plain, all ",
        "| six b",
        "| fifteen b",
        "| three b",
        "| MobileNetV2, ",
        "| VGG13, ",
        "| centred inputs, last 8",
        "| the same, ",
        "| eight masks a batch, centred",
    ),
}
"""Page -> how the rows about panels begin."""


@pytest.fixture(scope="module")
def records():
    with open(ROOT / "docs" / "reproduction.csv", newline="") as file:
        return list(csv.DictReader(file))


def is_of(record, found):
    return all(
        record[name] and f"{100 * float(record[name]):.{len(text.partition('.')[2])}f}" == text
        for name, text in found.items()
        if text is not None
    )


def panels_of(row):
    """The panels that the row's first cell names, say "10% (2B)"."""
    return re.findall(r"\(((?:S1|[234])[A-F]|all|basic-\d+|1-[\w-]+)\)", row.split(" | ")[0])


@pytest.mark.parametrize("page", PAGES)
def test_each_mean_of_a_table_is_that_of_a_run(page, records):
    rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith(PAGES[page])]
    found = [
        (row, match.groupdict())
        for row in rows
        # The last cell of a row about a tier is a difference, not a mean.
        for form in FORMS
        for match in form.finditer(" | ".join(row.split(" | ")[: 3 if "| tier" in row else None]))
    ]
    assert len(found) >= 12
    assert {row for row, _ in found} == set(rows)
    strange = [
        (row, one)
        for row, one in found
        if not any(
            is_of(record, one)
            for record in records
            if not panels_of(row) or record["panel"] in panels_of(row)
        )
    ]
    assert not strange


@pytest.mark.parametrize("name", ["ranks_short", "ranks_epochs"])
def test_ranks_are_of_the_published_trainings(name, records):
    with open(ROOT / "docs" / "results" / "placement" / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    means = {
        (one["panel"], one["tier"]): float(one["mean"])
        for one in records
        if (one["protocol"], one["scale"], one["method"], one["seed"])
        == ("text", "short", "study", "0")
    }
    for row in rows:
        found = [float(row["chips"]), float(row["chips_repaired"])]
        assert found == pytest.approx([means[row["panel"], tier] for tier in "AB"]), row["panel"]
