"""Tests of the report: what the page says, that it stands alone, and in a browser that it works."""

import base64
import dataclasses
import html.parser
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_rram import Chip, StuckAtZero
from keras_rram.evaluation import ChipResult, PopulationResult, evaluate_rates
from keras_rram.hardware import place
from keras_rram.plots.report import ReportRun, write_report
from keras_rram.plots.report.chips import Chips
from keras_rram.plots.report.page import headline
from keras_rram.plots.report.pixels import chip_pictures
from tests.classifiers import classifier, digits, right_answers

RATES = (0.1, 0.3)


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in turn; collects ids, links, and what would be loaded."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.loads = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.loads += [found[name] for name in ("src", "srcset", "data") if name in found]
        assert tag != "link" and not any(name.startswith("on") for name in found)

    def handle_startendtag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run():
    images, labels = digits(200)
    model = classifier()
    curve = evaluate_rates(model, StuckAtZero(0.1), RATES, (images, labels), 3, engine="keras")
    commands = lambda result, record: {"Replay it:": f"replay <{record.index}>"}  # noqa: E731
    return ReportRun(
        "mine", curve.results, Chips(model, labels, (), commands), {"command": "a & b"}, 0.5
    )


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, [run])
    return path


def test_it_stands_alone_and_links_lead_somewhere(page):
    text = page.read_text()
    found = Page(text)
    assert len(set(found.ids)) == len(found.ids)
    assert len(found.links) == 6 and {link[1:] for link in found.links} <= set(found.ids)
    assert all(source.startswith("data:image/png;base64,") for source in found.loads)
    addresses = set(re.findall(r"https?://[^\"' <)]+", text))
    assert all(re.match(r"http://www\.w3\.org/", one) for one in addresses)  # names, not loaded
    assert "@import" not in text and "fetch(" not in text and len(text) < 500_000
    assert text.count("<svg") == 4 == text.count('role="img"')
    assert "a &amp; b" in text and "replay &lt;2&gt;" in text


def test_what_it_says_of_a_chip_is_what_the_chip_does(run, page):
    text, (images, labels) = page.read_text(), digits(200)
    (part,) = re.findall(r'<details class="chip" id="r0-1-2">(.*?)</details>', text, re.DOTALL)
    right = right_answers(run.chips.model, Chip(StuckAtZero(0.3), 0, 2), images, labels)
    assert f"Chip 2 at 30% faults: accuracy {100 * right.mean():.2f}%</summary>" in part
    shares = [f"<td>{100 * right[labels == one].mean():.0f}</td>" for one in range(10)]
    assert "".join(shares) in part
    mask = Chip(StuckAtZero(0.3), 0, 2).faults(run.chips.model)["head/kernel"].mask
    assert f"<td>head</td><td>{mask.size:,}</td><td>{100 * (mask == 0).mean():.2f}</td>" in part
    # The picture of the head: its rows in tiles of 128, side by side with a gap of two pixels.
    found = re.findall(r'base64,([^"]*)" alt="tile map of head', part)
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(found[0]))).convert("RGB"))
    assert mask.shape == (648, 10) and picture.shape == (128, 6 * 10 + 5 * 2, 3)
    for tile in range(6):
        rows = mask[128 * tile : 128 * (tile + 1)]
        blue = (picture[: len(rows), 12 * tile : 12 * tile + 10] == (0, 114, 178)).all(-1)
        np.testing.assert_array_equal(blue, rows == 0)


def test_a_sentence_says_mean_interval_worst_and_yield(run):
    result = run.results[0]
    found, good = result.mean_interval(), result.yield_at(0.5).interval
    said = headline(result, 0.5)
    for words in (
        f"the mean accuracy of 3 chips is {100 * result.mean:.2f}%",
        f"{100 * found.low:.2f}% to {100 * found.high:.2f}%",
        f"worst chip has {100 * result.worst.accuracy:.2f}%",
        f"{good.estimate:.0%} of chips reach 0.5",
        f"Without faults it is {100 * result.fault_free:.2f}%",
        "stuck_at_zero:rate=0.1",
    ):
        assert words in said


