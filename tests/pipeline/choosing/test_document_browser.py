"""The page of a choice in a real Chromium, opened from disk: drawn, readable at every width, sealed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from pipeline.choosing.shown import choice_page
from tests.axe import axe_source
from tests.pipeline.choosing import records
from tests.pipeline.reporting.browser import find_overhang, look, open_all, wait_for_charts, wait_for_tables

pytestmark = pytest.mark.browser

WIDTHS = (320, 390, 768, 1280)
PAGES: dict[str, Callable[[], records.ChoiceRecord]] = {
    "few": records.within_margin,
    "many": records.many,
    "hostile": records.hostile,
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The addresses of the pages."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, make in PAGES.items():
        path: Path = folder / f"{name}.html"
        path.write_text(choice_page(make(), "data/runs/news"), encoding="utf-8")
        found[name] = path.as_uri()
    return found


def open_whole(browser: webdriver.Chrome, address: str, *, width: int = 1280, scheme: str = "light") -> None:
    """With everything unfolded."""
    look(browser, width=width, scheme=scheme)
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(address)
    wait_for_charts(browser)
    open_all(browser)
    wait_for_tables(browser)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off_at_any_width(
    chromium: webdriver.Chrome, pages: dict[str, str], name: str, width: int, scheme: str
) -> None:
    """Nothing runs over the side, no table has to be scrolled, no name over a bar leaves the picture."""
    open_whole(chromium, pages[name], width=width, scheme=scheme)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    assert find_overhang(chromium, width) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_barrier(
    chromium: webdriver.Chrome, pages: dict[str, str], name: str, width: int, scheme: str
) -> None:
    source = axe_source()
    open_whole(chromium, pages[name], width=width, scheme=scheme)
    chromium.execute_script(source)
    chromium.set_script_timeout(120)
    found = chromium.execute_async_script("axe.run(document).then(r => arguments[0](r.violations))")
    assert [(each["id"], each["nodes"][0]["html"], each["nodes"][0]["failureSummary"]) for each in found] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_bar_is_drawn_for_each_candidate_with_its_name_and_whole_numbers_below(
    chromium: webdriver.Chrome, pages: dict[str, str], name: str
) -> None:
    """A bar's length is its share of the longest; nothing is said on the console, no name is run as a script."""
    record = PAGES[name]()
    open_whole(chromium, pages[name])
    bars = chromium.find_elements(By.CSS_SELECTOR, "#items-scored svg .mark-rect.role-mark path")
    longest, widths = max(each.num_items for each in record.candidates), [bar.rect["width"] for bar in bars]
    drawn = sorted(round(longest * width / max(widths), -1) for width in widths[: len(record.candidates)])
    assert drawn == pytest.approx(sorted(each.num_items for each in record.candidates), abs=0.02 * longest)
    texts = chromium.find_elements(By.CSS_SELECTOR, "#items-scored svg .mark-text.role-mark text")
    assert len(texts) == len(record.candidates)
    labels = chromium.find_elements(By.CSS_SELECTOR, "#items-scored svg .role-axis-label text")
    numbers = [label.get_attribute("textContent") or "" for label in labels]
    assert len(numbers) > 2
    assert all(number.replace(",", "").isdigit() for number in numbers)
    assert chromium.get_log("browser") == []
    assert chromium.title != "taken over"


def test_what_leads_is_told_from_what_is_out_by_more_than_its_colour(
    chromium: webdriver.Chrome, pages: dict[str, str]
) -> None:
    """The table beside the picture names the rules that are in."""
    open_whole(chromium, pages["few"])
    rows = chromium.find_elements(By.CSS_SELECTOR, "details.data tbody tr")
    assert [row.text.split()[0] for row in rows] == ["prompt-1", "prompt-2", "prompt-3"]
    assert "sum, mean_token" in rows[0].text
    assert "\N{EN DASH}" in rows[1].text
