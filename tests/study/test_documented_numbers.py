"""The tables that people wrote hold the numbers of the runs that they are about."""

import csv
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NUMBER = r"\d+\.\d+"
WITH_INTERVAL = re.compile(
    rf"(?<![-\d.])(?P<mean>{NUMBER}) \((?P<low>{NUMBER}) to (?P<high>{NUMBER})"
    rf"(?:; sd (?P<sd>{NUMBER})(?:, worst (?P<worst>{NUMBER}))?)?\)"
)
WITH_SPREAD = re.compile(rf"(?P<mean>{NUMBER}) \(sd (?P<sd>{NUMBER})\)")
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


@pytest.mark.parametrize("page", PAGES)
def test_each_mean_of_a_table_is_that_of_a_run(page, records):
    rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith(PAGES[page])]
    # The last cell of a row about a tier is a difference, not a mean.
    cells = [cell for row in rows for cell in row.split(" | ")[: 3 if " tier" in row else None]]
    found = [
        (cell, match.groupdict())
        for cell in cells
        for pattern in (WITH_INTERVAL, WITH_SPREAD)
        for match in pattern.finditer(cell)
    ]
    assert len(found) >= 12
    strange = [cell for cell, one in found if not any(is_of(record, one) for record in records)]
    assert not strange