def test_large_networks_get_blocks_of_cells():
    model, chip = classifier(), Chip(StuckAtZero(0.4), 1)
    png = chip_pictures(chip, model, place(model), block=4)["head/kernel"]
    picture = np.array(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert picture.shape == (32, 6 * 3 + 5 * 2, 3)
    mask = chip.faults(model)["head/kernel"].mask
    share = (mask[:128, :8].reshape(32, 4, 2, 4) == 0).mean((1, 3))
    shade = np.minimum(np.round(22 * share), 11) / 11
    np.testing.assert_allclose(picture[:, :2, 0], 221 * (1 - shade), atol=1)


def scores(name, values):
    chips = [ChipResult(k, 0.1, 0.1, None, 50, score=value) for k, value in enumerate(values)]
    faults = "stuck_at_zero:rate=0.1"
    return PopulationResult(
        "abc", "d", faults, 0.1, 0, "keras float32", 2.0, tuple(chips), name=name, measure="mse",
        higher_is_better=False,
    )  # fmt: skip


def test_two_runs_other_measures_and_what_is_missing(run, tmp_path):
    path = tmp_path / "both.html"
    write_report(path, [run, ReportRun("other", run.results)])
    text = path.read_text()
    assert len(set(Page(text).ids)) == len(Page(text).ids)
    assert "Side by side" in text and text.count("mine has +0.00 points more than other") == 2
    write_report(path, [ReportRun("a", [scores("x", [1.0, 2.5])]), run])
    text = path.read_text()
    Page(text)
    assert "not compared one by one" in text and "mean mse of 2 chips is 1.75" in text
    with pytest.raises(ValueError, match="one run or two"):
        write_report(path, [])
    with pytest.raises(ValueError, match="different names"):
        write_report(path, [run, run])


@pytest.fixture(scope="module")
def browser():
    """A browser of the machine, by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        known = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
        try:
            opened = started.chromium.launch(executable_path=known)
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error}".splitlines()[0])
        yield opened
        opened.close()


def test_sorts_filters_and_opens_chips_in_a_browser(browser, page, run, tmp_path):
    for width in (1280, 390):
        tab = browser.new_page(viewport={"width": width, "height": 800})
        problems: list[str] = []
        tab.on("pageerror", lambda error, found=problems: found.append(str(error)))
        tab.on("request", lambda request, found=problems: found.append(request.url))
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        values = "Array.from(document.querySelectorAll('table.sortable tbody tr:not([hidden])'))"
        column = f"{values}.map((row) => Number(row.cells[3].dataset.v))"
        expected = sorted(chip.accuracy for result in run.results for chip in result.chips)
        tab.get_by_role("button", name="accuracy %").press("Enter")  # by the keyboard
        np.testing.assert_allclose(tab.evaluate(column), expected)
        assert tab.locator("th[aria-sort=ascending]").inner_text().startswith("accuracy %")
        tab.get_by_role("button", name="accuracy %").click()
        np.testing.assert_allclose(tab.evaluate(column), expected[::-1])
        tab.locator(".filters select").select_option("30%")
        assert len(tab.evaluate(column)) == 3
        tab.get_by_label("Chip", exact=True).fill("2")
        assert tab.get_by_role("status").inner_text() == "1 of 6 chips"
        tab.locator("table.sortable a:visible").click()
        opened = tab.locator("details[open]")
        assert opened.get_attribute("id") == "r0-1-2"
        assert tab.evaluate("document.activeElement.tagName") == "SUMMARY"
        assert opened.locator("img").first.evaluate("image => image.naturalWidth > 0")
        shot = tmp_path / f"{width}.png"
        tab.screenshot(path=shot)
        assert np.ptp(np.array(Image.open(shot).convert("L"))) > 200
        assert [one for one in problems if not one.startswith(("file:", "data:"))] == []
        tab.close()


def test_is_readable_without_javascript(browser, page):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page.as_uri())
    assert not tab.locator(".filters").is_visible()
    tab.locator("details.chip summary").first.click()
    assert tab.locator("details[open] table").first.is_visible()
    context.close()


def test_chips_of_a_fault_model_without_a_name_have_to_be_given(run, tmp_path):
    """Its text says what it is, and cannot be read back."""
    results = [dataclasses.replace(one, fault_model="Flip()") for one in run.results]
    with pytest.raises(ValueError, match=r"Chips\(given=.*faults\.NAMES"):
        write_report(tmp_path / "report.html", [dataclasses.replace(run, results=results)])
    assert not list(tmp_path.iterdir())
